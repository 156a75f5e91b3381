"""Mode `strict`: which open files have O_ASYNC set, learned from every F_SETFL on the machine.

          python-22268   [001] .....  4780.737758: sys_fcntl(fd: 4, cmd: 4, arg: 0x2800)

The kernel tells no server when O_ASYNC is set on a FUSE file, and does not keep it either. The trace event
syscalls:sys_enter_fcntl, filtered to F_SETFL, shows who asks for it. While any syscall event is enabled, every system
call of every program takes a slower path (measured: 170 → 212 ns), which is why this is not the default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, NamedTuple

import trio

from memnotify_cuse.kernel.tracefs import TracePipe

MAX_DESCRIPTORS: Final = 64
MAX_THREADS: Final = 1024
"""How many descriptors of a thread, and how many threads, may wait to be looked into."""

_LONGEST_LINE_BYTES: Final = 512

Look = Callable[[int, int, int], Awaitable[tuple[int | None, int]]]
"""Takes a user, a thread and a descriptor; gives the number of the open file, if it is one, and the thread's user."""

# The command name fills the first 16 bytes and can be anything, so it is cut off by position.
_COMM_BYTES: Final = 16
_LINE: Final = re.compile(
    rb"-([0-9]{1,10}) .*: sys_fcntl\(fd: (?:0x)?([0-9a-f]{1,16}), cmd: (?:0x)?4, arg: (?:0x)?([0-9a-f]{1,16})\)"
)
# A line of the kernel's own. A program's name is in other lines, and too short to hold this.
_LOST: Final = re.compile(rb"^CPU:[0-9]+ \[LOST (?:[0-9]+ )?EVENTS\]$", re.MULTILINE)


MAX_DESCRIPTOR: Final = 2**31 - 1


class SetFlags(NamedTuple):
    """Thread `tid` asked for the file status flags `flags` on its `descriptor`."""

    tid: int
    descriptor: int
    flags: int


def parse_set_flags(data: bytes) -> Iterator[SetFlags]:
    """The requests in whole lines of trace_pipe; lines that are something else are skipped."""
    for line in data.split(b"\n"):
        match = _LINE.fullmatch(line, _COMM_BYTES) if len(line) > _COMM_BYTES else None
        # A call may name any number; what is none of a descriptor fails, and sets nothing.
        if match is not None and (descriptor := int(match[2], 16)) <= MAX_DESCRIPTOR:
            yield SetFlags(int(match[1]), descriptor, int(match[3], 16))


class AsyncFlags:
    """Follows O_ASYNC of our open files, by the calls that `trace` shows.

    Calls that come faster than they can be looked into are dropped, by thread first. From then on a file of which
    nothing is known may have O_ASYNC set: it is taken to have it if it has an owner, as in mode `owner`.
    """

    def __init__(self, trace: TracePipe) -> None:
        self._trace = trace
        self._rest = b""
        self._set: set[int] = set()
        self._cleared: set[int] = set()
        self._asked: dict[int, dict[int, int]] = {}
        self._user_of: dict[int, int] = {}
        self._lost = False
        self._under_way: set[int] = set()
        self._settled = trio.Event()

    def fileno(self) -> int:
        return self._trace.fileno()

    def may_be_set(self, number: int) -> bool:
        """Whether O_ASYNC was last set on open file `number`, and not cleared, as far as is known."""
        return number in self._set or (self._lost and number not in self._cleared)

    def assume_lost(self) -> None:
        """Calls were made that are not known: to a server before this one."""
        self._lost = True

    def is_guess(self, number: int) -> bool:
        """Whether O_ASYNC was not seen to be set."""
        return number not in self._set

    def read(self) -> None:
        """Take in what was asked for since the last time, one buffer full at most. Of a descriptor the last call
        counts.
        """
        lines = (self._rest + self._trace.read()).split(b"\n")
        self._rest = lines.pop()[-_LONGEST_LINE_BYTES:]
        text = b"\n".join(lines)
        if _LOST.search(text):
            self._lost = True
        for request in parse_set_flags(text):
            descriptors = self._asked.setdefault(request.tid, {})
            descriptors.pop(request.descriptor, None)
            descriptors[request.descriptor] = request.flags
            if len(descriptors) > MAX_DESCRIPTORS:
                del descriptors[next(iter(descriptors))]
                self._lost = True
        while len(self._asked) > MAX_THREADS:
            del self._asked[next(iter(self._asked))]
            self._lost = True

    async def identify(self, look: Look) -> None:
        """Find out with `look` which open files were meant by what was read: threads that are under way go on."""
        async with trio.open_nursery() as nursery:
            for tid in [tid for tid in self._asked if tid not in self._under_way]:
                self._under_way.add(tid)
                nursery.start_soon(self._identify_of, look, tid)

    async def identified(self, user: int | None = None) -> None:
        """Return once all is found out that was asked for; with `user`, by its threads and those of no known user."""
        while any(user is None or self._user_of.get(tid, user) == user for tid in (*self._asked, *self._under_way)):
            await self._settled.wait()

    async def _identify_of(self, look: Look, tid: int) -> None:
        try:
            while descriptors := self._asked.pop(tid, None):
                for descriptor, flags in descriptors.items():
                    # A thread of which no user is known has turns of its own.
                    number, uid = await look(self._user_of.get(tid, -tid), tid, descriptor)
                    if len(self._user_of) > MAX_THREADS:
                        self._user_of.clear()
                    self._user_of[tid] = uid
                    self._note(number, flags)
        finally:
            self._under_way.discard(tid)
            settled, self._settled = self._settled, trio.Event()
            settled.set()

    def _note(self, number: int | None, flags: int) -> None:
        if number is not None:
            now, before = (self._set, self._cleared) if flags & os.O_ASYNC else (self._cleared, self._set)
            now.add(number)
            before.discard(number)

    def forget_all_but(self, numbers: set[int]) -> None:
        """Drop what is known of files that are closed."""
        self._set &= numbers
        self._cleared &= numbers
