"""/proc/TID/status: a thread's process, its users and its signal masks.

    Tgid:	4711
    Uid:	1000	1000	1000	1000
    SigQ:	0/95906
    SigPnd:	0000000000000000
    ShdPnd:	0000000000000000
    SigBlk:	0000000000000000
    SigIgn:	0000000000001000
    SigCgt:	0000000000000440

Kernel source: fs/proc/array.c, task_sig() and render_sigset_t(). Uid has the real,
effective, saved and file system user. Bit N-1 stands for signal N. The thread's
name is in the same file; the kernel escapes a line feed in it, so no name can look like one of these lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.files import read_kernel_text, read_short_kernel_text

_NAMES = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
# 16 digits on most machines, 32 where there are 128 signals (MIPS).
_MASK = r"([0-9a-f]{16}|[0-9a-f]{32})"
_SIGNALS = re.compile("\n" + "".join(rf"{name}:\t{_MASK}\n" for name in _NAMES))


@dataclass(frozen=True, slots=True)
class PendingSignals:
    """Masks of signals: bit N-1 is signal N. `pending` has the thread's own and those of its process."""

    pending: int
    blocked: int
    ignored: int
    caught: int

    @property
    def deliverable(self) -> int:
        """Pending and not blocked: what makes a sleeping system call end."""
        return self.pending & ~self.blocked


def parse_signals(text: str, path: str = "/proc/TID/status") -> PendingSignals:
    """Parse the text of /proc/TID/status. Raises MalformedKernelFileError."""
    match = _SIGNALS.search(text)
    if match is None:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.startswith(_NAMES) and not re.fullmatch(rf"\w+:\t{_MASK}", line):
                raise MalformedKernelFileError(path, number, f"expected a signal mask, got {line[:80]!r}")
        raise MalformedKernelFileError(path, 0, f"the lines {', '.join(_NAMES)} are not there, in this order")
    own, shared, blocked, ignored, caught = (int(mask, 16) for mask in match.groups())
    return PendingSignals(own | shared, blocked, ignored, caught)


def read_signals(tid: int, proc: Path = Path("/proc")) -> PendingSignals:
    """Read and parse <proc>/TID/status.

    Raises KernelFileGoneError (the thread has ended) or MalformedKernelFileError.
    """
    file = proc / str(tid) / "status"
    return parse_signals(read_kernel_text(file), str(file))


@dataclass(frozen=True, slots=True)
class ThreadStatus:
    """The process that a thread belongs to, its users, its signals. Ids are in the pid namespace of that /proc.

    `threads` is how many the process has, 0 where that is not told.
    """

    tgid: int
    real_uid: int
    effective_uid: int
    saved_uid: int
    signals: PendingSignals
    threads: int = 0


_TGID = re.compile(r"\nTgid:\t([0-9]{1,10})\n")
_THREADS = re.compile(r"\nThreads:\t([0-9]{1,10})\n")
_UID = re.compile(r"\nUid:\t([0-9]{1,10})\t([0-9]{1,10})\t([0-9]{1,10})\t[0-9]{1,10}\n")


def parse_thread_status(text: str, path: str = "/proc/TID/status") -> ThreadStatus:
    """Parse the text of /proc/TID/status. Raises MalformedKernelFileError."""
    tgid, uids = _TGID.search(text), _UID.search(text)
    if tgid is None or uids is None:
        raise MalformedKernelFileError(path, 0, "the lines Tgid and Uid are not there")
    real, effective, saved = (int(uid) for uid in uids.groups())
    threads = _THREADS.search(text)
    signals = parse_signals(text, path)
    return ThreadStatus(int(tgid[1]), real, effective, saved, signals, int(threads[1]) if threads else 0)


def read_thread_status(tid: int, proc: Path = Path("/proc")) -> ThreadStatus:
    """Read and parse <proc>/TID/status.

    Raises KernelFileGoneError (the thread has ended) or MalformedKernelFileError.
    """
    path = f"{proc}/{tid}/status"
    return parse_thread_status(read_short_kernel_text(path), path)


_START_TIME_FIELD = 22


def parse_start_time(text: str, path: str = "/proc/TID/stat") -> int:
    """When a thread began, in clock ticks since boot: field 22 of /proc/TID/stat. Raises MalformedKernelFileError.

    The name, field 2, stands in parentheses and can be anything, parentheses included.
    """
    words = text.rpartition(")")[2].split()
    try:
        return int(words[_START_TIME_FIELD - 3])
    except (IndexError, ValueError):
        raise MalformedKernelFileError(path, 1, "no start time") from None


def read_start_time(tid: int, proc: Path = Path("/proc")) -> int:
    """Read and parse <proc>/TID/stat. Raises KernelFileGoneError or MalformedKernelFileError."""
    path = f"{proc}/{tid}/stat"
    return parse_start_time(read_short_kernel_text(path), path)
