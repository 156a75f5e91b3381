"""The system calls that Python's standard library does not have: mount(2), umount2(2), mlockall(2), madvise(2).

Constants are those of <sys/mount.h> and <sys/mman.h> on Linux, the same on every architecture that Debian has.
Each function raises OSError with the call's errno.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
MCL_CURRENT = 1
MCL_ONFAULT = 4
MADV_DONTNEED = 4

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    _checked(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            fstype.encode() if fstype else None,
            ctypes.c_ulong(flags),
            data.encode() if data else None,
        ),
        target,
    )


def unmount(target: str) -> None:
    """umount2(2), lazily: the mount is gone from the tree at once, users of open files keep those."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW), target)


def lock_memory() -> None:
    """mlockall(2) of all that is mapped now; pages are locked as they are first touched."""
    _checked(_libc.mlockall(MCL_CURRENT | MCL_ONFAULT), None)


def drop_clean_pages(start: int, length: int) -> None:
    """madvise(2), MADV_DONTNEED: let go of a mapping's pages. Only for pages that can be read again from a file."""
    address, size, advice = ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(MADV_DONTNEED)
    _checked(_libc.madvise(address, size, advice), None)


def trim_heap() -> None:
    """malloc_trim(3), where the C library has it: give free memory back to the kernel."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _checked(result: Any, path: str | None) -> None:  # noqa: ANN401 - what ctypes returns
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
