"""/proc/pressure/memory: how long tasks waited for memory (PSI), and triggers on it.

    some avg10=0.12 avg60=0.00 avg300=0.00 total=1234
    full avg10=0.00 avg60=0.00 avg300=0.00 total=567

Kernel source: kernel/sched/psi.c, psi_show() and psi_trigger_create(); Documentation/accounting/psi.rst.
/proc/pressure/cpu has no `full` line before 5.13.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.files import read_kernel_text

_PERCENT = r"([0-9]{1,3}\.[0-9]{2})"
_LINE = re.compile(rf"(some|full) avg10={_PERCENT} avg60={_PERCENT} avg300={_PERCENT} total=([0-9]{{1,20}})")


@dataclass(frozen=True, slots=True)
class PressureLine:
    """Share of time stalled over the last 10, 60 and 300 s in percent; time stalled since boot in µs."""

    avg10_percent: float
    avg60_percent: float
    avg300_percent: float
    total_us: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """`some`: at least one task stalled; `full`: all of them, None where the kernel does not print it."""

    some: PressureLine
    full: PressureLine | None


def parse_pressure(text: str, path: str = "/proc/pressure/memory") -> Pressure:
    """Parse the text of a pressure file. Raises MalformedKernelFileError; a line of another name is skipped."""
    rows = text.split("\n")
    if rows.pop():
        raise MalformedKernelFileError(path, len(rows) + 1, "ends before the end of a line")
    found: dict[str, PressureLine] = {}
    for number, row in enumerate(rows, start=1):
        match = _LINE.fullmatch(row)
        if match is None:
            if not row.startswith(("some", "full")):
                continue
            reason = f"expected 'some|full avg10=N avg60=N avg300=N total=N', got {row[:80]!r}"
            raise MalformedKernelFileError(path, number, reason)
        if match[1] in found:
            raise MalformedKernelFileError(path, number, f"a second {match[1]!r} line")
        found[match[1]] = PressureLine(float(match[2]), float(match[3]), float(match[4]), int(match[5]))
    if "some" not in found:
        raise MalformedKernelFileError(path, 0, "no 'some' line")
    return Pressure(found["some"], found.get("full"))


def read_pressure(proc: Path = Path("/proc")) -> Pressure:
    """Read and parse <proc>/pressure/memory. Raises KernelFileGoneError or MalformedKernelFileError."""
    file = proc / "pressure" / "memory"
    return parse_pressure(read_kernel_text(file), str(file))


def open_memory_trigger(proc: Path, *, stall_us: int, window_us: int) -> int:
    """Ask for POLLPRI when `some` memory stalls add up to `stall_us` within `window_us`.

    The caller closes the descriptor that is returned, which ends the trigger. Windows are 500 ms to 10 s.
    Without CAP_SYS_RESOURCE the window must be a multiple of 2 s (since 6.4; before, the kernel refuses).
    Raises KernelFileGoneError that says which.
    """
    path = str(proc / "pressure" / "memory")
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KernelFileGoneError(path, _trigger_reason(error, window_us)) from error
    try:
        # The kernel puts its end of string over the last byte it is given.
        os.write(fd, b"some %d %d\0" % (stall_us, window_us))
    except OSError as error:
        os.close(fd)
        raise KernelFileGoneError(path, _trigger_reason(error, window_us)) from error
    return fd


def _trigger_reason(error: OSError, window_us: int) -> str:
    match error.errno:
        case errno.ENOENT:
            return "this kernel has no pressure stall information (CONFIG_PSI, or psi=1 at boot)"
        case errno.EOPNOTSUPP:
            return "pressure stall information is switched off (psi=1 at boot switches it on)"
        case errno.EPERM | errno.EACCES:
            return "a trigger needs CAP_SYS_RESOURCE here"
        case errno.EINVAL:
            return (
                f"the kernel refuses a window of {window_us} us"
                " (500 ms to 10 s; a multiple of 2 s without CAP_SYS_RESOURCE)"
            )
        case _:
            return os.strerror(error.errno) if error.errno is not None else str(error)
