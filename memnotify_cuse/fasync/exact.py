"""Mode `auto`: what programs did to our open files with fcntl, learned from kprobe events (`kernel.kprobes`).

An event has the kernel's pointer of an open file. Whose it is, a helper shows: through a duplicate of a client's
descriptor it makes a call that changes nothing, with a number that no program can guess (`mark`). That call is in the
trace too, with the pointer. From then on events are matched by pointer.

A pointer is used again for another file once a file is closed. A call counts for a file only if it was made after its
open, which the server sees: no program can call fcntl before open() has returned.

    opened ──F_SETFL with O_ASYNC──▶ set ──F_SETFL without──▶ cleared ──F_SETFL with──▶ set
                                      └──calls were lost──▶ as opened ◀──┘

What a helper has read of a file's owner holds until a call of F_SETOWN, F_SETOWN_EX or F_SETSIG, or calls are lost.
Pure, but for reading the trace; times are those of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from memnotify_cuse.fasync.jobs import MARK_COUNT, MARK_FIRST, KnownOwner, Report
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.kprobes import F_SETFL, F_SETOWN_EX, FileCall, parse_file_calls
from memnotify_cuse.kernel.tracefs import TracePipe

log = logging.getLogger(__name__)

MAX_STRANGERS: Final = 4096
"""Pointers of files that are not known to be ours of which calls are remembered."""

READ_BYTES: Final = 128 * 1024
"""How much of the trace is read at once: what is left has the server treat everything as not known."""

CHECK_S: Final = 5.0
"""How often it is seen whether the trace is still on."""

_LONGEST_LINE_BYTES: Final = 512
_MICROSECOND_NS: Final = 1_000


@dataclass(slots=True)
class _Calls:
    """Of a pointer: whether O_ASYNC was set by the last F_SETFL, when it was last set, and when these were last called:
    F_SETFL, and those that change owner or signal.
    """

    is_set: bool = False
    set_ns: int = 0
    flags_ns: int = 0
    owner_ns: int = 0


@dataclass(slots=True)
class _File:
    """An open file. `pointer` is None until it was marked. Whether it is `owned`, and by which process if that can be
    signalled without another look (`owner`), was read after `read_ns`.
    """

    opened_ns: int
    pointer: int | None = None
    owned: bool = False
    owner: KnownOwner | None = None
    read_ns: int = 0


class FileCalls:
    """Follows the calls that `trace` shows, for open files by number. `is_open` is asked which are open."""

    def __init__(
        self, trace: TracePipe, is_open: Callable[[int], bool], clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._trace = trace
        self._is_open = is_open
        self._clock_ns = clock_ns
        self._rest = b""
        self._files: dict[int, _File] = {}
        self._numbers: dict[int, int] = {}
        self._calls: dict[int, _Calls] = {}
        self._bases: set[int] = set()
        self._marked: dict[int, tuple[int, int]] = {}
        self._changed: set[int] = set()
        self._lost_ns = 0
        self._checked_ns = clock_ns()
        self._ended = False
        self.calls = 0
        """How many were read."""
        self.losses = 0
        """How often calls were found to be missing."""

    def fileno(self) -> int:
        return self._trace.fileno()

    @property
    def works(self) -> bool:
        return not self._ended

    # What is known of a file.

    def opened(self, number: int) -> None:
        """File `number` is about to be opened, or was by an earlier server: what it did then is not known."""
        # As coarse as the trace's clock is.
        now_ns = self._clock_ns()
        self._files[number] = _File(now_ns - now_ns % _MICROSECOND_NS)

    def is_set(self, number: int) -> bool:
        """Whether O_ASYNC was seen to be set on a file, and not to be cleared."""
        calls = self._setting(number)
        return calls is not None and calls.is_set

    def is_cleared(self, number: int) -> bool:
        """Whether O_ASYNC was seen to be set on a file, and then to be cleared."""
        calls = self._setting(number)
        return calls is not None and not calls.is_set

    def is_owned(self, number: int) -> bool | None:
        """Whether a file has an owner, None if that is not known."""
        file = self._files.get(number)
        return file.owned if file is not None and self._is_current(file) else None

    def owner(self, number: int) -> KnownOwner | None:
        """The process that is a file's owner, None if another look has to tell."""
        file = self._files.get(number)
        return file.owner if file is not None and self._is_current(file) else None

    def owner_changed(self, number: int) -> bool:
        """Whether a call has changed a file's owner, or its signal, since that was read."""
        file = self._files.get(number)
        calls = self._calls.get(file.pointer) if file is not None and file.pointer is not None else None
        return file is not None and calls is not None and calls.owner_ns >= file.read_ns

    def take_changed(self) -> list[int]:
        """The numbers of files that calls were made for since the last time."""
        changed, self._changed = self._changed, set()
        return list(changed)

    def assume_lost(self) -> None:
        """Calls were made that are not known: to a server before this one."""
        self._lose(self._clock_ns())

    # Marks.

    def new_mark(self) -> int:
        """The first of the numbers that a helper marks the files with that it finds in one job."""
        base = MARK_FIRST | secrets.randbits(55) & ~(MARK_COUNT - 1)
        self._bases.add(base)
        return base

    def end_marks(self, bases: Iterable[int]) -> None:
        """The jobs with these marks are over."""
        self._bases.difference_update(bases)
        self._marked = {mark: each for mark, each in self._marked.items() if _base_of(mark) in self._bases}

    def found(self, report: Report) -> None:
        """A helper has found an open file, and marked it; what it read of the owner it has read after that."""
        marked = self._marked.pop(report.mark, None)
        file = self._files.get(report.number)
        if file is None or not self._is_open(report.number):
            return
        if marked is None:
            # Overwritten before it was read, or nothing is traced any more.
            self._lose(self._clock_ns())
            return
        pointer, at_ns = marked
        if file.pointer != pointer:
            before = self._numbers.get(pointer)
            if before is not None and before in self._files:
                self._files[before].pointer = None
            if file.pointer is not None and self._numbers.get(file.pointer) == report.number:
                del self._numbers[file.pointer]
            file.pointer = pointer
            self._numbers[pointer] = report.number
            self._changed.add(report.number)
        if at_ns >= file.read_ns:
            file.owned, file.owner, file.read_ns = report.owned, report.known_owner, at_ns

    def owner_is_gone(self, number: int, owner: KnownOwner) -> None:
        """The owner that was known has ended: there is none, until another one is set."""
        file = self._files.get(number)
        if file is not None and file.owner == owner:
            file.owned, file.owner = False, None

    # The trace.

    def read(self) -> None:
        """Take in what was called since the last time. Never waits, and never fails: then nothing is known."""
        if self._ended:
            return
        read_bytes = 0
        try:
            while data := self._trace.read():
                self._take_in(data)
                read_bytes += len(data)
                if read_bytes > READ_BYTES:
                    self._lose(self._clock_ns())
                    break
            self._check()
        except KernelFileError as error:
            log.error("SIGIO by owner alone from now on: %s", error)
            self._ended = True
            self._lose(self._clock_ns())
            self._lost_ns = 1 << 63

    def forget_all_but(self, numbers: set[int]) -> None:
        """Drop what is known of files that are closed."""
        self._files = {number: file for number, file in self._files.items() if number in numbers}
        self._numbers = {pointer: number for pointer, number in self._numbers.items() if number in numbers}
        self._changed &= numbers
        if not numbers:
            self._calls.clear()

    def _check(self) -> None:
        now_ns = self._clock_ns()
        if now_ns - self._checked_ns < CHECK_S * 1e9:
            return
        self._checked_ns = now_ns
        try:
            self._trace.check()
        except KernelFileError as error:
            log.warning("SIGIO: %s; it is switched on again", error)
            self._lose(now_ns)
            self._trace.mend()

    def _take_in(self, data: bytes) -> None:
        whole, newline, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest[-_LONGEST_LINE_BYTES:]
        if newline:
            for call in parse_file_calls(whole):
                self._note(call)

    def _note(self, call: FileCall) -> None:
        self.calls += 1
        time_ns, pointer, cmd, arg, after_loss = call
        if after_loss:
            self._lose(time_ns)
        if arg >= MARK_FIRST and cmd == F_SETOWN_EX and _base_of(arg) in self._bases:
            self._marked[arg] = (pointer, time_ns)
            return
        number = self._numbers.get(pointer)
        if number is not None and not self._is_open(number):
            del self._numbers[pointer]
            number = None
        clears = cmd == F_SETFL and not arg & os.O_ASYNC
        calls = self._calls.get(pointer)
        if calls is None:
            if clears:
                # What was never set.
                return
            calls = self._calls[pointer] = _Calls()
            self._forget_strangers()
        if cmd == F_SETFL:
            calls.is_set, calls.flags_ns = not clears, time_ns
            calls.set_ns = calls.set_ns if clears else time_ns
        else:
            calls.owner_ns = time_ns
        if number is not None:
            self._changed.add(number)

    def _forget_strangers(self) -> None:
        """Drop the oldest of those for files that are not known to be ours: any program may call fcntl for any file."""
        if len(self._calls) <= MAX_STRANGERS + len(self._numbers):
            return
        strangers = [pointer for pointer in self._calls if pointer not in self._numbers]
        for pointer in itertools.islice(strangers, MAX_STRANGERS // 2):
            calls = self._calls.pop(pointer)
            self._lose(max(calls.flags_ns, calls.owner_ns))

    def _lose(self, time_ns: int) -> None:
        """Calls before `time_ns` may be missing."""
        self.losses += 1
        self._lost_ns = max(self._lost_ns, time_ns)

    def _setting(self, number: int) -> _Calls | None:
        """The calls for a file if O_ASYNC was set since its open, and no call after the last one may be missing."""
        file = self._files.get(number)
        calls = self._calls.get(file.pointer) if file is not None and file.pointer is not None else None
        if file is None or calls is None or calls.set_ns < file.opened_ns or calls.flags_ns < self._lost_ns:
            return None
        return calls

    def _is_current(self, file: _File) -> bool:
        """Whether what was read of the owner still holds: times are coarse, so what is as late counts as later."""
        if file.pointer is None or file.read_ns <= self._lost_ns:
            return False
        calls = self._calls.get(file.pointer)
        return calls is None or calls.owner_ns < file.read_ns


def _base_of(mark: int) -> int:
    return mark & ~(MARK_COUNT - 1)
