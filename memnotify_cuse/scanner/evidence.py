"""What counts as "reclaim has turned to anonymous pages", by node. Pure: samples in, evidence out.

In 2008 new anonymous pages started on the active list, and moving one to the inactive list was the first step of
swapping it out. Since 5.9 they start on the inactive list, so the kernel has turned to anonymous pages when it
*scans* that list as well (mm/vmscan.c, shrink_inactive_list()). But neither is a sign by itself: while a large file is
read, kswapd scans some anonymous pages too (when a file page it dropped is wanted again), and it rebalances the
anonymous lists, moving pages from active to inactive, without taking any. What is evidence here:

    anon_scan        global reclaim scanned anonymous pages, and either page cache cannot help, or a good part of what
                     it scanned within the last second was anonymous, and it was not page cache that asked for memory
    anon_deactivate  it moved anonymous pages from the active to the inactive list, and page cache cannot help
    file_exhausted   what is left to be had without pain, free and file pages and what swap can win, lasts no longer
                     than the programs that listen need to act: see `outlook`

"Page cache cannot help": if all file pages of the node were dropped, but for mapped ones, its zones would be above high
watermark and reserve by no more than the headroom's floor. It is the comparison of prepare_scan_control()
(`file_is_tiny`), zone by zone as pgdat_balanced() looks at them, and a little sooner: the last pages are never found.

A memory cgroup that reclaims within its own limit scans anonymous pages too, and has nothing to do with the machine:
`pgscan_anon` and `pgscan_file` count it, `pgscan_kswapd` and `pgscan_direct` do not. So global reclaim's anonymous
pages are all that it scanned less the file pages: a cgroup's file pages can make that fewer, nothing makes it more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from memnotify_cuse.kernel.trace import LRU_SHRINK_ACTIVE, LRU_SHRINK_INACTIVE, TraceEvent
from memnotify_cuse.kernel.zoneinfo import Zone
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.outlook import Outlook, zones_of
from memnotify_cuse.scanner.sample import Sample

ANON_SCAN: Final = "anon_scan"
ANON_DEACTIVATE: Final = "anon_deactivate"
FILE_EXHAUSTED: Final = "file_exhausted"

SWAP_CLUSTER_PAGES: Final = 32
"""The kernel scans in batches of this many pages (SWAP_CLUSTER_MAX)."""

ANON_SHARE: Final = 4
"""One in so many pages scanned within a second must be anonymous. Measured on 6.18: 0.73 and more where memory was
short beside a cache in use."""

ANON_FRACTION: Final = 64
MOST_ANON_KB: Final = 16 * 1024
"""And it must have been a 64th of all anonymous pages, or 16 MiB, whichever is less.

By that alone, reading a large file would be taken for a shortage: beside 2 GiB of other programs' idle memory kswapd
scanned, for a tenth of a second, up to 0.89 anonymous pages, and at other times swapped out 16 MiB and more, a quarter
of what it took, to make room for page cache. So it counts only if programs took as much memory in the same second, or
if little page cache came in beside what was swapped out."""

FILE_PART: Final = 3
"""Little is a third. Measured: while files were read, three times as much came in as was swapped out, and more; where
memory was short, a twelfth."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a node's zones are to be raised, and how many pages the kernel touched (0 where it does not say)."""

    reason: str
    pages: int


@dataclass(frozen=True, slots=True)
class Reclaim:
    """What global reclaim scanned in an interval, in pages: all in all, and of that anonymous.

    `anon_taken_pages` is what of the anonymous pages went to swap, or is on its way there. `anon_grown_pages` is by how
    much programs have more memory than before, in swap or out of it, and `file_read_pages` how much page cache came in;
    negative if less is there than before.
    """

    scanned_pages: int = 0
    anon_pages: int = 0
    anon_taken_pages: int = 0
    anon_grown_pages: int = 0
    file_read_pages: int = 0

    def __add__(self, other: Reclaim) -> Reclaim:
        return Reclaim(
            self.scanned_pages + other.scanned_pages,
            self.anon_pages + other.anon_pages,
            self.anon_taken_pages + other.anon_taken_pages,
            self.anon_grown_pages + other.anon_grown_pages,
            self.file_read_pages + other.file_read_pages,
        )


def clear_pages(zone: Zone) -> int:
    """2 × (high watermark + lowmem reserve): above this many free pages a zone is not under pressure."""
    return 2 * (zone.high_pages + zone.lowmem_reserve_pages)


def reclaim_between(before: Sample, now: Sample) -> Reclaim:
    """What global reclaim did between two samples.

    Kernels before 5.8 do not count anonymous pages apart; what they swapped out stands in for it.
    """
    earlier, later = before.vmstat, now.vmstat
    scanned = (
        _grown(earlier.pgscan_kswapd, later.pgscan_kswapd)
        + _grown(earlier.pgscan_direct, later.pgscan_direct)
        + _grown(earlier.pgscan_khugepaged, later.pgscan_khugepaged)
    )
    if later.pgscan_file is None:
        anon = min(scanned, _grown(earlier.pswpout, later.pswpout))
    else:
        anon = max(0, scanned - _grown(earlier.pgscan_file, later.pgscan_file))
    # Swap on a disk has a page some time after it was sent there; zswap takes pages that no swap device ever sees.
    swapped = max(_grown(earlier.pgsteal_anon, later.pgsteal_anon), _grown(earlier.pswpout, later.pswpout))
    taken = min(anon, swapped)
    grown = _anon_pages(now) - _anon_pages(before) + taken
    read = _file_pages(now) - _file_pages(before) + _grown(earlier.pgsteal_file, later.pgsteal_file)
    return Reclaim(scanned, anon, taken, grown, read)


