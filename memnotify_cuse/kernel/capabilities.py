"""What a process may do, and giving it up for good: capabilities, no_new_privs, another user.

    CapPrm:	000001ffffffffff
    CapEff:	000001ffffffffff
    CapBnd:	000001ffffffffff

Source: capabilities(7), prctl(2), include/uapi/linux/capability.h, include/uapi/linux/prctl.h; fs/proc/array.c,
task_cap(). Bit N of a mask is capability N. Functions raise OSError with the call's errno.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_CAPABILITY_VERSION_3 = 0x20080522
_HEADER = struct.Struct("=Ii")
# Effective, permitted and inheritable, for capabilities 0 to 31 and then for 32 to 63.
_DATA = struct.Struct("=6I")

_MASKS = frozenset({"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
_MASK_DIGITS = 16
_HEXADECIMAL = frozenset("0123456789abcdef")

_libc = ctypes.CDLL(None, use_errno=True)


class ParentGoneError(ProcessLookupError):
    """The process that this one was to end with has ended."""


class Capability(IntEnum):
    """The capabilities that some process of ours holds, or that `doctor` asks about."""

    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    IPC_LOCK = 14
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    SYS_NICE = 23
    SYS_RESOURCE = 24


def mask_of(capabilities: Collection[Capability]) -> int:
    """The mask in which these capabilities are set."""
    return sum(1 << capability for capability in set(capabilities))


def permitted() -> int:
    """The mask of the capabilities that this process may use."""
    header = ctypes.create_string_buffer(_HEADER.pack(_CAPABILITY_VERSION_3, 0), _HEADER.size)
    data = ctypes.create_string_buffer(_DATA.size)
    _checked(_libc.capget(header, data))
    _, low, _, _, high, _ = _DATA.unpack(data.raw)
    return int(low | high << 32)


def keep_only(capabilities: Collection[Capability]) -> None:
    """Hold these capabilities, as far as they are permitted, and no others, from now on.

    For a process that is not to start any other program: nothing is inheritable.
    """
    mask = mask_of(capabilities) & permitted()
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = ctypes.create_string_buffer(_HEADER.pack(_CAPABILITY_VERSION_3, 0), _HEADER.size)
    _checked(_libc.capset(header, ctypes.create_string_buffer(_DATA.pack(low, low, 0, high, high, 0), _DATA.size)))
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def bound_to(capabilities: Collection[Capability]) -> None:
    """Let no program that this process starts have other capabilities than these. Needs CAP_SETPCAP."""
    for number in range(64):
        if number in set(capabilities):
            continue
        try:
            if _prctl(PR_CAPBSET_READ, number):
                _prctl(PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == errno.EINVAL:
                # There are no more.
                return
            raise


def set_no_new_privs() -> None:
    """Let no program that is started from now on have more rights than this process."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def become_user(uid: int, gid: int, keep: Collection[Capability] = ()) -> None:
    """Change to another user for good, without groups, holding only the capabilities `keep`. Needs to be root."""
    if keep:
        _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    keep_only(keep)


def die_with_parent(parent: int, signal_number: int) -> None:
    """Have the kernel send `signal_number` when process `parent` ends; ParentGoneError if it has ended by now.

    Changing the user undoes this, so it comes after that.
    """
    _prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        raise ParentGoneError(f"process {parent} has ended")


def set_name(name: str) -> None:
    """What the thread is called in ps(1), 15 bytes at most."""
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def parse_capability_masks(text: str, path: str = "/proc/PID/status") -> dict[str, int]:
    """The masks of a /proc/PID/status by their names, as far as it has them: CapInh, CapPrm, CapEff, CapBnd, CapAmb.

    Raises MalformedKernelFileError.
    """
    masks = {}
    for number, line in enumerate(text.split("\n"), start=1):
        name, _, mask = line.partition(":\t")
        if name not in _MASKS:
            continue
        if len(mask) != _MASK_DIGITS or not _HEXADECIMAL.issuperset(mask):
            # Not for the keeper to have in memory.
            from memnotify_cuse.kernel.errors import MalformedKernelFileError

            raise MalformedKernelFileError(path, number, f"expected a mask, got {line[:80]!r}")
        masks[name] = int(mask, 16)
    return masks


def _prctl(option: int, argument: int) -> int:
    zero = ctypes.c_ulong(0)
    return _checked(_libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero))


def _checked(result: Any) -> int:  # noqa: ANN401 - what ctypes returns
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
