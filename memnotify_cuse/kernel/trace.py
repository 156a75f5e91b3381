"""The vmscan lines of tracefs' trace_pipe: when and for whom the kernel reclaims.

             kswapd0-52      [000] d..1.  1234.567890: mm_vmscan_kswapd_wake: nid=0 order=0
       my program-4711    [001] .....  1234.568001: mm_vmscan_direct_reclaim_begin: order=0 gfp_flags=...
             kswapd0-52      [000] d..2.  1234.568123: mm_vmscan_lru_shrink_active: nid=0 nr_taken=32
                 nr_active=0 nr_deactivated=32 nr_referenced=0 priority=12 flags=RECLAIM_WB_ANON|...
    CPU:0 [LOST 123 EVENTS]

(The third is one line.) Kernel source: kernel/trace/trace_output.c, trace_print_context(), and
include/trace/events/vmscan.h. The command name stands right-aligned in the first 16 bytes of the line, then
comes '-'. It is at most 15 bytes long and can be anything, so it is cut off by position and never searched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memnotify_cuse.kernel.errors import MalformedKernelFileError

KSWAPD_WAKE = "mm_vmscan_kswapd_wake"
DIRECT_RECLAIM_BEGIN = "mm_vmscan_direct_reclaim_begin"
LRU_SHRINK_ACTIVE = "mm_vmscan_lru_shrink_active"
LRU_SHRINK_INACTIVE = "mm_vmscan_lru_shrink_inactive"
KNOWN_EVENTS = (KSWAPD_WAKE, DIRECT_RECLAIM_BEGIN, LRU_SHRINK_ACTIVE, LRU_SHRINK_INACTIVE)

_PATH = "trace_pipe"
_COMM_BYTES = 16
_MAX_REMAINDER_BYTES = 8192
# The thread group and the flags are there or not, depending on the options record-tgid and irq-info. Other
# trace clocks than the default count in something else than seconds; then the number has no point.
_CONTEXT = re.compile(
    rb"-([0-9]{1,10}) +(?:\([ 0-9-]{7,10}\) )?\[([0-9]{3,6})\] +"
    rb"(?:[^ :]{4,5} +)?([0-9]{1,20})(?:\.([0-9]{6}))?: ([A-Za-z0-9_]+): (.*)",
    re.DOTALL,
)
# A line feed in a command name cuts its line in two, and the name's end is no longer 16 bytes wide.
_CONTEXT_AFTER_LINE_FEED = re.compile(rb"(.{0,14}?)(" + _CONTEXT.pattern + rb")", re.DOTALL)
_LOST = re.compile(rb"CPU:[0-9]+ \[LOST (?:([0-9]{1,20}) )?EVENTS\]")
_KNOWN = frozenset(name.encode() for name in KNOWN_EVENTS)


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One vmscan event.

    `time_ns` is in the clock of the trace instance, at microsecond resolution; None when that clock does not
    count seconds. `scanned_pages` is nr_scanned of an inactive list and nr_taken of an active one;
    `deactivated_pages` is nr_deactivated of an active one. `anon`: the list holds anonymous pages. What an
    event does not have is None.
    """

    comm: str
    pid: int
    time_ns: int | None
    name: str
    node: int | None
    scanned_pages: int | None
    deactivated_pages: int | None
    anon: bool

    @property
    def kswapd(self) -> bool:
        """Background reclaim, as far as the name tells: any program can take one like it."""
        return self.comm.startswith("kswapd")


@dataclass(frozen=True, slots=True)
class LostEvents:
    """The ring buffer overflowed: at least `count` events of one CPU were overwritten."""

    count: int


