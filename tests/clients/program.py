"""A running program of the list: what it has said so far, and the processor time that it took."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

END_LIMIT_S: Final = 10.0
TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Seen:
    """How often a program said what."""

    ready: bool = False
    told: int = 0
    empty: int = 0
    woken: int = 0
    end: str | None = None
    odd: str | None = None
    """The last line that is none of these."""

    @property
    def wakes(self) -> int:
        return self.told + self.empty + self.woken

    @property
    def heard(self) -> int:
        """Wake-ups that told it of something."""
        return self.told + self.woken


class Program:
    """Started at once; a context manager that ends it, and whatever it has started."""

    def __init__(self, command: list[str], *, is_tool: bool = False, environment: dict[str, str] | None = None) -> None:
        self._is_tool = is_tool
        self._seen = Seen(ready=is_tool)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def seen(self) -> Seen:
        return self._seen

    @property
    def has_ended(self) -> bool:
        """It has exited, and all that it said was taken in."""
        return self.process.poll() is not None and not self._reader.is_alive()

    def cpu_ns(self) -> int:
        """Processor time of the program and of what it has started, in nanoseconds."""
        return tree_cpu_ns(self.process.pid)

    def complaint(self) -> str:
        """The last line that it wrote to stderr, "" if there is none."""
        size = os.fstat(self._errors.fileno()).st_size
        lines = os.pread(self._errors.fileno(), size, 0).decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *unused: object) -> None:
        # The group has the program's id, which is taken as long as it was not waited for.
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(END_LIMIT_S)
        self._reader.join(END_LIMIT_S)
        self._errors.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._take(line.decode(errors="replace").strip())

    def _take(self, line: str) -> None:
        seen = self._seen
        word, _, rest = line.partition(" ")
        if self._is_tool and line.startswith("node="):
            word, rest = "told", line
        match word:
            case "told" if rest.startswith("node="):
                seen = replace(seen, told=seen.told + 1)
            case "empty":
                seen = replace(seen, empty=seen.empty + 1)
            case "woken":
                seen = replace(seen, woken=seen.woken + 1)
            case "ready":
                seen = replace(seen, ready=True)
            case "end":
                seen = replace(seen, end=" ".join(rest.split()))
            case "":
                return
            case _:
                seen = replace(seen, odd=line)
        self._seen = seen


def process_cpu_ns(pid: int) -> int:
    """What one process took, its ended threads included; 0 when it is gone."""
    try:
        # The clock of a process, as clock_getcpuclockid(3) makes it of the id: CPUCLOCK_SCHED is 2.
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError:
        return 0


def tree_cpu_ns(pid: int) -> int:
    """A process, its descendants, and those of them that have ended and were waited for (in clock ticks)."""
    total = process_cpu_ns(pid)
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # cutime and cstime, the 16th and 17th of proc(5); the first here is the third.
        total += (int(fields[13]) + int(fields[14])) * TICK_NS
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                total += tree_cpu_ns(int(child))
    return total
