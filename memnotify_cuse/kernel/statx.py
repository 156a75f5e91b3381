"""statx(2) without asking the file system: which device a descriptor belongs to.

    int statx(int fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, struct statx *)

With AT_STATX_DONT_SYNC, FUSE answers from what the kernel has (fs/fuse/dir.c, fuse_update_get_attr()). Plain stat(2)
would send a request, to a server that may be ourselves or may never answer.

Offsets in struct statx (include/uapi/linux/stat.h): stx_mode at 28, stx_ino at 32, then at 128 stx_rdev_major,
stx_rdev_minor, stx_dev_major, stx_dev_minor.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from typing import Final, NamedTuple

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_TYPE: Final = 0x1
_BYTES: Final = 256

_libc = ctypes.CDLL(None, use_errno=True)


class FileId(NamedTuple):
    """What a file is: for a character device its own number, for any other file that of the device it is on."""

    is_character_device: bool
    major: int
    minor: int


def file_id(fd: int) -> FileId:
    """The file behind `fd`. Raises OSError."""
    return _statx(fd, b"", _AT_EMPTY_PATH)


def file_id_at(path: str) -> FileId:
    """The file that `path` leads to, such as /proc/PID/fd/N: without a descriptor of it. Raises OSError."""
    return _statx(_AT_FDCWD, os.fsencode(path), 0)


def _statx(fd: int, path: bytes, flags: int) -> FileId:
    buffer = ctypes.create_string_buffer(_BYTES)
    if _libc.statx(fd, path, flags | _AT_STATX_DONT_SYNC, _STATX_TYPE, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    (mode,) = struct.unpack_from("=H", buffer, 28)
    own_major, own_minor, major, minor = struct.unpack_from("=IIII", buffer, 128)
    if stat.S_ISCHR(mode):
        return FileId(True, own_major, own_minor)
    return FileId(False, major, minor)
