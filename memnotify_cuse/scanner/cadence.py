"""How long to sleep between samples: almost for ever at rest, 20 to 50 ms while the kernel reclaims.

Pure: times in nanoseconds come in, a delay in seconds goes out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from memnotify_cuse.kernel.zoneinfo import Zone
from memnotify_cuse.scanner.evidence import clear_pages
from memnotify_cuse.scanner.outlook import Outlook

FASTEST_FILL_KB_PER_S: Final = 8 * 1024 * 1024
"""No program is known to fault in fresh memory faster: 8 GiB/s, twice what clearing pages takes on a fast machine.
`fillrate` measures what this machine can do."""

RAISED_S: Final = 0.05
WATCHFUL_S: Final = 0.02
LONGEST_REST_S: Final = 5.0
SHORTEST_REST_S: Final = 0.05
DOORBELL_REST_S: Final = 2.0
SETTLE_NS: Final = 500_000_000
"""kswapd is taken to sleep when nothing was scanned for so long."""

LINGER_NS: Final = 5_000_000_000
LINGER_S: Final = 0.25
"""A zone may stay short of free pages for hours after reclaim has ended (page cache fills memory up to the
watermarks). The doorbell rings when reclaim starts again; to see the zone clear, this often is enough."""


@dataclass(slots=True)
class Cadence:
    """Decides on the next delay. `doorbell`: something wakes the scanner when reclaim starts.

    `fill_kb_per_s` is how fast programs can take memory on this machine.
    """

    doorbell: bool
    page_kb: int
    fill_kb_per_s: int = FASTEST_FILL_KB_PER_S
    _last_scan_ns: int | None = None
    _last_decline_ns: int | None = None

    def next_delay_s(
        self,
        *,
        now_ns: int,
        reclaiming: bool,
        raised: bool,
        zones: tuple[Zone, ...],
        outlooks: Collection[Outlook] = (),
    ) -> float:
        """The longest time until the next sample."""
        if reclaiming:
            self._last_scan_ns = now_ns
        if any(outlook.declining for outlook in outlooks):
            self._last_decline_ns = now_ns
        if self.is_active(now_ns):
            return RAISED_S if raised else WATCHFUL_S
        if raised:
            quiet_ns = now_ns - self._last_scan_ns if self._last_scan_ns is not None else LINGER_NS
            return LINGER_S if self.doorbell and quiet_ns >= LINGER_NS else RAISED_S
        return min(self._rest_s(zones), self._until_exhausted_s(now_ns, outlooks))

    def is_active(self, now_ns: int) -> bool:
        """Whether the kernel is reclaiming, or was a moment ago."""
        return self._last_scan_ns is not None and now_ns - self._last_scan_ns < SETTLE_NS

    def rang(self, now_ns: int) -> None:
        """The doorbell rang: reclaim has started, or is about to."""
        self._last_scan_ns = now_ns

    def _rest_s(self, zones: tuple[Zone, ...]) -> float:
        """How long the memory above the thresholds lasts at the fastest possible fill rate."""
        spare_kb = sum(max(0, zone.free_pages - clear_pages(zone)) for zone in zones) * self.page_kb
        lasts_s = spare_kb / self.fill_kb_per_s
        shortest_s = DOORBELL_REST_S if self.doorbell else SHORTEST_REST_S
        return min(max(lasts_s, shortest_s), LONGEST_REST_S)

    def _until_exhausted_s(self, now_ns: int, outlooks: Collection[Outlook]) -> float:
        """Half the time in which a node could be exhausted: without page cache, no reclaim rings before that.

        Where nothing has been taken for a while, a machine that is small, or full, is left some peace.
        """
        spare_pages = min((each.left_pages - each.headroom_pages for each in outlooks), default=None)
        if spare_pages is None:
            return LONGEST_REST_S
        quiet = self._last_decline_ns is None or now_ns - self._last_decline_ns >= LINGER_NS
        return max(spare_pages * self.page_kb / self.fill_kb_per_s / 2, LINGER_S if quiet else WATCHFUL_S)
