"""Mode `strict`: which open files have O_ASYNC set, learned from every F_SETFL on the machine.

          python-22268   [001] .....  4780.737758: sys_fcntl(fd: 4, cmd: 4, arg: 0x2800)

The kernel tells nobody when O_ASYNC is set on a FUSE file, and does not keep it either. The trace event
syscalls:sys_enter_fcntl, filtered to F_SETFL, shows who asks for it. While any syscall event is enabled, every system
call of every program takes a slower path (measured: 170 → 212 ns), which is why this is not the default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from memnotify_cuse.fasync.locate import Locator
from memnotify_cuse.kernel.tracefs import TraceInstance

EVENT: Final = "syscalls/sys_enter_fcntl"
F_SETFL: Final = 4

# The command name fills the first 16 bytes and can be anything, so it is cut off by position.
_COMM_BYTES: Final = 16
_LINE: Final = re.compile(
    rb"-([0-9]{1,10}) .*: sys_fcntl\(fd: (?:0x)?([0-9a-f]{1,16}), cmd: (?:0x)?4, arg: (?:0x)?([0-9a-f]{1,16})\)"
)


class SetFlags(NamedTuple):
    """Thread `tid` asked for the file status flags `flags` on its `descriptor`."""

    tid: int
    descriptor: int
    flags: int


def parse_set_flags(data: bytes) -> Iterator[SetFlags]:
    """The requests in whole lines of trace_pipe; lines that are something else are skipped."""
    for line in data.split(b"\n"):
        match = _LINE.fullmatch(line, _COMM_BYTES) if len(line) > _COMM_BYTES else None
        if match is not None:
            yield SetFlags(int(match[1]), int(match[2], 16), int(match[3], 16))


class AsyncFlags:
    """Follows O_ASYNC of our open files. `update` is for the worker thread."""

    def __init__(self, tracefs: Path, locator: Locator) -> None:
        filters = {EVENT: f"cmd == {F_SETFL}"}
        self._instance = TraceInstance.create(tracefs, f"memnotify-fcntl-{os.getpid()}", filters)
        self._locator = locator
        self._rest = b""
        self._armed: set[int] = set()

    def fileno(self) -> int:
        return self._instance.fileno()

    def is_set(self, number: int) -> bool:
        """Whether O_ASYNC was last set on open file `number`, and not cleared."""
        return number in self._armed

    def update(self) -> bool:
        """Take in what was asked for since the last time; True if it concerned a file of ours."""
        changed = False
        while data := self._instance.read():
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop()
            for request in parse_set_flags(b"\n".join(lines)):
                changed |= self._take(request)
        return changed

    def forget_all_but(self, numbers: set[int]) -> None:
        """Drop what is known of files that are closed."""
        self._armed &= numbers

    def close(self) -> None:
        self._instance.close()

    def _take(self, request: SetFlags) -> bool:
        pid = self._locator.tgid_of(request.tid)
        number = self._locator.place_in(pid, request.descriptor) if pid is not None else None
        if number is None:
            return False
        if request.flags & os.O_ASYNC:
            self._armed.add(number)
        else:
            self._armed.discard(number)
        return True
