"""Which of the scanner's sources fail just now, and why: kept for `status`, and logged when it begins and ends.

A failure is over when the source has worked for `SETTLED_S`: one that comes and goes is one failure, and two lines in
the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

log = logging.getLogger(__name__)

SETTLED_S: Final = 2.0
LOST_EVENTS_SETTLED_S: Final = 10.0

TRACE: Final = "trace"
TRACE_EVENTS: Final = "trace-events"
PSI: Final = "psi"
ZONEINFO: Final = "zoneinfo"
VMSTAT: Final = "vmstat"
MEMINFO: Final = "meminfo"
SWAPS: Final = "swaps"
LRU_GEN: Final = "lru_gen"
ARC: Final = "arcstats"
TIERS: Final = "tiers"
FILES: Final = "files"
SCANNER: Final = "scanner"

_DEAF: Final = frozenset({ZONEINFO, SCANNER})
"""Nothing stands in for these."""

_MEANWHILE: Final = {
    TRACE: "woken by a PSI trigger or a timer meanwhile",
    TRACE_EVENTS: "going by the counters meanwhile",
    PSI: "woken by a timer meanwhile",
    VMSTAT: "going by zoneinfo alone meanwhile",
    MEMINFO: "swap is taken as it was meanwhile",
    SWAPS: "free swap is taken as it is meanwhile",
    FILES: "what is open of it is read on meanwhile",
    LRU_GEN: "the kind of LRU is taken as it was meanwhile",
    ARC: "what ZFS holds is taken as it was meanwhile",
    TIERS: "the tiers of memory are taken as they were meanwhile",
}


class Level(Enum):
    """`DEGRADED`: something stands in for what fails. `FAILING`: nothing can, and no program is told of pressure."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Failure:
    """A source that fails, since when (`since_s` on the clock of `Health`), and why at present."""

    source: str
    reason: str
    since_s: float


@dataclass(slots=True)
class _Entry:
    reason: str
    since_s: float
    settled_s: float
    well_since_s: float | None = None


class Health:
    """The failing sources. `on_change` is called when one begins or ceases to fail."""

    def __init__(
        self, clock_s: Callable[[], float] = time.monotonic, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.on_change = on_change
        self._clock_s = clock_s
        self._entries: dict[str, _Entry] = {}

    @property
    def level(self) -> Level:
        """The worst of all."""
        if any(source in _DEAF and entry.well_since_s is None for source, entry in self._entries.items()):
            return Level.FAILING
        return Level.DEGRADED if self._entries else Level.OK

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What fails, or did a moment ago, in the order in which it began."""
        return tuple(Failure(source, entry.reason, entry.since_s) for source, entry in self._entries.items())

    @property
    def is_settling(self) -> bool:
        """Whether something works again, and is to be looked at once more before that is believed."""
        return any(entry.well_since_s is not None for entry in self._entries.values())

    def age_s(self, failure: Failure) -> float:
        """How long it has lasted."""
        return self._clock_s() - failure.since_s

    def failed(self, source: str, reason: object, *, quiet: bool = False, settled_s: float = SETTLED_S) -> None:
        """`source` does not work; logged the first time, unless `quiet`, because it was logged elsewhere."""
        entry = self._entries.get(source)
        if entry is not None:
            entry.reason, entry.well_since_s = str(reason), None
            return
        self._entries[source] = _Entry(str(reason), self._clock_s(), settled_s)
        if not quiet and source in _DEAF:
            log.error("cannot scan: %s", reason)
        elif not quiet:
            log.warning("%s: %s; %s", source, reason, _MEANWHILE[source])
        self.on_change()

    def worked(self, source: str) -> None:
        """`source` works; if it failed, that is over, and logged, once it has worked for a while."""
        entry = self._entries.get(source)
        if entry is None:
            return
        now_s = self._clock_s()
        if entry.well_since_s is None:
            entry.well_since_s = now_s
            self.on_change()
        elif now_s - entry.well_since_s >= entry.settled_s:
            del self._entries[source]
            words = "scanning again" if source in _DEAF else f"{source}: works again"
            log.warning("%s, after %.1f s (%s)", words, entry.well_since_s - entry.since_s, entry.reason)
            self.on_change()
