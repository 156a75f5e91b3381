"""Whether a thread is waiting for signals in sigwaitinfo(2), from /proc/TID/syscall.

    128 0x7ffc6e2a1b90 0x7ffc6e2a1b10 0x0 0x8 0x0 0x0 0x7ffc6e2a1a98 0x7f3f2f0a1c27

The number of the system call, its six arguments, stack pointer and program counter; "running" while it is in none.
Source: fs/proc/base.c, proc_pid_syscall(). During the wait the kernel takes the signals waited for out of the thread's
blocked ones (kernel/signal.c, do_sigtimedwait()), so SigBlk in /proc/TID/status looks as if they would do harm.

The set itself stands in the thread's memory, and reading that can wait for as long as the thread's owner likes: the
page may be one of a file on a file system of its own. So it is not read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_RT_SIGTIMEDWAIT: Final = {"x86_64": 128, "aarch64": 137, "riscv64": 137, "loongarch64": 137}
_RT_SIGTIMEDWAIT_OTHERS: Final = {"i686": 177, "armv7l": 177, "armv6l": 177, "s390x": 177, "ppc64le": 176, "ppc64": 176}
_RT_SIGTIMEDWAIT_TIME64: Final = 421
_NUMBERS: Final = {
    (_RT_SIGTIMEDWAIT | _RT_SIGTIMEDWAIT_OTHERS).get(os.uname().machine, 137),
    _RT_SIGTIMEDWAIT_TIME64,
}


def is_sigwait(text: str) -> bool:
    """Whether the text of /proc/TID/syscall is that of a thread in sigwaitinfo."""
    words = text.split()
    return len(words) == 9 and words[0].isascii() and words[0].isdigit() and int(words[0]) in _NUMBERS


def waits_for_signals(tid: int, proc: Path = Path("/proc")) -> bool:
    """Whether thread `tid` is in sigwaitinfo; False if it cannot be told. May wait while the process is in exec."""
    try:
        return is_sigwait((proc / str(tid) / "syscall").read_text())
    except (OSError, ValueError):
        return False
