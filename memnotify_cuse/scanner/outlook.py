"""How much memory is left on each node, how fast it shrinks, and so how long it lasts. Pure.

What is *left* is what programs can have before the kernel has nowhere to take it from: free and file pages above high
watermark and reserve, without program text (taking that only makes it fault in again), and as much of the swap as can
be had without spending memory on it.

*Text* is estimated from what is mapped of files. But a program may map its data as well: `git gc` maps packs of half
the size of memory, and reads them once. Reclaim keeps text on the active list and lets such data go. So no more is
taken for text than is on that list, and a part of the node that a machine's programs may need before the kernel has had
occasion to sort them; under MGLRU, whose counters do not say what is in use, no more than that part.

The rate is the net decline over the last quarter of a second or the last second, whichever is faster, so that a short
burst counts for a part and a load that takes and gives for nothing; the fastest of the last three seconds is kept,
because the programs that heed a notice slow the decline without stopping its cause.

The *headroom* is how much must be left when a notice has to go out: what is taken at that rate until somebody has
been told and has given memory back, which is measured too. It is never less than a floor, so that a slow decline is
told of as well, and never more than a sixteenth of the node, so that a fast one is not told of while most of the memory
is still there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from memnotify_cuse.carried import CarriedNode
from memnotify_cuse.kernel.zoneinfo import Node, Zone
from memnotify_cuse.record import LEVEL_CRITICAL, LEVEL_LOW, LEVEL_MEDIUM
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.sample import Sample

SHORT_NS: Final = 250_000_000
LONG_NS: Final = 1_000_000_000
KEPT_NS: Final = 3_000_000_000

LEAST_REACTION_S: Final = 1.0
MOST_REACTION_S: Final = 3.0
NOTICE_S: Final = 0.6
"""From the sample that sees it to the memory that comes back: up to three notification intervals, and twice what
programs were seen to take, since the one whose turn it is may not be the one with memory to give."""

GAVE_KB: Final = 1024
"""So much more, from one sample to the next, is somebody who gave memory back."""
PATIENCE_NS: Final = 2_000_000_000
RESPONSE_KEPT_NS: Final = 60_000_000_000

FLOOR_FRACTION: Final = 64
LEAST_KB: Final = 4 * 1024
MOST_FLOOR_KB: Final = 64 * 1024
MOST_FRACTION: Final = 16

TEXT_FRACTION: Final = 16
LEAST_TEXT_KB: Final = 32 * 1024
MOST_TEXT_KB: Final = 512 * 1024
"""What programs may need for their text, a part of the node within these bounds, whatever the lists say."""

MEDIUM_S: Final = 5.0
CRITICAL_S: Final = 0.5
CRITICAL_FRACTION: Final = 4
"""Critical is what lasts half a second at the present rate, or a quarter of the headroom's floor."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """One node: pages left, and those of them that swap has no part in; pages a second that they decline by (0: they
    do not); the headroom and its floor; and the pages of program text, which are not among those left.
    """

    left_pages: int
    cache_pages: int
    decline_pages_s: float
    headroom_pages: int
    floor_pages: int
    declining: bool
    text_pages: int = 0

    @property
    def lasts_s(self) -> float:
        """How long what is left lasts at that rate."""
        return max(0, self.left_pages) / self.decline_pages_s if self.decline_pages_s > 0 else float("inf")

    @property
    def exhausted(self) -> bool:
        """Whether no more is left than the headroom."""
        return self.left_pages <= self.headroom_pages

    def is_short(self, zone: Zone) -> bool:
        """Whether a zone of an exhausted node has no more than the headroom left itself."""
        return zone_left_pages(zone) - self.text_pages <= self.headroom_pages

    @property
    def page_cache_can_help(self) -> bool:
        """Whether reclaim has enough clean pages to take before it comes to anonymous ones."""
        return self.cache_pages > self.floor_pages

    @property
    def recovered_pages(self) -> int:
        """How much must be left for it to be no longer exhausted: more than the headroom, lest it flap."""
        return self.headroom_pages * 3 // 2

    @property
    def level(self) -> str:
        """What comes next, for a node under pressure."""
        if self.left_pages <= self.floor_pages // CRITICAL_FRACTION or self.lasts_s <= CRITICAL_S:
            return LEVEL_CRITICAL
        return LEVEL_MEDIUM if self.exhausted or self.lasts_s <= MEDIUM_S else LEVEL_LOW


def left_pages(zones: list[Zone]) -> int:
    """Free and file pages above high watermark and reserve, zone by zone: what programs can get without swap."""
    return sum(map(zone_left_pages, zones))


def zone_left_pages(zone: Zone) -> int:
    """What programs can get from one zone without swap."""
    return max(0, zone.free_pages + zone.file_pages - zone.high_pages - zone.lowmem_reserve_pages)


def zones_of(sample: Sample, node: int) -> list[Zone]:
    """The populated zones of a node."""
    return [zone for zone in sample.zoneinfo.zones if zone.id.node == node and zone.present_pages]


def text_pages(node: Node, zones: list[Zone], machine: Machine) -> int:
    """Mapped file pages that are taken for program text."""
    mapped = (node.mapped_pages or 0) - (node.shmem_pages or 0)
    least, most = LEAST_TEXT_KB // machine.page_kb, MOST_TEXT_KB // machine.page_kb
    likely = min(max(_managed(zones) // TEXT_FRACTION, least), most)
    if not machine.mglru:
        likely += sum(zone.active_file_pages for zone in zones)
    return min(max(0, mapped), likely, sum(zone.file_pages for zone in zones))


def floor_pages(zones: list[Zone], page_kb: int) -> int:
    """The least headroom: a 64th of the node, 4 to 64 MiB."""
    return min(max(_managed(zones) // FLOOR_FRACTION, LEAST_KB // page_kb), MOST_FLOOR_KB // page_kb)


class Responses:
    """How long it took, from the sample that exhausted a node, until somebody gave memory back."""

    def __init__(self) -> None:
        self._told_ns: int | None = None
        self._seen: deque[tuple[int, float]] = deque()

    def update(self, now_ns: int, *, told: bool, gave: bool) -> None:
        """Take in a sample: whether it is one that programs are told of, and whether there is more than before."""
        if self._told_ns is not None and (gave or now_ns - self._told_ns > PATIENCE_NS):
            if gave:
                self._seen.append((now_ns, (now_ns - self._told_ns) / 1e9))
            self._told_ns = None
        if told and self._told_ns is None:
            self._told_ns = now_ns

    def reaction_s(self, now_ns: int) -> float:
        """The time to allow for, by the slowest of the last minute."""
        while self._seen and self._seen[0][0] < now_ns - RESPONSE_KEPT_NS:
            self._seen.popleft()
        return min(max(LEAST_REACTION_S, NOTICE_S + 2 * self.slowest_s), MOST_REACTION_S)

    @property
    def slowest_s(self) -> float:
        """The slowest of those that are kept, 0 without any."""
        return max((seen_s for _, seen_s in self._seen), default=0.0)

    def saw(self, now_ns: int, seen_s: float) -> None:
        """Another tracker has seen it take so long."""
        self._seen.append((now_ns, seen_s))


class OutlookTracker:
    """Follows what is left on each node. `headroom_kb`, if given, takes the place of what is measured.

    `machine` may be replaced, when its LRU is switched.
    """

    def __init__(self, machine: Machine, headroom_kb: int | None = None) -> None:
        self.machine = machine
        self._page_kb = machine.page_kb
        self._headroom_kb = headroom_kb
        self._history: dict[int, deque[tuple[int, int]]] = {}
        self._peaks: dict[int, deque[tuple[int, float]]] = {}
        self._responses: dict[int, Responses] = {}

    def update(self, sample: Sample) -> dict[int, Outlook]:
        """Take in the next sample; the outlook of every node that has memory."""
        return {
            node.node: self._node(node, zones, sample)
            for node in sample.zoneinfo.nodes
            if (zones := zones_of(sample, node.node))
        }

    def carried(self) -> tuple[CarriedNode, ...]:
        """What the next tracker cannot see by itself: rates that are kept, and how slow programs were."""
        return tuple(
            CarriedNode(
                node,
                round(max(rate for _, rate in self._peaks[node])),
                round(self._responses[node].slowest_s * 1000),
            )
            for node in self._history
        )

    def go_on(self, nodes: Iterable[CarriedNode], time_ns: int) -> None:
        """Take over what a tracker knew at `time_ns`, before the first sample of this one."""
        for each in nodes:
            self._peaks[each.node] = deque([(time_ns, float(each.decline_pages_s))])
            self._responses[each.node] = responses = Responses()
            if each.response_ms:
                responses.saw(time_ns, each.response_ms / 1000)

    def _node(self, node: Node, zones: list[Zone], sample: Sample) -> Outlook:
        now_ns = sample.time_ns
        swap_gain_pages = sample.swap_gain_kb // self._page_kb
        swap_free_pages = sample.meminfo.swap_free_kb // self._page_kb
        text = text_pages(node, zones, self.machine)
        cache = left_pages(zones) - text
        left = cache + min(swap_gain_pages, sum(zone.anon_pages for zone in zones))
        # Without watermarks and text, and with swap as it is: where those are raised, or what is text, or what swap
        # wins, is estimated anew, nobody has taken anything.
        had = sum(zone.free_pages + zone.file_pages for zone in zones) + swap_free_pages
        history = self._history.setdefault(node.node, deque())
        before = history[-1][1] if history else had
        declining = had < before
        history.append((now_ns, had))
        while len(history) > 3 and history[1][0] <= now_ns - LONG_NS:
            history.popleft()
        peaks = self._peaks.setdefault(node.node, deque())
        peaks.append((now_ns, max(_decline(history, SHORT_NS), _decline(history, LONG_NS))))
        while peaks[0][0] <= now_ns - KEPT_NS:
            peaks.popleft()
        decline = max(rate for _, rate in peaks)
        floor = floor_pages(zones, self._page_kb)
        responses = self._responses.setdefault(node.node, Responses())
        headroom = self._headroom(zones, floor, decline * responses.reaction_s(now_ns))
        gave = (had - before) * self._page_kb >= GAVE_KB
        responses.update(now_ns, told=left <= headroom and declining, gave=gave)
        return Outlook(left, cache, decline, headroom, floor, declining, text)

    def _headroom(self, zones: list[Zone], floor: int, taken_pages: float) -> int:
        if self._headroom_kb is not None:
            return self._headroom_kb // self._page_kb
        return min(max(floor, int(taken_pages)), max(floor, _managed(zones) // MOST_FRACTION))


def _decline(history: deque[tuple[int, int]], window_ns: int) -> float:
    """Pages a second by which less is had now than at the window's begin; 0 if it is not less.

    The largest drop is left out, and the others stand for it: a step says nothing of a rate.
    """
    now_ns, now_had = history[-1]
    drops = []
    begin_ns, begin_had = now_ns, now_had
    for time_ns, had in islice(reversed(history), 1, None):
        drops.append(had - begin_had)
        begin_ns, begin_had = time_ns, had
        if now_ns - begin_ns >= window_ns:
            break
    if len(drops) < 2:
        return 0.0
    steady = (begin_had - now_had - max(drops)) * len(drops) / (len(drops) - 1)
    return max(0.0, steady) / (max(now_ns - begin_ns, window_ns) / 1e9)


def _managed(zones: list[Zone]) -> int:
    return sum(zone.managed_pages or zone.present_pages for zone in zones)
