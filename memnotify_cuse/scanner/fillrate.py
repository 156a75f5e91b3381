"""How fast programs can take memory on this machine: measured, because it is what bounds the time between samples."""

from __future__ import annotations

import mmap
import os
import time
from typing import Final

PROBE_BYTES: Final = 2 << 20
PROBES: Final = 5
SLOWEST_KB_PER_S: Final = 64 * 1024
FASTEST_KB_PER_S: Final = 8 * 1024 * 1024
MOST_CPUS: Final = 4
"""Beyond a few processors it is the memory that is the limit."""


def measure_fill_kb_per_s() -> int:
    """KiB a second: the best of a few short probes, on as many processors as there are."""
    fastest_s = min(_probe_s() for _ in range(PROBES))
    cpus = min(len(os.sched_getaffinity(0)), MOST_CPUS)
    rate = PROBE_BYTES / 1024 / max(fastest_s, 1e-9) * cpus
    return int(min(max(rate, SLOWEST_KB_PER_S), FASTEST_KB_PER_S))


def _probe_s() -> float:
    began = time.perf_counter()
    mmap.mmap(-1, PROBE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()
    return time.perf_counter() - began