def parse_trace(data: bytes | str) -> tuple[list[TraceEvent], int]:
    """Parse whole lines; return the events and the number of lost ones. Raises MalformedKernelFileError."""
    parser = TraceParser()
    events = parser.feed(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
    events += parser.feed(b"\n")
    return events, parser.lost_events


def parse_line(line: bytes, path: str = _PATH, line_number: int = 0) -> TraceEvent | LostEvents | None:
    """Parse one line without its end; None for a line that is not one of `KNOWN_EVENTS`.

    Raises MalformedKernelFileError for a known event whose fields are not as the kernel writes them.
    """
    comm = line[:_COMM_BYTES]
    match = _CONTEXT.fullmatch(line, _COMM_BYTES) if len(line) > _COMM_BYTES else None
    if match is None:
        lost = _LOST.fullmatch(line)
        if lost is not None:
            return LostEvents(int(lost[1]) if lost[1] else 1)
        tail = _CONTEXT_AFTER_LINE_FEED.fullmatch(line)
        if tail is None:
            return None
        comm = tail[1]
        match = _CONTEXT.fullmatch(tail[2])
    if match is None or match[5] not in _KNOWN:
        return None
    pid, _cpu, seconds, microseconds, name, payload = match.groups()
    fields = dict(_field(word, path, line_number) for word in payload.split(b" ") if word)
    event = name.decode("ascii")
    shrink = event in (LRU_SHRINK_ACTIVE, LRU_SHRINK_INACTIVE)
    scanned_key = {LRU_SHRINK_ACTIVE: b"nr_taken", LRU_SHRINK_INACTIVE: b"nr_scanned"}.get(event)

    def number(key: bytes) -> int:
        value = fields.get(key)
        if value is None:
            raise MalformedKernelFileError(path, line_number, f"{event} without {key.decode()}=")
        if not value.isdigit() or len(value) > 20:
            raise MalformedKernelFileError(path, line_number, f"{event}: {key.decode()} is no number: {value[:40]!r}")
        return int(value)

    if shrink and b"flags" not in fields:
        raise MalformedKernelFileError(path, line_number, f"{event} without flags=")
    return TraceEvent(
        comm=comm.lstrip(b" ").decode("utf-8", "surrogateescape"),
        pid=int(pid),
        time_ns=None if microseconds is None else int(seconds) * 1_000_000_000 + int(microseconds) * 1_000,
        name=event,
        node=None if event == DIRECT_RECLAIM_BEGIN else number(b"nid"),
        scanned_pages=None if scanned_key is None else number(scanned_key),
        deactivated_pages=number(b"nr_deactivated") if event == LRU_SHRINK_ACTIVE else None,
        anon=shrink and b"RECLAIM_WB_ANON" in fields[b"flags"].split(b"|"),
    )


def _field(word: bytes, path: str, line_number: int) -> tuple[bytes, bytes]:
    key, equals, value = word.partition(b"=")
    if not equals:
        raise MalformedKernelFileError(path, line_number, f"expected key=value, got {word[:40]!r}")
    return key, value


class TraceParser:
    """Parses trace_pipe as it arrives, in pieces that may end anywhere.

    `lost_events` counts what the kernel reported as lost and the lines too long to keep. After an error the
    parser can be used on: `feed()` drops the malformed line, and its next call returns the events around it.
    """

    def __init__(self, path: str = _PATH) -> None:
        self.lost_events = 0
        self._path = path
        self._line_number = 0
        self._remainder = b""
        self._skipping = False
        self._events: list[TraceEvent] = []

    def feed(self, data: bytes) -> list[TraceEvent]:
        """The events of the lines that `data` completes. Raises MalformedKernelFileError for a bad one."""
        lines = (self._remainder + data).split(b"\n")
        self._remainder = lines.pop()
        first_error: MalformedKernelFileError | None = None
        for line in lines:
            self._line_number += 1
            if self._skipping:
                self._skipping = False
                continue
            try:
                found = parse_line(line, self._path, self._line_number)
            except MalformedKernelFileError as error:
                first_error = first_error or error
                continue
            if isinstance(found, LostEvents):
                self.lost_events += found.count
            elif found is not None:
                self._events.append(found)
        if len(self._remainder) > _MAX_REMAINDER_BYTES:
            self.lost_events += not self._skipping
            self._skipping = True
        if self._skipping:
            self._remainder = b""
        if first_error is not None:
            raise first_error
        events, self._events = self._events, []
        return events
