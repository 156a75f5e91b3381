"""Finding a descriptor of an open device file in the processes that hold it. Runs in the worker thread only.

The server knows its open files by number; fcntl's owner of such a file can be asked through any descriptor of it. So
one is duplicated out of a process that holds it (pidfd_getfd), and asked which open file it is by an ioctl
(`transport.identify`), which the server answers to this thread alone. That is exact, however many descriptors there
are, and whoever got them by fork, dup or a socket. The place where it was found is remembered, and verified each time.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.pidfd import get_descriptor
from memnotify_cuse.kernel.process import read_thread_status
from memnotify_cuse.kernel.statx import FileId, file_id, file_id_at
from memnotify_cuse.transport.identify import IDENTIFY, NUMBER_BYTES

SEARCH_REST: Final = 9
"""After a search in vain, in a process or in all of them, no other for so many times as long, whatever it is for."""

NOT_IN_NS: Final = 1_000_000_000
"""How long it is believed that a process has no descriptor of a file."""


@dataclass(frozen=True, slots=True)
class Place:
    """Descriptor number `descriptor` of process `pid`."""

    pid: int
    descriptor: int


class Locator:
    """Knows where open files were found. `devices` tells our files from others.

    `unreachable` is a process that uses a file of ours and whose descriptors we may not look at; None without any.
    """

    def __init__(self, devices: set[FileId], proc: Path = Path("/proc")) -> None:
        self._devices = devices
        self._proc = proc
        self._places: dict[int, Place] = {}
        self._not_before_ns = 0
        self._not_in: dict[tuple[int, int], int] = {}
        self._rest_until_ns: dict[int, int] = {}
        self._refused: set[int] = set()
        self.unreachable: int | None = None

    def forget_all_but(self, numbers: set[int]) -> None:
        """Drop what is known of files that are closed."""
        for known in [number for number in self._places if number not in numbers]:
            del self._places[known]
        now_ns = time.monotonic_ns()
        self._rest_until_ns = {pid: until for pid, until in self._rest_until_ns.items() if until > now_ns}
        self._not_in = {known: until for known, until in self._not_in.items() if known[0] in numbers}

    @contextmanager
    def descriptor(self, number: int, hints: tuple[int, ...], *, prefer: int = 0) -> Iterator[tuple[Place, int] | None]:
        """A duplicate of a descriptor of open file `number` and the place where it was found; None if it is not.

        `hints` are threads that had it; `prefer` is a process whose own descriptor of it would be best.
        """
        found = self._verified(number)
        if found is None:
            found = self._search(number, hints)
        if found is None:
            yield None
            return
        if prefer and found[0].pid != prefer and time.monotonic_ns() >= self._not_in.get((number, prefer), 0):
            before = self._places[number]
            better = self._verified(number) if self._search_process(prefer, number) else None
            if better is not None:
                os.close(found[1])
                found = better
            else:
                self._places[number] = before
                self._not_in[number, prefer] = time.monotonic_ns() + NOT_IN_NS
        try:
            yield found
        finally:
            os.close(found[1])

    def place_in(self, pid: int, descriptor: int) -> int | None:
        """The number of the open file behind `descriptor` of process `pid`, None if it is not of ours."""
        with _process(pid) as pidfd:
            if pidfd is None:
                return None
            fd = self._duplicate(pid, pidfd, descriptor)
            if fd is None:
                return None
            try:
                number = self._identify(fd)
            finally:
                os.close(fd)
            if number is not None:
                self._places[number] = Place(pid, descriptor)
            return number

    def tgid_of(self, tid: int) -> int | None:
        """The process of a thread, None if it has ended."""
        try:
            return read_thread_status(tid, self._proc).tgid
        except KernelFileError:
            return None

    def _verified(self, number: int) -> tuple[Place, int] | None:
        """The remembered place, if the file is still there."""
        place = self._places.get(number)
        if place is None:
            return None
        with _process(place.pid) as pidfd:
            fd = self._duplicate(place.pid, pidfd, place.descriptor) if pidfd is not None else None
        if fd is not None:
            if self._identify(fd) == number:
                return place, fd
            os.close(fd)
        del self._places[number]
        return None

    def _search(self, number: int, hints: tuple[int, ...]) -> tuple[Place, int] | None:
        tried = set()
        for tid in hints:
            pid = self.tgid_of(tid) if tid else None
            if pid is not None and pid not in tried:
                tried.add(pid)
                started_ns = time.monotonic_ns()
                if started_ns < self._rest_until_ns.get(pid, 0):
                    continue
                if self._search_process(pid, number):
                    return self._verified(number)
                self._rest_until_ns[pid] = _rest_after(started_ns)
                if pid in self._refused:
                    self.unreachable = pid
        return self._search_all(number, tried)

    def _search_all(self, number: int, tried: set[int]) -> tuple[Place, int] | None:
        """Look at every process; this finds all files that can be found, and takes a part of the time only."""
        started_ns = time.monotonic_ns()
        if started_ns < self._not_before_ns:
            return None
        try:
            for entry in os.listdir(self._proc):
                if entry.isdigit() and int(entry) not in tried and self._search_process(int(entry), number):
                    return self._verified(number)
        finally:
            self._not_before_ns = _rest_after(started_ns)
        return None

    def _search_process(self, pid: int, number: int) -> bool:
        """Look at all descriptors of a process, remembering where each of our files is; True if `number` was seen."""
        if pid == os.getpid():
            return False
        try:
            descriptors = sorted(int(name) for name in os.listdir(self._proc / str(pid) / "fd"))
        except (OSError, ValueError):
            return False
        with _process(pid) as pidfd:
            if pidfd is None:
                return False
            seen = False
            for descriptor in descriptors:
                fd = self._duplicate(pid, pidfd, descriptor)
                if fd is None:
                    continue
                try:
                    found = self._identify(fd)
                finally:
                    os.close(fd)
                if found == number and not seen:
                    seen = True
                    self._places[number] = Place(pid, descriptor)
                elif found is not None and found != number:
                    self._places.setdefault(found, Place(pid, descriptor))
            return seen

    def _duplicate(self, pid: int, pidfd: int, descriptor: int) -> int | None:
        """A duplicate, if the descriptor is a file on one of our devices.

        Of no other file: closing a duplicate waits for the file system that the file is on, which may never answer.
        """
        try:
            if file_id_at(f"{self._proc}/{pid}/fd/{descriptor}") not in self._devices:
                return None
            fd = get_descriptor(pidfd, descriptor)
        except PermissionError:
            self._refused = {pid}
            return None
        except OSError:
            return None
        try:
            where = file_id(fd)
        except OSError:
            where = None
        if where not in self._devices:
            with suppress(OSError):
                os.close(fd)
            return None
        return fd

    def _identify(self, fd: int) -> int | None:
        """Ask ourselves which open file this is."""
        answer = bytearray(NUMBER_BYTES)
        try:
            fcntl.ioctl(fd, IDENTIFY, answer)
        except OSError:
            return None
        return int.from_bytes(answer, sys.byteorder)


def _rest_after(started_ns: int) -> int:
    ended_ns = time.monotonic_ns()
    return ended_ns + SEARCH_REST * (ended_ns - started_ns)


@contextmanager
def _process(pid: int) -> Iterator[int | None]:
    """A pidfd of a process, None if it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)
