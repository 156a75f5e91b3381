"""kprobe events: who calls fcntl(2) for which open file, at no cost for other system calls.

    /sys/kernel/tracing/kprobe_events
        p:memnotify_4711/fcntl security_file_fcntl file=%di:x64 cmd=%si:u32 arg=%dx:x64

          python-22268   [001] .....  4780.737758: fcntl: (security_file_fcntl+0x0/0x60) file=0xffff888004321b00
                 cmd=4 arg=0x2800
    CPU:0 [LOST 123 EVENTS]

(The second is one line.) The kernel calls security_file_fcntl(file, cmd, arg) first of all in fcntl(2), also for a
program of 32 bits. `file` is its pointer of the open file: the same for each descriptor of it, in every process, until
the last one is closed. Then another open file may get it.

Kernel source: kernel/trace/trace_kprobe.c, Documentation/trace/kprobetrace.rst, fs/fcntl.c. An event that is defined
can be switched on in any trace instance; while it is on in one, it cannot be removed (EBUSY). It stays until it is
removed: a server that was killed leaves one behind, which `remove_stale_events()` finds by its name.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from memnotify_cuse.kernel.errors import KernelFileGoneError
from memnotify_cuse.kernel.tracefs import is_left_behind, own_namespace

EVENTS_FILE: Final = "kprobe_events"
EVENT: Final = "fcntl"
SYMBOL: Final = "security_file_fcntl"

F_SETFL: Final = 4
F_SETOWN: Final = 8
F_SETSIG: Final = 10
F_SETOWN_EX: Final = 15

FILTER: Final = " || ".join(f"cmd == {cmd}" for cmd in (F_SETFL, F_SETOWN, F_SETSIG, F_SETOWN_EX))
"""What is let through: whatever changes who is signalled, or with what."""

_GROUP: Final = "memnotify_"
_REGISTERS: Final = {"x86_64": ("di", "si", "dx"), "aarch64": ("x0", "x1", "x2"), "riscv64": ("a0", "a1", "a2")}

_DEFINED: Final = re.compile(r"[pr][0-9]*:(memnotify_([1-9][0-9]{0,9})(?:_([1-9][0-9]{0,9}))?)/([A-Za-z0-9_]+) .*")
# From the end of the line, so that nothing depends on the command name: that can be anything, and has 15 bytes at most.
_LINE: Final = re.compile(
    rb"([0-9]{1,12})\.([0-9]{6}): fcntl: \([^()\n]*\) file=0x([0-9a-f]{1,16}) cmd=([0-9]{1,10}) arg=0x([0-9a-f]{1,16})$"
    rb"|^CPU:[0-9]+ \[LOST (?:[0-9]+ )?EVENTS\]$",
    re.MULTILINE,
)


class FileCall(NamedTuple):
    """A call of fcntl for the open file at the kernel's pointer `file`.

    `time_ns` is of the trace clock, at microsecond resolution. `after_loss`: calls before this one may be missing.
    """

    time_ns: int
    file: int
    cmd: int
    arg: int
    after_loss: bool


def argument_registers(machine: str | None = None) -> tuple[str, str, str] | None:
    """The registers of a function's first three arguments, None where they are not known. `machine` as in uname(2)."""
    return _REGISTERS.get(machine or platform.machine())


def event_name(pid: int) -> str:
    """The name of the event of process `pid`, "GROUP/EVENT": the group tells it from those of other servers."""
    namespace = own_namespace()
    return f"{_GROUP}{pid}" + (f"_{namespace}" if namespace else "") + f"/{EVENT}"


def kprobes_problem(tracefs: Path, machine: str | None = None) -> str | None:
    """Why no kprobe event can be had, as far as can be told without defining one; None if it can."""
    if argument_registers(machine) is None:
        return f"not known on {machine or platform.machine()}"
    if not (tracefs / EVENTS_FILE).exists():
        return f"no {tracefs / EVENTS_FILE}: this kernel has no kprobe events"
    return None


def define_event(tracefs: Path, name: str) -> None:
    """Define the event of fcntl called `name` (`event_name`). Raises KernelFileGoneError."""
    registers = argument_registers()
    if registers is None:
        raise KernelFileGoneError(str(tracefs / EVENTS_FILE), f"arguments are not known on {platform.machine()}")
    file, cmd, arg = registers
    write_definition(tracefs / EVENTS_FILE, f"p:{name} {SYMBOL} file=%{file}:x64 cmd=%{cmd}:u32 arg=%{arg}:x64")


def remove_stale_events(tracefs: Path, *, proc: Path = Path("/proc"), own_pid: int) -> list[str]:
    """Remove what servers left behind that no longer run; the names of those removed. Raises KernelFileGoneError.

    One that is on in some trace instance stays: remove the instances first.
    """
    removed = []
    try:
        lines = (tracefs / EVENTS_FILE).read_text().splitlines()
    except OSError as error:
        raise KernelFileGoneError(str(tracefs / EVENTS_FILE), f"cannot be read: {error.strerror}") from error
    for line in lines:
        match = _DEFINED.fullmatch(line)
        if match is None:
            continue
        group, pid, number, event = match.groups()
        namespace = int(number) if number else None
        if not is_left_behind(int(pid), namespace, tracefs / "events" / group, proc=proc, own_pid=own_pid):
            continue
        try:
            write_definition(tracefs / EVENTS_FILE, f"-:{group}/{event}")
        except KernelFileGoneError:
            continue
        removed.append(f"{group}/{event}")
    return removed


def write_definition(path: Path, line: str) -> None:
    """Write one line to kprobe_events: O_TRUNC would lose those of others. Raises KernelFileGoneError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(fd, line.encode() + b"\n")
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFileGoneError(str(path), f"does not take {line!r}: {error.strerror}") from error


def parse_file_calls(text: bytes) -> Iterator[FileCall]:
    """The calls in whole lines of trace_pipe; lines that are something else are skipped."""
    lost = False
    for match in _LINE.finditer(text):
        seconds, microseconds, file, cmd, arg = match.groups()
        if seconds is None:
            lost = True
            continue
        time_ns = int(seconds) * 1_000_000_000 + int(microseconds) * 1_000
        yield FileCall(time_ns, int(file, 16), int(cmd), int(arg, 16), lost)
        lost = False
