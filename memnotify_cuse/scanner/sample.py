"""One look at the kernel: the counters that the rules need, read together. The only I/O of a scan."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from memnotify_cuse.kernel.arcstats import arcstats_path, parse_arcstats
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.files import KernelFile
from memnotify_cuse.kernel.lru_gen import LruGen
from memnotify_cuse.kernel.meminfo import Meminfo, parse_meminfo
from memnotify_cuse.kernel.tiers import MemoryTiers
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.kernel.vmstat import Vmstat, parse_vmstat
from memnotify_cuse.kernel.zoneinfo import Zoneinfo, parse_zoneinfo
from memnotify_cuse.scanner.health import ARC, FILES, LRU_GEN, MEMINFO, TIERS, VMSTAT, Health
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.swapspace import SwapSpace

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at `time_ns` (CLOCK_MONOTONIC), and the trace events since the sample before.

    `events` is None where there is no trace, it is paused, or it has lost some. `swap_gain_kb` is what swapping can
    still win, `arc_gain_kb` what ZFS gives back when it is asked to. `mglru` is None where it was not looked at: then
    what the machine began with holds. `demoting` are the nodes from which pages are demoted to a slower tier of memory,
    None where the kernel does not say.
    """

    time_ns: int
    zoneinfo: Zoneinfo
    vmstat: Vmstat
    meminfo: Meminfo
    events: tuple[TraceEvent, ...] | None = None
    swap_gain_kb: int = 0
    mglru: bool | None = None
    arc_gain_kb: int = 0
    demoting: frozenset[int] | None = None


class SampleSource(Protocol):
    """Where the scanner's samples come from: the kernel, or a recorder in between."""

    def sample(self, events: tuple[TraceEvent, ...] | None = None) -> Sample:
        """A sample of now, with the trace events that the wakeup source had."""
        ...


class Sampler:
    """Keeps the kernel's files open and reads a `Sample` off them.

    Without zoneinfo there is no sample: the parser's, or the reader's, KernelFileError. When another file fails, what
    was read from it last stands in for it, and `health` takes note; the first sample needs all of them.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        health: Health | None = None,
        *,
        sys_root: Path = Path("/sys"),
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._now_ns = now_ns
        self._health = health or Health()
        self._zoneinfo = KernelFile(proc / "zoneinfo")
        self._vmstat = KernelFile(proc / "vmstat")
        self._meminfo = KernelFile(proc / "meminfo")
        self._lru_gen = LruGen(sys_root)
        self._tiers = MemoryTiers(sys_root)
        self._arcstats = str(arcstats_path(proc))
        self._arc: KernelFile | None = None
        self._swap_space = SwapSpace(proc, self._health, sys_root=sys_root)
        self._last_vmstat: Vmstat | None = None
        self._last_meminfo: Meminfo | None = None
        self._swap: tuple[Meminfo, int] | None = None
        self._hurried = False
        self._text = ""
        self.mglru = False
        self._arc_gain_kb = 0
        self._demoting: frozenset[int] | None = None
        self._read_switches()

    @property
    def machine(self) -> Machine:
        """The machine that is sampled, as it is now."""
        return Machine(mglru=self.mglru, page_kb=os.sysconf("SC_PAGE_SIZE") // 1024)

    @property
    def swap_free_kb(self) -> int:
        """How much swap was free in the last sample."""
        return self._last_meminfo.swap_free_kb if self._last_meminfo is not None else 0

    def zoneinfo_text(self) -> str:
        """The text of zoneinfo that was read last."""
        return self._text

    def sample(self, events: tuple[TraceEvent, ...] | None = None) -> Sample:
        """Read all of it now; `events` are taken over."""
        # What there is of swap does not matter when anonymous pages are first seen to be scanned, and then time does.
        self._hurried = not self._hurried and any(event.anon for event in events or ())
        if not self._hurried or self._swap is None:
            self._swap = self._read_swap()
            self._arc_gain_kb = self._or_last(ARC, self._read_arc, self._arc_gain_kb)
            self._read_switches()
        text = self._zoneinfo.read_text()
        zoneinfo = parse_zoneinfo(text, self._zoneinfo.path)
        self._text = text
        time_ns = self._now_ns()
        self._last_vmstat = self._or_last(VMSTAT, self._read_vmstat, self._last_vmstat)
        self._see_what_is_gone()
        return Sample(
            time_ns=time_ns,
            zoneinfo=zoneinfo,
            vmstat=self._last_vmstat,
            meminfo=self._swap[0],
            events=events,
            swap_gain_kb=self._swap[1],
            mglru=self.mglru,
            arc_gain_kb=self._arc_gain_kb,
            demoting=self._demoting,
        )

    def _see_what_is_gone(self) -> None:
        gone = self._zoneinfo.gone or self._vmstat.gone or self._meminfo.gone
        if gone is None:
            self._health.worked(FILES)
        else:
            self._health.failed(FILES, gone)

    def _read_vmstat(self) -> Vmstat:
        return parse_vmstat(self._vmstat.read_text(), self._vmstat.path)

    def _read_meminfo(self) -> Meminfo:
        return parse_meminfo(self._meminfo.read_text(), self._meminfo.path)

    def _read_swap(self) -> tuple[Meminfo, int]:
        self._last_meminfo = self._or_last(MEMINFO, self._read_meminfo, self._last_meminfo)
        return self._last_meminfo, self._swap_space.gain_kb(self._last_meminfo)

    def _read_arc(self) -> int:
        """ZFS may be loaded while the server runs."""
        if self._arc is None:
            if not os.path.exists(self._arcstats):
                return 0
            self._arc = KernelFile(self._arcstats)
        return parse_arcstats(self._arc.read_text(), self._arcstats).reclaimable_kb

    def _read_switches(self) -> None:
        self.mglru = self._or_last(LRU_GEN, self._lru_gen.read, self.mglru)
        try:
            self._demoting = self._tiers.demoting()
        except KernelFileError as error:
            self._health.failed(TIERS, error)
        else:
            self._health.worked(TIERS)

    def _or_last(self, source: str, read: Callable[[], T], last: T | None) -> T:
        """What `read` says, or while that fails what it said last; without that the error."""
        try:
            found = read()
        except KernelFileError as error:
            if last is None:
                raise
            self._health.failed(source, error)
            return last
        self._health.worked(source)
        return found

    def close(self) -> None:
        for file in (self._zoneinfo, self._vmstat, self._meminfo, self._lru_gen, self._swap_space, self._tiers):
            file.close()
        if self._arc is not None:
            self._arc.close()
