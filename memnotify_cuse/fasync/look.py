"""Looking at other processes' descriptors. Runs in a helper only: any step here may wait for a client.

The server knows its open files by number; fcntl's owner of such a file can be asked through any descriptor of it. So
one is duplicated out of a process that holds it (pidfd_getfd), and asked by an ioctl which open file it is: the request
comes to the server, which answers it to its helpers alone. That is exact, however many descriptors there are, and
however a process got them: by fork, dup or a socket.

What may wait, and for whom:

- pidfd_getfd waits while the process is in exec, whose kernel side closes its close-on-exec files; one of them may be
on
  a file system whose server does not answer. SIGKILL ends that wait.
- Closing a duplicate sends FLUSH to the file's server. The descriptor may have been exchanged for one of another file
  between the look at it and the duplication. SIGKILL does not end that wait once the request was read.

Nothing of the process's memory is read, and none of /proc/PID/{mem,cmdline,environ,maps}, which wait for it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from memnotify_cuse.fasync.attention import UNKNOWN_UID, Attention
from memnotify_cuse.fasync.leftout import key_of
from memnotify_cuse.identify import IDENTIFY
from memnotify_cuse.kernel.errors import KernelFileGoneError
from memnotify_cuse.kernel.fdinfo import list_descriptors, open_fdinfo, read_inode
from memnotify_cuse.kernel.files import read_short_kernel_text
from memnotify_cuse.kernel.pidfd import get_descriptor
from memnotify_cuse.kernel.process import ThreadStatus, parse_thread_status
from memnotify_cuse.kernel.statx import FileId, file_id, file_id_at

_NUMBER: Final = struct.Struct("=Q")


Sight = Callable[[int], AbstractContextManager[Callable[[int], bool]]]
"""Of a process: whether a descriptor of it may be one of ours, told without looking at the file. Both raise OSError."""

INODES: Final = 1 << 16


_MACHINES_OF_32_BITS: Final = frozenset({"i386", "i486", "i586", "i686", "armv6l", "armv7l", "mips", "ppc", "riscv32"})


def by_inode(
    first_inode: int, proc: Path = Path("/proc"), *, fold: bool = os.uname().machine in _MACHINES_OF_32_BITS
) -> Sight:
    """Told by the inode that the kernel prints in fdinfo: all of ours are above `first_inode`, a random number.

    A kernel of 32 bits folds them (fs/fuse/fuse_i.h, fuse_squash_ino()).
    """
    folded = first_inode >> 32 ^ first_inode & 0xFFFFFFFF

    @contextmanager
    def sight(pid: int) -> Iterator[Callable[[int], bool]]:
        directory = open_fdinfo(pid, proc)

        def may_be_ours(descriptor: int) -> bool:
            inode = read_inode(descriptor, directory)
            if inode is None:
                return False
            return (inode ^ folded) < INODES if fold else 0 < inode - first_inode < INODES

        try:
            yield may_be_ours
        finally:
            os.close(directory)

    return sight


def by_device(devices: Collection[FileId], proc: Path = Path("/proc")) -> Sight:
    """Told by the device. It takes the right to enter /proc/PID/fd (CAP_DAC_READ_SEARCH)."""

    @contextmanager
    def sight(pid: int) -> Iterator[Callable[[int], bool]]:
        yield lambda descriptor: file_id_at(f"{proc}/{pid}/fd/{descriptor}") in devices

    return sight


class LeftOutError(Exception):
    """The process is of a user who is left out."""


class RefusedError(Exception):
    """We may not look at that process."""


class Here(NamedTuple):
    """A descriptor of ours of open file `number`, a duplicate of `descriptor` of process `pid`."""

    number: int
    pid: int
    descriptor: int
    fd: int


class Process(NamedTuple):
    """A process that is looked at: its id and real user. `status` is that of the thread by which it was found."""

    pid: int
    uid: int
    status: ThreadStatus


class Looker:
    """Looks at processes, at files on `devices` only, which `sight` tells from others, and notes in `attention` at
    whom.

    `left_out` may change at any time.
    """

    def __init__(
        self, devices: Collection[FileId], sight: Sight, attention: Attention, proc: Path = Path("/proc")
    ) -> None:
        self._devices = devices
        self._sight = sight
        self._attention = attention
        self.proc = proc
        self.left_out: set[int] = set()

    def on_ourselves(self) -> AbstractContextManager[None]:
        """For a block that asks our own server."""
        return self._attention.on_ourselves()

    def leave(self) -> None:
        """No process is touched any more."""
        self._attention.note(0, UNKNOWN_UID)

    @contextmanager
    def into(self, tid: int) -> Iterator[View]:
        """A view of the descriptors of a thread's process, which is held before it is looked at.

        Raises KernelFileError (it is gone), LeftOutError, RefusedError.
        """
        pidfd = self._hold(tid)
        try:
            process = self._process(tid)
            with self._sight(process.pid) as may_be_ours:
                yield View(process, pidfd, may_be_ours, self._devices, self._attention, self.proc)
        except PermissionError:
            raise RefusedError from None
        finally:
            os.close(pidfd)

    def _hold(self, tid: int) -> int:
        """A pidfd of the process of a thread."""
        try:
            return os.pidfd_open(tid)
        except OSError:
            # Perhaps it is not the first thread of its process.
            tgid = self.status(tid).tgid
        try:
            return os.pidfd_open(tgid)
        except OSError as error:
            raise KernelFileGoneError(f"{self.proc}/{tgid}", str(error)) from error

    def _process(self, tid: int) -> Process:
        status = self.status(tid)
        return Process(status.tgid, status.real_uid, status)

    def status(self, tid: int) -> ThreadStatus:
        """The status of a thread that is about to be touched. Raises KernelFileError, LeftOutError."""
        path = f"{self.proc}/{tid}/status"
        self._attention.note(tid, UNKNOWN_UID)
        status = parse_thread_status(read_short_kernel_text(path), path)
        self._attention.note(status.tgid, status.real_uid)
        if key_of(status.real_uid, status.tgid) in self.left_out:
            raise LeftOutError
        return status


class View:
    """The descriptors of `process`, which `pidfd` holds."""

    def __init__(
        self,
        process: Process,
        pidfd: int,
        may_be_ours: Callable[[int], bool],
        devices: Collection[FileId],
        attention: Attention,
        proc: Path,
    ) -> None:
        self.process = process
        self.pidfd = pidfd
        self._may_be_ours = may_be_ours
        self._devices = devices
        self._attention = attention
        self._proc = proc

    def descriptors(self, first: int, most: int) -> list[int]:
        """The numbers of the process's descriptors from `first` on, `most` of them at most, in order. OSError."""
        directory = open_fdinfo(self.process.pid, self._proc)
        try:
            return list(islice(list_descriptors(directory, first), most))
        finally:
            os.close(directory)

    @contextmanager
    def at(self, descriptor: int) -> Iterator[Here | None]:
        """A duplicate of a descriptor, None if it is not of an open file of ours. Raises PermissionError."""
        self._attention.step()
        fd = self._duplicate(descriptor)
        if fd is None:
            yield None
            return
        try:
            with self._attention.on_ourselves():
                number = identify(fd)
            yield Here(number, self.process.pid, descriptor, fd) if number is not None else None
        finally:
            os.close(fd)

    def may_be_ours(self, descriptor: int) -> bool:
        """Whether it is worth a duplicate. Raises PermissionError."""
        try:
            return self._may_be_ours(descriptor)
        except PermissionError:
            raise
        except OSError:
            return False

    def _duplicate(self, descriptor: int) -> int | None:
        """A duplicate, if the descriptor is a file on one of our devices."""
        if not self.may_be_ours(descriptor):
            return None
        try:
            fd = get_descriptor(self.pidfd, descriptor)
        except PermissionError:
            raise
        except OSError:
            return None
        try:
            ours = file_id(fd) in self._devices
        except OSError:
            ours = False
        if not ours:
            os.close(fd)
            return None
        return fd


def identify(fd: int) -> int | None:
    """Ask the server which open file this is; None if it does not say."""
    try:
        (number,) = _NUMBER.unpack(fcntl.ioctl(fd, IDENTIFY, bytes(_NUMBER.size)))
    except OSError:
        return None
    return int(number)
