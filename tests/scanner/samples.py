"""Made-up samples of the kernel's counters, for rules that captures do not show one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from memnotify_cuse.kernel.meminfo import Meminfo
from memnotify_cuse.kernel.trace import DIRECT_RECLAIM_BEGIN, LRU_SHRINK_ACTIVE, LRU_SHRINK_INACTIVE, TraceEvent
from memnotify_cuse.kernel.vmstat import Vmstat
from memnotify_cuse.kernel.zoneinfo import Node, Zone, ZoneId, Zoneinfo
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.sample import Sample

CLASSIC = Machine(mglru=False, page_kb=4)
MGLRU = Machine(mglru=True, page_kb=4)
MS = 1_000_000


def zone(
    name: str = "Normal",
    node: int = 0,
    *,
    free: int = 100_000,
    high: int = 1000,
    reserve: int = 0,
    present: int = 1_000_000,
    active_anon: int = 50_000,
    inactive_anon: int = 50_000,
    file: int = 200_000,
) -> Zone:
    return Zone(
        id=ZoneId(node, name),
        free_pages=free,
        boost_pages=0,
        min_pages=high // 2,
        low_pages=high * 3 // 4,
        high_pages=high,
        spanned_pages=present,
        present_pages=present,
        managed_pages=present,
        protection_pages=(0, reserve, reserve),
        inactive_anon_pages=inactive_anon,
        active_anon_pages=active_anon,
        inactive_file_pages=file // 2,
        active_file_pages=file - file // 2,
        unevictable_pages=0,
    )


def sample(
    *zones: Zone,
    time_ms: int = 0,
    swap_kb: int = 1_000_000,
    swap_free_kb: int | None = None,
    mapped: int = 0,
    shmem: int = 0,
    slab: int = 0,
    arc_gain_kb: int = 0,
    events: Sequence[TraceEvent] | None = None,
    **counters: int | None,
) -> Sample:
    """A sample with swap, of one big zone unless others are given; `counters` are those of vmstat (default 0)."""
    zones = zones or (zone(),)
    values = dict.fromkeys((field.name for field in fields(Vmstat)), 0) | counters
    nodes = sorted({each.id.node for each in zones})
    return Sample(
        time_ns=time_ms * MS,
        zoneinfo=Zoneinfo(zones, tuple(Node(node, None, None, None, None, mapped, shmem, slab) for node in nodes)),
        vmstat=Vmstat(**values),
        meminfo=Meminfo(
            total_kb=16_000_000,
            free_kb=1_000_000,
            available_kb=8_000_000,
            swap_total_kb=swap_kb,
            swap_free_kb=swap_kb if swap_free_kb is None else swap_free_kb,
            swap_cached_kb=0,
            mapped_kb=0,
            shmem_kb=0,
            zswap_kb=None,
            zswapped_kb=None,
        ),
        events=None if events is None else tuple(events),
        swap_gain_kb=swap_kb if swap_free_kb is None else swap_free_kb,
        arc_gain_kb=arc_gain_kb,
    )


def shrink(pages: int = 32, *, node: int = 0, comm: str = "kswapd0", anon: bool = True) -> TraceEvent:
    """A batch of the inactive list."""
    return TraceEvent(comm, 50, 1, LRU_SHRINK_INACTIVE, node, pages, None, anon)


def deactivate(pages: int = 32, *, node: int = 0, comm: str = "kswapd0") -> TraceEvent:
    """A batch of the active list, of which `pages` moved to the inactive one."""
    return TraceEvent(comm, 50, 1, LRU_SHRINK_ACTIVE, node, 32, pages, True)


def direct_begin(comm: str = "cc1") -> TraceEvent:
    return TraceEvent(comm, 4711, 1, DIRECT_RECLAIM_BEGIN, None, None, None, False)
