"""Whether a thread is waiting for a signal in sigwaitinfo(2), from /proc/TID/syscall and /proc/TID/mem.

    128 0x7ffc6e2a1b90 0x7ffc6e2a1b10 0x0 0x8 0x0 0x0 0x7ffc6e2a1a98 0x7f3f2f0a1c27

The number of the system call, its six arguments, stack pointer and program counter; "running" while it is in none.
Source: fs/proc/base.c, proc_pid_syscall(). During the wait the kernel takes the signals waited for out of the thread's
blocked ones (kernel/signal.c, do_sigtimedwait()), so SigBlk in /proc/TID/status looks as if they would do harm.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_RT_SIGTIMEDWAIT: Final = {"x86_64": 128, "aarch64": 137, "riscv64": 137, "loongarch64": 137}
_RT_SIGTIMEDWAIT_OTHERS: Final = {"i686": 177, "armv7l": 177, "armv6l": 177, "s390x": 177, "ppc64le": 176, "ppc64": 176}
_RT_SIGTIMEDWAIT_TIME64: Final = 421
_NUMBERS: Final = {
    (_RT_SIGTIMEDWAIT | _RT_SIGTIMEDWAIT_OTHERS).get(os.uname().machine, 137),
    _RT_SIGTIMEDWAIT_TIME64,
}
_SIGSET_BYTES: Final = 8


def parse_sigwait_address(text: str) -> int | None:
    """The address of the set of signals that a thread waits for, None if it does something else."""
    words = text.split()
    if len(words) != 9 or not words[0].isdigit() or int(words[0]) not in _NUMBERS:
        return None
    return int(words[1], 16)


def awaited_signals(tid: int, proc: Path = Path("/proc")) -> int:
    """The signals that thread `tid` awaits in sigwaitinfo, as a mask (bit N-1: signal N); 0 if it cannot be told."""
    try:
        address = parse_sigwait_address((proc / str(tid) / "syscall").read_text())
        if address is None:
            return 0
        with (proc / str(tid) / "mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            return int.from_bytes(memory.read(_SIGSET_BYTES), sys.byteorder)
    except (OSError, ValueError, OverflowError):
        return 0