def find_evidence(
    before: Sample,
    now: Sample,
    reclaim: Reclaim,
    recent: Reclaim,
    outlooks: Mapping[int, Outlook],
    machine: Machine,
) -> dict[int, Evidence]:
    """The nodes whose anonymous pages the kernel turned to between the two samples.

    `reclaim` is what global reclaim did between them, `recent` within the last second, this interval included;
    `outlooks` is how much is left on each node now.
    """
    found = _exhausted(reclaim, outlooks)
    past_help = {node for node, outlook in outlooks.items() if not outlook.page_cache_can_help}
    found.update(_anon_deactivate(before, now, past_help, machine))
    found.update(_anon_scan(before, now, reclaim.anon_pages, recent, past_help, machine))
    return found


def _anon_scan(
    before: Sample, now: Sample, pages: int, recent: Reclaim, past_help: set[int], machine: Machine
) -> dict[int, Evidence]:
    if not pages:
        return {}
    traced = _traced(before, now, LRU_SHRINK_INACTIVE)
    scanned = traced or dict.fromkeys(_likely_nodes(before, now), pages)
    good_part = _is_a_good_part(recent, _anon_pages(now), machine)
    return {node: Evidence(ANON_SCAN, count) for node, count in scanned.items() if good_part or node in past_help}


def _is_a_good_part(recent: Reclaim, anon_pages: int, machine: Machine) -> bool:
    least = max(SWAP_CLUSTER_PAGES, min(anon_pages // ANON_FRACTION, MOST_ANON_KB // machine.page_kb))
    came_in = recent.file_read_pages > max(SWAP_CLUSTER_PAGES, recent.anon_taken_pages // FILE_PART)
    for_page_cache = came_in and recent.anon_grown_pages < least
    return not for_page_cache and recent.anon_pages >= least and recent.anon_pages * ANON_SHARE >= recent.scanned_pages


def _anon_deactivate(before: Sample, now: Sample, past_help: set[int], machine: Machine) -> dict[int, Evidence]:
    if machine.mglru:
        return {}
    moved = _moved_by_counters(before, now) if now.events is None else _traced(before, now, LRU_SHRINK_ACTIVE)
    return {node: Evidence(ANON_DEACTIVATE, pages) for node, pages in moved.items() if node in past_help}


def _traced(before: Sample, now: Sample, name: str) -> dict[int, int]:
    """Anonymous pages by node in the trace events called `name`, those of global reclaim only."""
    by_kswapd = _grown(before.vmstat.pgscan_kswapd, now.vmstat.pgscan_kswapd)
    by_direct = _grown(before.vmstat.pgscan_direct, now.vmstat.pgscan_direct)
    pages: Counter[int] = Counter()
    for event in now.events or ():
        was_global = by_kswapd if event.kswapd else by_direct
        if was_global and event.anon and event.name == name and event.node is not None:
            pages[event.node] += _pages_of(event)
    return {node: count for node, count in pages.items() if count}


def _pages_of(event: TraceEvent) -> int:
    return (event.deactivated_pages if event.name == LRU_SHRINK_ACTIVE else event.scanned_pages) or 0


def _moved_by_counters(before: Sample, now: Sample) -> dict[int, int]:
    """Active→inactive movement as the zone counters show it: one list lost what the other gained."""
    if not _grown(before.vmstat.pgrefill, now.vmstat.pgrefill):
        return {}
    earlier = {zone.id: zone for zone in before.zoneinfo.zones}
    moved: Counter[int] = Counter()
    for zone in now.zoneinfo.zones:
        was = earlier.get(zone.id)
        if was is not None:
            lost = was.active_anon_pages - zone.active_anon_pages
            gained = zone.inactive_anon_pages - was.inactive_anon_pages
            moved[zone.id.node] += max(0, min(lost, gained))
    return {node: pages for node, pages in moved.items() if pages}


def _likely_nodes(before: Sample, now: Sample) -> list[int]:
    """The nodes that a system-wide count may be about: short of free pages, and best with fewer anonymous ones."""
    short = []
    shrinking = []
    anon_before = {zone.id: zone.anon_pages for zone in before.zoneinfo.zones}
    for node in sorted({zone.id.node for zone in now.zoneinfo.zones}):
        zones = zones_of(now, node)
        if any(zone.anon_pages and zone.free_pages <= clear_pages(zone) for zone in zones):
            short.append(node)
            if sum(zone.anon_pages for zone in zones) < sum(anon_before.get(zone.id, 0) for zone in zones):
                shrinking.append(node)
    return shrinking or short


def _exhausted(reclaim: Reclaim, outlooks: Mapping[int, Outlook]) -> dict[int, Evidence]:
    reclaiming = reclaim.scanned_pages > 0
    return {
        node: Evidence(FILE_EXHAUSTED, 0)
        for node, outlook in outlooks.items()
        if outlook.exhausted and (reclaiming or outlook.declining)
    }


def _anon_pages(sample: Sample) -> int:
    return sum(zone.anon_pages for zone in sample.zoneinfo.zones)


def _file_pages(sample: Sample) -> int:
    return sum(zone.file_pages for zone in sample.zoneinfo.zones)


def _grown(before: int | None, now: int | None) -> int:
    return max(0, now - before) if before is not None and now is not None else 0
