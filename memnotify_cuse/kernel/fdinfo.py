"""/proc/PID/fdinfo/N: what a descriptor is, without looking through it at the file.

    pos:	0
    flags:	0104000
    mnt_id:	64
    ino:	140123456

Kernel source: fs/proc/fd.c, seq_show(). Since 5.14 it has `ino`, and may be read with the right to look at the process
(PTRACE_MODE_READ); /proc/PID/fd can only be entered by the process's user and who may override file permissions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

_INODE = re.compile(rb"\nino:\t([0-9]{1,20})\n")
_BYTES = 4096
"""Files with more to say (an epoll, an inotify) are not looked for here, and say it after the inode."""


def parse_inode(text: bytes) -> int | None:
    """The inode in the text of a fdinfo, None on a kernel that does not print it."""
    match = _INODE.search(text)
    return int(match[1]) if match else None


def read_inode(descriptor: int, directory: int) -> int | None:
    """The inode of a process's descriptor, by the process's fdinfo directory. OSError: ENOENT if there is none."""
    fd = os.open(str(descriptor), os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return parse_inode(os.read(fd, _BYTES))
    finally:
        os.close(fd)


def list_descriptors(directory: int, first: int = 0) -> Iterator[int]:
    """A process's descriptors from number `first` on, in order, by its fdinfo directory.

    The place in this directory is the number, after the two entries that every directory has (proc_readfd_common()).
    """
    os.lseek(directory, first + 2, os.SEEK_SET)
    with closing(os.scandir(directory)) as entries:
        for entry in entries:
            yield int(entry.name)


def open_fdinfo(pid: int | str, proc: Path = Path("/proc")) -> int:
    """A descriptor of the fdinfo directory of process `pid`. OSError: ENOENT if it is gone, EACCES."""
    return os.open(f"{proc}/{pid}/fdinfo", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def fdinfo_has_inodes() -> bool:
    """Whether this kernel prints them."""
    try:
        directory = open_fdinfo("self")
    except OSError:
        return False
    try:
        return read_inode(directory, directory) is not None
    except OSError:
        return False
    finally:
        os.close(directory)
