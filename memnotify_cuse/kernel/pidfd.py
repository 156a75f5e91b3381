"""pidfds: a handle on a process that is never another one's, its descriptors, and signals sent through it.

    int pidfd_open(pid_t pid, unsigned flags)                                             5.3   kernel/pid.c
    int pidfd_getfd(int pidfd, int targetfd, unsigned flags)                              5.6   kernel/pid.c
    int pidfd_send_signal(int pidfd, int sig, siginfo_t *info, unsigned flags)            5.1   kernel/signal.c
    int rt_tgsigqueueinfo(pid_t tgid, pid_t tid, int sig, siginfo_t *info)                2.6.31

    int ioctl(int pidfd, PIDFD_GET_INFO, struct pidfd_info *)                             6.13  fs/pidfs.c

A pidfd of a thread that is not the first of its process needs the flag PIDFD_THREAD (6.9). pidfd_getfd needs the right
to attach to the process (ptrace(2): same user and, where Yama is on, a descendant; or CAP_SYS_PTRACE). The numbers of
the system calls from 424 on are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import Final, NamedTuple

PIDFD_GETFD: Final = 438
PIDFD_SEND_SIGNAL: Final = 424

SI_SIGIO: Final = -5
"""si_code of a queued SIGIO (include/uapi/asm-generic/siginfo.h). Only the kernel itself may send POLL_IN."""

PIDFD_THREAD: Final = os.O_EXCL

_INFO_CREDENTIALS: Final = 1 << 1
# struct pidfd_info, include/uapi/linux/pidfd.h: u64 mask, cgroupid; u32 pid, tgid, ppid, ruid, rgid, euid, egid, suid,
# sgid, fsuid, fsgid; s32 exit_code.
_INFO: Final = struct.Struct("=QQ11Ii")
_IOC_READ_WRITE: Final = 3
PIDFD_GET_INFO: Final = _IOC_READ_WRITE << 30 | _INFO.size << 16 | 0xFF << 8 | 11

_SIGINFO_BYTES: Final = 128
# si_signo, si_errno, si_code; then, aligned to a long, si_band (long) and si_fd (int).
_SIGIO: Final = struct.Struct("@iiil i".replace(" ", ""))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Credentials(NamedTuple):
    """The users of a process, in our user namespace."""

    real_uid: int
    effective_uid: int
    saved_uid: int


def open_thread(tid: int) -> int | None:
    """A pidfd of thread `tid`; None where the kernel has none of single threads. OSError: ESRCH."""
    try:
        return os.pidfd_open(tid, PIDFD_THREAD)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def credentials(pidfd: int) -> Credentials | None:
    """The users of the task behind `pidfd`, at this moment; None where the kernel does not tell. OSError: ESRCH."""
    info = _INFO.pack(_INFO_CREDENTIALS, *(0,) * 13)
    try:
        mask, _, _, _, _, real, _, effective, _, saved, *_ = _INFO.unpack(fcntl.ioctl(pidfd, PIDFD_GET_INFO, info))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return None
        raise
    return Credentials(real, effective, saved) if mask & _INFO_CREDENTIALS else None


def get_descriptor(pidfd: int, descriptor: int) -> int:
    """A duplicate, close-on-exec, of the process's `descriptor`. OSError: EBADF, ESRCH, EPERM, ENOSYS.

    Closing it may send a request to the file system that it belongs to.
    """
    return _checked(_libc.syscall(ctypes.c_long(PIDFD_GETFD), pidfd, descriptor, 0))


def send_sigio(pidfd: int, signal_number: int, *, descriptor: int, band: int) -> None:
    """Queue `signal_number` for the process, with si_code SI_SIGIO, `si_fd` and `si_band`. OSError: ESRCH, EPERM."""
    info = _sigio_info(signal_number, descriptor, band)
    _checked(_libc.syscall(ctypes.c_long(PIDFD_SEND_SIGNAL), pidfd, signal_number, info, 0))


def send_sigio_to_thread(tgid: int, tid: int, signal_number: int, *, descriptor: int, band: int) -> None:
    """The same for one thread of process `tgid`, which the caller holds a pidfd of."""
    info = _sigio_info(signal_number, descriptor, band)
    _checked(_libc.syscall(ctypes.c_long(_rt_tgsigqueueinfo()), tgid, tid, signal_number, info))


def _sigio_info(signal_number: int, descriptor: int, band: int) -> ctypes.Array[ctypes.c_char]:
    info = _SIGIO.pack(signal_number, 0, SI_SIGIO, band, descriptor)
    return ctypes.create_string_buffer(info, _SIGINFO_BYTES)


def _rt_tgsigqueueinfo() -> int:
    machine = os.uname().machine
    if machine == "x86_64" and struct.calcsize("P") == 4:
        machine = "i686"
    numbers = {
        **{"x86_64": 297, "aarch64": 240, "riscv64": 240, "loongarch64": 240, "ppc64le": 322, "ppc64": 322},
        **{"s390x": 330, "armv7l": 363, "armv6l": 363, "i686": 335, "i586": 335},
    }
    return numbers.get(machine, 240)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
