"""The text record of the device: one line of key=value pairs for each notification.

Sample::

    node=0 zone=Normal pressure=1 free_pages=123 high_pages=45 reserve_pages=0 reclaim_target_kb=512 reason=anon_scan time_ns=123456789 level=low

The server formats it and programs parse it, so both directions live here. The keys come in this order; a
reader accepts further keys after them, so that a later server can say more to an older program.
"""  # noqa: E501

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

LEVEL_LOW: Final = "low"
"""The kernel has begun to take anonymous pages."""
LEVEL_MEDIUM: Final = "medium"
"""Swap, or what is left without it, will be gone within seconds at the present rate."""
LEVEL_CRITICAL: Final = "critical"
"""The OOM killer is near."""
LEVELS: Final = (LEVEL_LOW, LEVEL_MEDIUM, LEVEL_CRITICAL)

MAX_SIMULATION_S: Final = 86_400.0
"""The longest simulation that a server takes."""

KEYS = (
    "node",
    "zone",
    "pressure",
    "free_pages",
    "high_pages",
    "reserve_pages",
    "reclaim_target_kb",
    "reason",
    "time_ns",
)

_LEVEL = "level"
_WORDS = frozenset({"zone", "reason"})
_WORD = re.compile(r"[!-<>-~]+", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,20}", re.ASCII)


class RecordError(ValueError):
    """A line that is not a record. The message names the key that is missing, misplaced or malformed.

    ``key`` is that key; it is empty when the line as a whole cannot be read (not ASCII, or cut short).
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key


@dataclass(frozen=True, slots=True)
class Record:
    """One notification about one zone.

    ``node`` is the NUMA node's number and ``zone`` the name of the zone on it, as in /proc/zoneinfo.
    ``pressure`` is 1 for a zone under pressure. ``free_pages`` is what was free then, ``high_pages`` the
    high watermark and ``reserve_pages`` the largest lowmem reserve, all in pages. ``reclaim_target_kb`` is
    how much (KiB) would have to be freed to clear the zone. ``reason`` says which evidence raised it.
    ``time_ns`` is CLOCK_MONOTONIC, comparable with :func:`time.monotonic_ns`. ``level`` says what comes next: ``low``,
    ``medium`` or ``critical``; a server that does not say is taken for ``low``.
    """

    node: int
    zone: str
    pressure: int
    free_pages: int
    high_pages: int
    reserve_pages: int
    reclaim_target_kb: int
    reason: str
    time_ns: int
    level: str = LEVEL_LOW

    def format(self) -> bytes:
        """Return the line for the device, newline included.

        Raises RecordError if ``zone`` or ``reason`` could not be read back: empty, or with blanks, ``=`` or
        anything outside printable ASCII.
        """
        for key, word in (("zone", self.zone), ("reason", self.reason), ("level", self.level)):
            if not _WORD.fullmatch(word):
                raise RecordError(key, f"{word!r} is not one printable ASCII word without '='")
        return (" ".join(f"{key}={getattr(self, key)}" for key in (*KEYS, _LEVEL)) + "\n").encode("ascii")

    @classmethod
    def parse(cls, line: bytes | str) -> Record:
        """Return the record in ``line``, with or without its newline.

        Further keys after ``time_ns`` are accepted and ignored. Raises RecordError, naming the key, for anything else
        that is not a record.
        """
        if isinstance(line, bytes):
            try:
                line = line.decode("ascii")
            except UnicodeDecodeError as error:
                raise RecordError("", f"not ASCII text at byte {error.start}") from None
        text = line.removesuffix("\n")
        if not text.isascii() or not text.isprintable():
            raise RecordError("", "not one line of printable ASCII text")
        pairs = text.split(" ")
        for key, pair in zip(KEYS, pairs, strict=False):
            _check(key, pair)
        if len(pairs) < len(KEYS):
            raise RecordError(KEYS[len(pairs)], "missing at the end of the line")
        level = LEVEL_LOW
        for pair in pairs[len(KEYS) :]:
            name, equals, word = pair.partition("=")
            if not name or not equals:
                raise RecordError(name, f"{pair!r} is not key=value")
            if name == _LEVEL:
                if word not in LEVELS:
                    raise RecordError(_LEVEL, f"{word!r} is none of {', '.join(LEVELS)}")
                level = word
        value = dict(pair.split("=", 1) for pair in pairs[: len(KEYS)])
        return cls(
            node=int(value["node"]),
            zone=value["zone"],
            pressure=int(value["pressure"]),
            free_pages=int(value["free_pages"]),
            high_pages=int(value["high_pages"]),
            reserve_pages=int(value["reserve_pages"]),
            reclaim_target_kb=int(value["reclaim_target_kb"]),
            reason=value["reason"],
            time_ns=int(value["time_ns"]),
            level=level,
        )


def _check(key: str, pair: str) -> None:
    """Raise RecordError unless ``pair`` is a well-formed ``key=value``."""
    name, equals, value = pair.partition("=")
    if not equals or name != key:
        raise RecordError(key, f"expected here, found {pair!r}")
    if key in _WORDS:
        if not _WORD.fullmatch(value):
            raise RecordError(key, f"{value!r} is not one word")
    elif not _NUMBER.fullmatch(value):
        raise RecordError(key, f"{value!r} is not a number")
