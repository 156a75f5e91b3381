"""A number that tells a process from all others that have, or had, the same id.

Since Linux 6.9 it is the inode of a pidfd, which is never used again (fs/pidfs.c). Before, all pidfds have the same
inode, and it is when the process began, in clock ticks (/proc/PID/stat): an id comes back after all others were used.
"""

from __future__ import annotations

import os
from pathlib import Path

from memnotify_cuse.kernel.process import read_start_time


class Identities:
    """Asks for the identities of processes."""

    def __init__(self, proc: Path = Path("/proc"), *, by_inode: bool | None = None) -> None:
        self._proc = proc
        self._by_inode = pidfds_have_inodes() if by_inode is None else by_inode

    def of(self, pidfd: int, pid: int) -> int:
        """The identity, never 0, of process `pid`, which `pidfd` was opened for before. KernelFileError: it is gone."""
        return os.fstat(pidfd).st_ino if self._by_inode else read_start_time(pid, self._proc) + 1


def pidfds_have_inodes() -> bool:
    """Whether the pidfds of two processes differ in their inodes."""
    inodes = []
    for pid in (os.getpid(), os.getppid()):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            # The parent may be in another pid namespace.
            return False
        inodes.append(os.fstat(pidfd).st_ino)
        os.close(pidfd)
    return inodes[0] != inodes[1]
