"""statx(2): which mount is seen at a path, without asking the file system that is mounted there.

    int statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC, STATX_MNT_ID, struct statx *)

Offsets in struct statx (include/uapi/linux/stat.h): stx_mask at 0, stx_dev_major and stx_dev_minor at 136, stx_mnt_id
at 144. Linux 5.8 and later tell the mount's id, which is the first field of /proc/self/mountinfo. With
AT_STATX_DONT_SYNC FUSE answers from what the kernel has, even when its server hangs (see `kernel.statx`).

The keeper imports this module, so it imports little.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    MountSeen = tuple[int, int, int | None]

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_STATX_DONT_SYNC = 0x4000
_STATX_MNT_ID = 0x1000
_BYTES = 256

_libc = ctypes.CDLL(None, use_errno=True)


def mount_seen_at(path: str) -> MountSeen:
    """Major and minor of the device that `path` is on, and the id of its mount, None before Linux 5.8. Raises
    OSError.
    """
    buffer = ctypes.create_string_buffer(_BYTES)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_STATX_DONT_SYNC
    if _libc.statx(_AT_FDCWD, os.fsencode(path), flags, _STATX_MNT_ID, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    (mask,) = struct.unpack_from("=I", buffer, 0)
    major, minor, mount_id = struct.unpack_from("=IIQ", buffer, 136)
    return major, minor, mount_id if mask & _STATX_MNT_ID else None
