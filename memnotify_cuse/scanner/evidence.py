"""What counts as "reclaim has turned to anonymous pages", by node. Pure: what was measured in, evidence out.

In 2008 new anonymous pages started on the active list, and moving one to the inactive list was the first step of
swapping it out. Since 5.9 they start on the inactive list, so the kernel has turned to anonymous pages when it
*scans* that list as well (mm/vmscan.c, shrink_inactive_list()). But neither is a sign by itself: while a large file is
read, kswapd scans some anonymous pages too (when a file page it dropped is wanted again), and it rebalances the
anonymous lists, moving pages from active to inactive, without taking any. The rules, each of them a row of conditions
that must all hold:

    file_exhausted   what is left to be had without pain lasts no longer than the programs that listen need to act
                     (`forecast`), and it becomes less, or the kernel reclaims
    anon_deactivate  global reclaim moved anonymous pages from the active to the inactive list, and page cache cannot
                     help
    anon_scan        global reclaim scanned anonymous pages, and page cache cannot help
    anon_scan        global reclaim scanned a good part of all anonymous pages within the last second, it was not
                     page cache that asked for memory, and anonymous pages are more than crumbs beside what is left

"Page cache cannot help": if all file pages of the node were dropped, but for mapped ones, its zones would be above high
watermark and reserve by no more than the headroom's floor. It is the comparison of prepare_scan_control()
(`file_is_tiny`), zone by zone as pgdat_balanced() looks at them, and a little sooner: the last pages are never found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from memnotify_cuse.kernel.trace import LRU_SHRINK_ACTIVE, LRU_SHRINK_INACTIVE, TraceEvent
from memnotify_cuse.scanner import choices
from memnotify_cuse.scanner.forecast import SWAP_CLUSTER_PAGES, clear_pages, zones_of
from memnotify_cuse.scanner.measured import Measured, grown
from memnotify_cuse.scanner.sample import Sample

ANON_SCAN: Final = "anon_scan"
ANON_DEACTIVATE: Final = "anon_deactivate"
FILE_EXHAUSTED: Final = "file_exhausted"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a node's zones are to be raised, and how many pages the kernel touched (0 where it does not say)."""

    reason: str
    pages: int


class Check(NamedTuple):
    """One condition: what was looked at, how much that was (pages), and what it has to be. `instead` holds in its
    place, where there is one.
    """

    what: str
    pages: int
    sign: str
    limit: int
    instead: Check | None = None

    @property
    def met(self) -> bool:
        """Whether it is met itself."""
        return self.pages >= self.limit if self.sign == ">=" else self.pages <= self.limit

    @property
    def holds(self) -> bool:
        """Whether it is met, or what may be met in its place is."""
        return self.met or (self.instead is not None and self.instead.holds)


class Verdict(NamedTuple):
    """What a rule says of a node: `title` tells rules of one reason apart, `pages` is what the kernel touched."""

    reason: str
    title: str
    pages: int
    checks: tuple[Check, ...]

    @property
    def fires(self) -> bool:
        """Whether all conditions hold."""
        return all(check.holds for check in self.checks)


def find_evidence(measured: Measured) -> dict[int, Evidence]:
    """The nodes whose anonymous pages the kernel turned to, or is about to."""
    found: dict[int, Evidence] = {}
    for node, verdicts in judge(measured).items():
        for verdict in verdicts:
            if verdict.fires:
                found[node] = Evidence(verdict.reason, verdict.pages)
    return found


def judge(measured: Measured) -> dict[int, tuple[Verdict, ...]]:
    """What each rule says of each node. Of those that fire the last one is the evidence."""
    touched = Touched(_scanned(measured), _deactivated(measured))
    return {node: tuple(rule(measured, node, touched) for rule in RULES) for node in measured.forecasts}


class Touched(NamedTuple):
    """Anonymous pages that global reclaim touched, by node: what it scanned of them, and what it deactivated."""

    scanned: Mapping[int, int]
    deactivated: Mapping[int, int]


def exhausted(measured: Measured, node: int, _touched: Touched) -> Verdict:
    """What is left lasts no longer than programs need to act, and something takes it."""
    forecast = measured.forecasts[node]
    reclaims = Check("scanned by global reclaim", measured.reclaim.scanned_pages, ">=", 1)
    checks = (
        Check("left", forecast.left_pages, "<=", forecast.headroom_pages),
        Check("taken since it was most", forecast.taken_pages, ">=", SWAP_CLUSTER_PAGES, instead=reclaims),
    )
    return Verdict(FILE_EXHAUSTED, "what is left runs out", 0, checks)


def deactivates(measured: Measured, node: int, touched: Touched) -> Verdict:
    """Anonymous pages became inactive, and there is nothing else to take."""
    pages = touched.deactivated.get(node, 0)
    checks = (Check("anonymous pages moved to the inactive list", pages, ">=", 1), _past_help(measured, node))
    return Verdict(ANON_DEACTIVATE, "deactivated, and page cache cannot help", pages, checks)


