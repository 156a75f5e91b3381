"""What counts as "reclaim has turned to anonymous pages", by node. Pure: two samples in, evidence out.

In 2008 new anonymous pages started on the active list, and moving one to the inactive list was the first step of
swapping it out. Since 5.9 they start on the inactive list, so the kernel has turned to anonymous pages when it
*scans* that list as well (mm/vmscan.c, shrink_inactive_list(); `pgscan_anon`). What is evidence here:

    anon_scan        global reclaim scanned inactive anonymous pages
    file_exhausted   anonymous pages cannot be reclaimed (no swap, or it is full), and what can be, file pages, is
                     as good as gone: the comparison of prepare_scan_control() (`file_is_tiny`), with headroom

A memory cgroup that reclaims within its own limit scans anonymous pages too, and has nothing to do with the
machine: `pgscan_anon` counts it, `pgscan_kswapd` and `pgscan_direct` do not, so only what those allow is taken.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from memnotify_cuse.kernel.trace import LRU_SHRINK_INACTIVE
from memnotify_cuse.kernel.zoneinfo import Node, Zone
from memnotify_cuse.scanner.sample import Sample

ANON_SCAN: Final = "anon_scan"
FILE_EXHAUSTED: Final = "file_exhausted"


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while the server runs: the LRU kind and the page size in KiB."""

    mglru: bool
    page_kb: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a node's zones are to be raised, and how many pages the kernel touched (0 where it does not say)."""

    reason: str
    pages: int


def clear_pages(zone: Zone) -> int:
    """2 × (high watermark + lowmem reserve): above this many free pages a zone is not under pressure."""
    return 2 * (zone.high_pages + zone.lowmem_reserve_pages)


def global_scan_pages(before: Sample, now: Sample) -> tuple[int, int]:
    """Pages scanned between two samples by kswapd and by direct reclaim; cgroup-local reclaim is not in it."""
    return (
        _grown(before.vmstat.pgscan_kswapd, now.vmstat.pgscan_kswapd),
        _grown(before.vmstat.pgscan_direct, now.vmstat.pgscan_direct),
    )


def find_evidence(before: Sample, now: Sample, machine: Machine) -> dict[int, Evidence]:
    """The nodes whose anonymous pages the kernel turned to between the two samples."""
    found = _file_exhausted(before, now, machine)
    found.update(_anon_scan(before, now, machine))
    return found


def swap_is_usable(sample: Sample) -> bool:
    """Whether anonymous pages can go anywhere: some swap is free, more than the crumbs of a full one."""
    free, total = sample.meminfo.swap_free_kb, sample.meminfo.swap_total_kb
    return free > max(1024, total // 256)


def headroom_pages(zones: list[Zone], page_kb: int) -> int:
    """How much must be left to be had on a node without usable swap: 1/64 of it, 4 to 64 MiB, and twice high."""
    managed = sum(zone.managed_pages or zone.present_pages for zone in zones)
    cushion = min(max(managed // 64, 4096 // page_kb), 65536 // page_kb)
    return cushion + sum(2 * zone.high_pages for zone in zones)


def _anon_scan(before: Sample, now: Sample, machine: Machine) -> dict[int, Evidence]:
    by_kswapd, by_direct = global_scan_pages(before, now)
    if not by_kswapd and not by_direct:
        return {}
    scanned: Counter[int] = Counter()
    if now.events is not None and not machine.mglru:
        for event in now.events:
            was_global = by_kswapd if event.kswapd else by_direct
            if was_global and event.name == LRU_SHRINK_INACTIVE and event.anon and event.node is not None:
                scanned[event.node] += event.scanned_pages or 0
        if not now.lost_events:
            return {node: Evidence(ANON_SCAN, pages) for node, pages in scanned.items() if pages}
    total = _anon_scanned_pages(before, now)
    pages = min(total, by_kswapd + by_direct)
    if pages and not scanned:
        return {node: Evidence(ANON_SCAN, pages) for node in _likely_nodes(before, now)}
    return {node: Evidence(ANON_SCAN, count) for node, count in scanned.items() if count}


def _anon_scanned_pages(before: Sample, now: Sample) -> int:
    """`pgscan_anon`, or what was swapped out where the kernel (before 5.8) does not count it."""
    if now.vmstat.pgscan_anon is None:
        return _grown(before.vmstat.pswpout, now.vmstat.pswpout)
    return _grown(before.vmstat.pgscan_anon, now.vmstat.pgscan_anon)


def _likely_nodes(before: Sample, now: Sample) -> list[int]:
    """The nodes that a system-wide count may be about: short of free pages, and best with fewer anonymous ones."""
    short = []
    shrinking = []
    anon_before = {zone.id: zone.anon_pages for zone in before.zoneinfo.zones}
    for node in sorted({zone.id.node for zone in now.zoneinfo.zones}):
        zones = [zone for zone in now.zoneinfo.zones if zone.id.node == node]
        if any(zone.anon_pages and zone.free_pages <= clear_pages(zone) for zone in zones):
            short.append(node)
            if sum(zone.anon_pages for zone in zones) < sum(anon_before.get(zone.id, 0) for zone in zones):
                shrinking.append(node)
    return shrinking or short


def _file_exhausted(before: Sample, now: Sample, machine: Machine) -> dict[int, Evidence]:
    if swap_is_usable(now):
        return {}
    reclaiming = any(global_scan_pages(before, now))
    found = {}
    earlier = {zone.id: zone.free_pages + zone.file_pages for zone in before.zoneinfo.zones}
    for node in now.zoneinfo.nodes:
        zones = [zone for zone in now.zoneinfo.zones if zone.id.node == node.node and zone.present_pages]
        left = sum(zone.free_pages + zone.file_pages for zone in zones)
        shrinking = left < sum(earlier.get(zone.id, 0) for zone in zones)
        takeable = left - _mapped_file_pages(node, zones)
        if takeable <= headroom_pages(zones, machine.page_kb) and (reclaiming or shrinking):
            found[node.node] = Evidence(FILE_EXHAUSTED, 0)
    return found


def _mapped_file_pages(node: Node, zones: list[Zone]) -> int:
    """Program text and other mapped file pages: taking those only makes them fault in again."""
    return min(node.mapped_pages or 0, sum(zone.file_pages for zone in zones))


def _grown(before: int | None, now: int | None) -> int:
    return max(0, now - before) if before is not None and now is not None else 0
