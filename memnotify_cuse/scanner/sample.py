"""One look at the kernel: the counters that the rules need, read together. The only I/O of a scan."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from memnotify_cuse.kernel.files import KernelFile
from memnotify_cuse.kernel.meminfo import Meminfo, parse_meminfo
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.kernel.vmstat import Vmstat, parse_vmstat
from memnotify_cuse.kernel.zoneinfo import Zoneinfo, parse_zoneinfo
from memnotify_cuse.scanner.swapspace import SwapSpace


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at `time_ns` (CLOCK_MONOTONIC), and the trace events since the sample before.

    `events` is None where there is no trace, or it is paused. `swap_gain_kb` is what swapping can still win.
    """

    time_ns: int
    zoneinfo: Zoneinfo
    vmstat: Vmstat
    meminfo: Meminfo
    events: tuple[TraceEvent, ...] | None = None
    swap_gain_kb: int = 0


class SampleSource(Protocol):
    """Where the scanner's samples come from: the kernel, or somebody who listens in."""

    def sample(self, events: tuple[TraceEvent, ...] | None = None) -> Sample:
        """A sample of now, with the trace events that the doorbell had."""
        ...


class Sampler:
    """Keeps the kernel's files open and reads a `Sample` off them; raises the parsers' errors."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._zoneinfo = KernelFile(proc / "zoneinfo")
        self._vmstat = KernelFile(proc / "vmstat")
        self._meminfo = KernelFile(proc / "meminfo")
        self._swap_space = SwapSpace(proc)
        self._swap: tuple[Meminfo, int] | None = None
        self._hurried = False
        self._text = ""

    def zoneinfo_text(self) -> str:
        """The text of zoneinfo that was read last."""
        return self._text

    def sample(self, events: tuple[TraceEvent, ...] | None = None) -> Sample:
        """Read all of it now; `events` are taken over."""
        # What there is of swap does not matter when anonymous pages are first seen to be scanned, and then time does.
        self._hurried = not self._hurried and any(event.anon for event in events or ())
        swap = self._swap if self._hurried and self._swap is not None else self._read_swap()
        self._text = self._zoneinfo.read_text()
        return Sample(
            time_ns=time.monotonic_ns(),
            zoneinfo=parse_zoneinfo(self._text, self._zoneinfo.path),
            vmstat=parse_vmstat(self._vmstat.read_text(), self._vmstat.path),
            meminfo=swap[0],
            events=events,
            swap_gain_kb=swap[1],
        )

    def _read_swap(self) -> tuple[Meminfo, int]:
        meminfo = parse_meminfo(self._meminfo.read_text(), self._meminfo.path)
        self._swap = (meminfo, self._swap_space.gain_kb(meminfo))
        return self._swap

    def close(self) -> None:
        for file in (self._zoneinfo, self._vmstat, self._meminfo, self._swap_space):
            file.close()
