"""Whether a thread is waiting for signals in sigwaitinfo(2), from /proc/TID/wchan.

    do_sigtimedwait.isra.0

The function of the kernel in which the thread sleeps; "0" where it does not sleep, or the kernel keeps no names.
Source: fs/proc/base.c, proc_pid_wchan(). To be read with the right to look at the process (PTRACE_MODE_READ); it waits
for nothing.

During the wait the kernel takes the signals waited for out of the thread's blocked ones (kernel/signal.c,
do_sigtimedwait()), so SigBlk in /proc/TID/status looks as if they would do harm. The set itself stands in the thread's
memory, and reading that can wait for as long as the thread's owner likes: the page may be one of a file on a file
system of its own. So it is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from memnotify_cuse.kernel.errors import KernelFileGoneError
from memnotify_cuse.kernel.files import read_short_kernel_text

_FUNCTION: Final = "sigtimedwait"
"""do_sigtimedwait(), or one of the system calls that call it, as the compiler has named them."""


def is_sigwait(text: str) -> bool:
    """Whether the text of /proc/TID/wchan is that of a thread in sigwaitinfo."""
    return _FUNCTION in text


def waits_for_signals(tid: int, proc: Path = Path("/proc")) -> bool:
    """Whether thread `tid` is in sigwaitinfo; False if it cannot be told."""
    try:
        return is_sigwait(read_short_kernel_text(f"{proc}/{tid}/wchan"))
    except KernelFileGoneError:
        return False
