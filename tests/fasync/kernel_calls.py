"""A trace of calls of fcntl for files that are open: a pipe, since not every kernel has kprobe events."""

from __future__ import annotations

import os
from pathlib import Path

from memnotify_cuse.fasync.exact import FileCalls
from memnotify_cuse.fasync.jobs import KnownOwner, Report, Said
from memnotify_cuse.kernel.kprobes import F_SETOWN_EX
from memnotify_cuse.kernel.tracefs import TracePipe

SECOND = 1_000_000_000
MICROSECOND = 1_000
LOST = b"CPU:0 [LOST 5 EVENTS]\n"
OWNER = KnownOwner(pid=100, identity=7, descriptor=3, signal=0, uid=1001, euid=1001)


class Kernel:
    """A trace to which calls are written, and the files that are open."""

    def __init__(self) -> None:
        read_end, self._write_end = os.pipe2(os.O_NONBLOCK)
        self._switch = os.memfd_create("tracing_on")
        # The kernel's file does not care where it is written to.
        os.pwrite(self._switch, b"1\n", 0)
        self.now_ns = 1000 * SECOND
        self.open: set[int] = set()
        self.trace = TracePipe(Path("/sys/kernel/tracing/instances/test"), read_end, os.dup(self._switch))
        self.calls = FileCalls(self.trace, self.open.__contains__, lambda: self.now_ns)

    def close(self) -> None:
        self.trace.close()
        os.close(self._switch)
        os.close(self._write_end)

    def show(self, data: bytes) -> None:
        assert os.write(self._write_end, data) == len(data)

    def switch_off(self) -> None:
        os.pwrite(self._switch, b"0\n", 0)

    @property
    def is_on(self) -> bool:
        return os.pread(self._switch, 1, 0) == b"1"

    def opens(self, number: int) -> None:
        self.later()
        self.open.add(number)
        self.calls.opened(number)

    def closes(self, number: int) -> None:
        self.open.remove(number)

    def later(self) -> None:
        self.now_ns += 10 * MICROSECOND

    def call(self, pointer: int, cmd: int, arg: int = 0, *, lost: bool = False) -> None:
        """A program calls fcntl; the server reads it."""
        self.later()
        seconds, microseconds = divmod(self.now_ns // MICROSECOND, 1_000_000)
        line = f"program-4711    [000] .....  {seconds}.{microseconds:06}: fcntl: (security_file_fcntl+0x0/0x60) "
        line += f"file={pointer:#x} cmd={cmd} arg={arg:#x}\n"
        self.show((LOST if lost else b"") + line.encode())
        self.later()
        self.calls.read()

    def looks(self, number: int, pointer: int, owner: KnownOwner | None = OWNER, *, owned: bool = True) -> None:
        """A helper looks at file `number`, and marks it."""
        base = self.calls.new_mark()
        self.call(pointer, F_SETOWN_EX, base + 1)
        self.calls.found(found(number, base + 1, owner, owned=owned))
        self.calls.end_marks([base])

    def state(self, number: int) -> str:
        assert not (self.calls.is_set(number) and self.calls.is_cleared(number))
        return "set" if self.calls.is_set(number) else "cleared" if self.calls.is_cleared(number) else "not known"


def found(number: int, mark: int, owner: KnownOwner | None = OWNER, *, owned: bool = True) -> Report:
    if owner is None:
        return Report(Said.FOUND, 1, owned=owned, number=number, pid=100, descriptor=3, mark=mark)
    return Report(
        Said.FOUND,
        1,
        owned=True,
        number=number,
        pid=owner.pid,
        descriptor=owner.descriptor,
        owner_pid=owner.pid,
        mark=mark,
        identity=owner.identity,
        signal=owner.signal,
        owner_uid=owner.uid,
        owner_euid=owner.euid,
    )
