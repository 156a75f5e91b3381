"""Who is to get a file's SIGIO: what fcntl(2) keeps in the open file, whatever file system it belongs to.

    F_GETOWN_EX (16)       struct f_owner_ex { int type; pid_t pid; }     type 0 thread, 1 process, 2 process group
    F_GETSIG (11)          the signal of F_SETSIG, 0 for plain SIGIO
    F_SETOWN_EX (15)       the same, to set it; EFAULT for a bad address, of which security modules and kprobes are told
    F_GETOWNER_UIDS (17)   uid_t uids[2]: real and effective user of who called F_SETOWN

Kernel source: fs/fcntl.c, f_getown_ex(), f_getowner_uids(). The pid is in the pid namespace of who asks; 0 means that
there is no owner, or that it is gone.
"""

from __future__ import annotations

import ctypes
import fcntl
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

F_GETSIG: Final = 11
F_GETOWN_EX: Final = 16
F_GETOWNER_UIDS: Final = 17

_F_SETOWN_EX: Final = 15
_libc = ctypes.CDLL(None, use_errno=True)

_OWNER: Final = struct.Struct("=ii")
_UIDS: Final = struct.Struct("=II")


class OwnerKind(IntEnum):
    """`F_OWNER_TID`, `F_OWNER_PID`, `F_OWNER_PGRP`."""

    THREAD = 0
    PROCESS = 1
    GROUP = 2


@dataclass(frozen=True, slots=True)
class FileOwner:
    """Who gets the signal, which one, and on whose authority.

    `id` is a thread, process or group id; `signal` is 0 for plain SIGIO; `uid` and `euid` are those of the process
    that set the owner, None on a kernel that does not tell (built without CONFIG_CHECKPOINT_RESTORE).
    """

    kind: OwnerKind
    id: int
    signal: int
    uid: int | None
    euid: int | None


def file_owner(fd: int) -> FileOwner | None:
    """The owner of the open file behind `fd`, None if it has none. Asks the kernel, not the file system."""
    kind, number = _OWNER.unpack(fcntl.fcntl(fd, F_GETOWN_EX, _OWNER.pack(0, 0)))
    if number == 0:
        return None
    uid: int | None
    euid: int | None
    try:
        uid, euid = _UIDS.unpack(fcntl.fcntl(fd, F_GETOWNER_UIDS, _UIDS.pack(0, 0)))
    except OSError:
        uid = euid = None
    return FileOwner(OwnerKind(kind), number, fcntl.fcntl(fd, F_GETSIG), uid, euid)


def mark_file(fd: int, mark: int) -> None:
    """Have the open file behind `fd` appear with `mark`, an address that no program has, in a trace of fcntl(2)."""
    _libc.fcntl(fd, _F_SETOWN_EX, ctypes.c_ulong(mark))