def scans(measured: Measured, node: int, touched: Touched) -> Verdict:
    """Anonymous pages were scanned, and there is nothing else to take."""
    pages = touched.scanned.get(node, 0)
    checks = (Check("anonymous pages scanned", pages, ">=", 1), _past_help(measured, node))
    return Verdict(ANON_SCAN, "scanned, and page cache cannot help", pages, checks)


def scans_in_earnest(measured: Measured, node: int, touched: Touched) -> Verdict:
    """Anonymous pages were scanned although there is page cache to take, and it was not for page cache."""
    pages = touched.scanned.get(node, 0)
    recent, page_kb = measured.recent, measured.machine.page_kb
    left_pages = measured.forecasts[node].cache_pages
    part = min(measured.anon_pages // choices.ANON_FRACTION, choices.ANON_KB // page_kb)
    least = max(SWAP_CLUSTER_PAGES, part)
    little = max(SWAP_CLUSTER_PAGES, recent.anon_taken_pages // choices.FILE_PART)
    took = Check("taken by programs within a second", recent.anon_grown_pages, ">=", least)
    checks = (
        Check("anonymous pages scanned", pages, ">=", 1),
        Check("anonymous pages scanned within a second", recent.anon_pages, ">=", least),
        Check(f"{choices.ANON_SHARE} times that", recent.anon_pages * choices.ANON_SHARE, ">=", recent.scanned_pages),
        Check("page cache read within a second", recent.file_read_pages, "<=", little, instead=took),
        Check("anonymous pages in all", measured.anon_pages, ">=", left_pages // choices.ANON_SHARE),
    )
    return Verdict(ANON_SCAN, "scanned in earnest", pages, checks)


RULES: Final = (exhausted, deactivates, scans, scans_in_earnest)


def _past_help(measured: Measured, node: int) -> Check:
    forecast = measured.forecasts[node]
    return Check("left without swap", forecast.cache_pages, "<=", forecast.floor_pages)


def _scanned(measured: Measured) -> dict[int, int]:
    """Anonymous pages that global reclaim scanned, by node."""
    pages = measured.reclaim.anon_pages
    if not pages:
        return {}
    return _traced(measured, LRU_SHRINK_INACTIVE) or dict.fromkeys(_likely_nodes(measured), pages)


def _deactivated(measured: Measured) -> dict[int, int]:
    """Anonymous pages that it moved from the active to the inactive list, by node. MGLRU has no such lists."""
    if measured.machine.mglru:
        return {}
    return _moved_by_counters(measured) if measured.now.events is None else _traced(measured, LRU_SHRINK_ACTIVE)


def _traced(measured: Measured, name: str) -> dict[int, int]:
    """Anonymous pages by node in the trace events called `name`, those of global reclaim only."""
    before, now = measured.before.vmstat, measured.now.vmstat
    by_kswapd = grown(before.pgscan_kswapd, now.pgscan_kswapd)
    by_direct = grown(before.pgscan_direct, now.pgscan_direct)
    pages: Counter[int] = Counter()
    for event in measured.now.events or ():
        was_global = by_kswapd if event.kswapd else by_direct
        if was_global and event.anon and event.name == name and event.node is not None:
            pages[event.node] += _pages_of(event)
    return {node: count for node, count in pages.items() if count}


def _pages_of(event: TraceEvent) -> int:
    return (event.deactivated_pages if event.name == LRU_SHRINK_ACTIVE else event.scanned_pages) or 0


def _moved_by_counters(measured: Measured) -> dict[int, int]:
    """Active→inactive movement as the zone counters show it: one list lost what the other gained."""
    if not grown(measured.before.vmstat.pgrefill, measured.now.vmstat.pgrefill):
        return {}
    earlier = {zone.id: zone for zone in measured.before.zoneinfo.zones}
    moved: Counter[int] = Counter()
    for zone in measured.now.zoneinfo.zones:
        was = earlier.get(zone.id)
        if was is not None:
            lost = was.active_anon_pages - zone.active_anon_pages
            gained = zone.inactive_anon_pages - was.inactive_anon_pages
            moved[zone.id.node] += max(0, min(lost, gained))
    return {node: pages for node, pages in moved.items() if pages}


def _likely_nodes(measured: Measured) -> list[int]:
    """The nodes that a system-wide count may be about: short of free pages, and best with fewer anonymous ones."""
    short = [node for node in measured.forecasts if _is_short_of_free_pages(measured.now, node)]
    anon = {node: _anon_of(measured.now, node) - _anon_of(measured.before, node) for node in short}
    return [node for node in short if anon[node] < 0] or short


def _is_short_of_free_pages(sample: Sample, node: int) -> bool:
    return any(zone.anon_pages and zone.free_pages <= clear_pages(zone) for zone in zones_of(sample, node))


def _anon_of(sample: Sample, node: int) -> int:
    return sum(zone.anon_pages for zone in zones_of(sample, node))
