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

_INODE = re.compile(rb"\nino:\t([0-9]{1,20})\n")
_BYTES = 4096
"""Files with more to say (an epoll, an inotify) are not looked for here, and say it after the inode."""


def parse_inode(text: bytes) -> int | None:
    """The inode in the text of a fdinfo, None on a kernel that does not print it."""
    match = _INODE.search(text)
    return int(match[1]) if match else None


def read_inode(path: str) -> int | None:
    """`parse_inode` of the file at `path`. Raises OSError: ENOENT if there is no such descriptor, EACCES."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return parse_inode(os.read(fd, _BYTES))
    finally:
        os.close(fd)


def fdinfo_has_inodes() -> bool:
    """Whether this kernel prints them."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        return read_inode(f"/proc/self/fdinfo/{read_end}") is not None
    except OSError:
        return False
    finally:
        os.close(read_end)
        os.close(write_end)
