"""How much memory is left on a node, how fast that shrinks, and so how long it lasts. Pure.

What is *left* is what programs can have before the kernel has nowhere to take it from: free and file pages above high
watermark and reserve, without program text (taking that only makes it fault in again); what the kernel's own caches
have grown by; what ZFS holds above its minimum; and for anonymous pages, the room on slower nodes that they are demoted
to, and as much of the swap as can be had without spending memory on it.

The *kernel's caches* (reclaimable slab) cannot be taken as a whole: directory entries and inodes in use stay, 38 MiB of
a guest of 512 MiB at its OOM kill. How much that is, is not counted. So what has been there all along is taken to be in
use, and what it has grown by counts as in MemAvailable (si_mem_available(): all but half, or the low watermark if that
is less). While programs have to reclaim for themselves (`allocstall`), kswapd, which shrinks them, does not keep up.
Then it counts only if it has become less within the last second, which shows that it can be had; what ZFS holds does
not count then. What came of that shows a quarter of a second later.

*Text* is estimated from what is mapped of files. But a program may map its data as well: `git gc` maps packs of half
the size of memory, and reads them once. Reclaim keeps text on the active list and lets such data go. So no more is
taken for text than is on that list, and a part of the node that a machine's programs may need before the kernel has had
occasion to sort them; under MGLRU, whose counters do not say what is in use, no more than that part.

The *rate* is the net decline over the last quarter of a second or the last second, whichever is faster; the fastest of
the last three seconds is kept.

The *headroom* is how much must be left when a notice has to go out: what is taken at that rate until a program has
been told and has given memory back. It is never less than a floor, so that a slow decline is told of as well, and never
more than a sixteenth of the node, so that a fast one is not told of while most of the memory is still there.
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
from memnotify_cuse.scanner import choices
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.sample import Sample

SWAP_CLUSTER_PAGES: Final = 32
"""The kernel reclaims in batches of this many pages (SWAP_CLUSTER_MAX)."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """One node: pages left, and those of them that swap has no part in; pages a second that they decline by (0: they
    do not), and by how many they are fewer than at their most since they were last fewer; the headroom and its floor;
    and the pages of program text, which are not among those left.
    """

    left_pages: int
    cache_pages: int
    decline_pages_s: float
    headroom_pages: int
    floor_pages: int
    taken_pages: int = 0
    text_pages: int = 0

    @property
    def lasts_s(self) -> float:
        """How long what is left lasts at that rate."""
        if self.left_pages <= 0:
            return 0.0
        return self.left_pages / self.decline_pages_s if self.decline_pages_s > 0 else float("inf")

    @property
    def exhausted(self) -> bool:
        """Whether no more is left than the headroom."""
        return self.left_pages <= self.headroom_pages

    @property
    def declining(self) -> bool:
        """Whether less is left than before, by as much as reclaim takes at a time: less than that is noise."""
        return self.taken_pages >= SWAP_CLUSTER_PAGES

    def is_short(self, zone: Zone) -> bool:
        """Whether a zone of an exhausted node has no more than the headroom left itself."""
        return zone_left_pages(zone) - self.text_pages <= self.headroom_pages

    @property
    def recovered_pages(self) -> int:
        """How much must be left for it to be no longer exhausted: more than the headroom, lest it flap."""
        return self.headroom_pages + self.floor_pages

    @property
    def left_alone_pages(self) -> int:
        """How much must be left for programs to be left alone until they have had time to act."""
        return self.headroom_pages + max(self.floor_pages, int(self.decline_pages_s * choices.REACTION_S))

    @property
    def level(self) -> str:
        """What comes next, for a node under pressure."""
        if self.lasts_s <= choices.CRITICAL_S:
            return LEVEL_CRITICAL
        return LEVEL_MEDIUM if self.exhausted or self.lasts_s <= choices.MEDIUM_S else LEVEL_LOW


def left_pages(zones: list[Zone]) -> int:
    """Free and file pages above high watermark and reserve, zone by zone: what programs can get without swap."""
    return sum(map(zone_left_pages, zones))


def zone_left_pages(zone: Zone) -> int:
    """What programs can get from one zone without swap."""
    return max(0, zone.free_pages + zone.file_pages - zone.high_pages - zone.lowmem_reserve_pages)


def zones_of(sample: Sample, node: int) -> list[Zone]:
    """The populated zones of a node."""
    return [zone for zone in sample.zoneinfo.zones if zone.id.node == node and zone.present_pages]


def slab_pages(node: Node, zones: list[Zone], least_pages: int) -> int:
    """Pages of the kernel's own caches that can be had, of those above the least that there ever were."""
    slab = max(0, (node.slab_reclaimable_pages or 0) - least_pages)
    low = sum(zone.high_pages if zone.low_pages is None else zone.low_pages for zone in zones)
    return slab - min(slab // 2, low)


def arc_pages(node: Node, zones: list[Zone], arc_gain_pages: int) -> int:
    """Pages of what ZFS gives back, no more than there are of those that nothing else accounts for."""
    known = sum(zone.free_pages + zone.file_pages + zone.anon_pages for zone in zones)
    return min(arc_gain_pages, max(0, _managed(zones) - known - (node.slab_reclaimable_pages or 0)))


def text_pages(node: Node, zones: list[Zone], machine: Machine) -> int:
    """Mapped file pages that are taken for program text."""
    mapped = (node.mapped_pages or 0) - (node.shmem_pages or 0)
    likely = _managed(zones) // choices.CEILING_FRACTION
    if not machine.mglru:
        likely += sum(zone.active_file_pages for zone in zones)
    return min(max(0, mapped), likely, sum(zone.file_pages for zone in zones))


def clear_pages(zone: Zone) -> int:
    """2 × (high watermark + lowmem reserve): above this many free pages a zone is not under pressure."""
    return 2 * (zone.high_pages + zone.lowmem_reserve_pages)


def floor_pages(zones: list[Zone]) -> int:
    """The least headroom: a part of the node, no more than twice its high watermarks, which the 2008 patch goes by."""
    return min(_managed(zones) // choices.FLOOR_FRACTION, 2 * sum(zone.high_pages for zone in zones))


class Forecaster:
    """Follows what is left on each node. `headroom_kb`, if given, takes the place of what is measured, which is no more
    than one in `ceiling_fraction` of the node.

    `machine` may be replaced, when its LRU is switched.
    """

    def __init__(
        self,
        machine: Machine,
        headroom_kb: int | None = None,
        ceiling_fraction: int = choices.CEILING_FRACTION,
    ) -> None:
        self.machine = machine
        self._ceiling_fraction = ceiling_fraction
        self._page_kb = machine.page_kb
        self._headroom_kb = headroom_kb
        self._most: dict[int, int] = {}
        self._least_slab: dict[int, int] = {}
        self._slab: dict[int, deque[tuple[int, int]]] = {}
        self._history: dict[int, deque[tuple[int, int]]] = {}
        self._peaks: dict[int, deque[tuple[int, float]]] = {}

    def update(self, sample: Sample, *, demotes: bool = False, stalls: bool = False) -> dict[int, Forecast]:
        """Take in the next sample; the forecast of every node that has memory.

        `demotes`: pages are demoted just now. Where the kernel does not say from which nodes, it may be any of them.
        `stalls`: within the last second programs had to reclaim for themselves, and what came of it shows by now.
        """
        zones = {node.node: zones_of(sample, node.node) for node in sample.zoneinfo.nodes}
        return {
            node.node: self._node(node, zones[node.node], sample, room_below(node.node, zones, sample, demotes), stalls)
            for node in sample.zoneinfo.nodes
            if zones[node.node]
        }

    def carried(self) -> tuple[CarriedNode, ...]:
        """What the next forecaster cannot see by itself: rates that are kept, and the least of slab."""
        return tuple(
            CarriedNode(node, round(max(rate for _, rate in self._peaks[node])), self._least_slab[node])
            for node in self._history
        )

    def go_on(self, nodes: Iterable[CarriedNode], time_ns: int) -> None:
        """Take over what a forecaster knew at `time_ns`, before the first sample of this one."""
        for each in nodes:
            self._peaks[each.node] = deque([(time_ns, float(each.decline_pages_s))])
            self._least_slab[each.node] = each.least_slab_pages

    def _node(self, node: Node, zones: list[Zone], sample: Sample, room: int, stalls: bool) -> Forecast:
        now_ns = sample.time_ns
        text = text_pages(node, zones, self.machine)
        arc = arc_pages(node, zones, sample.arc_gain_kb // self._page_kb)
        anon = sum(zone.anon_pages for zone in zones)
        slab = node.slab_reclaimable_pages or 0
        least = self._least_slab[node.node] = min(slab, self._least_slab.get(node.node, slab))
        given = slab_pages(node, zones, least) if self._shrinks(node.node, now_ns, slab) or not stalls else 0
        shrinks = given + (0 if stalls else arc)
        cache = left_pages(zones) - text + shrinks + min(room, anon)
        left = cache + min(sample.swap_gain_kb // self._page_kb, max(0, anon - room))
        # Without watermarks and text, and with swap as it is: where those are raised, or what is text, or what swap
        # wins, is estimated anew, nothing has been taken.
        had = sum(zone.free_pages + zone.file_pages for zone in zones) + slab + arc
        had += sample.meminfo.swap_free_kb // self._page_kb
        decline = self._rate(node.node, now_ns, had)
        floor = floor_pages(zones)
        headroom = self._headroom(zones, floor, decline)
        return Forecast(left, cache, decline, headroom, floor, self._taken(node.node, had), text)

    def _rate(self, node: int, now_ns: int, had: int) -> float:
        history = self._history.setdefault(node, deque())
        history.append((now_ns, had))
        while len(history) > 3 and history[1][0] <= now_ns - choices.SECOND_NS:
            history.popleft()
        peaks = self._peaks.setdefault(node, deque())
        peaks.append((now_ns, max(_decline(history, choices.BURST_NS), _decline(history, choices.SECOND_NS))))
        while peaks[0][0] <= now_ns - choices.RATE_KEPT_NS:
            peaks.popleft()
        return max(rate for _, rate in peaks)

    def _shrinks(self, node: int, now_ns: int, slab: int) -> bool:
        """Whether the kernel's caches are less than within the last second, by as much as is taken at a time."""
        recent = self._slab.setdefault(node, deque())
        recent.append((now_ns, slab))
        while len(recent) > 1 and recent[1][0] <= now_ns - choices.SECOND_NS:
            recent.popleft()
        return max(pages for _, pages in recent) - slab >= SWAP_CLUSTER_PAGES

    def _taken(self, node: int, had: int) -> int:
        """By how much less is had than at its most, since it was last less by a batch."""
        most = max(had, self._most.get(node, had))
        taken = most - had
        self._most[node] = had if taken >= SWAP_CLUSTER_PAGES else most
        return taken

    def _headroom(self, zones: list[Zone], floor: int, decline_pages_s: float) -> int:
        if self._headroom_kb is not None:
            return self._headroom_kb // self._page_kb
        taken = int(decline_pages_s * choices.REACTION_S)
        return max(floor, min(taken, _managed(zones) // self._ceiling_fraction))


def room_below(node: int, zones: dict[int, list[Zone]], sample: Sample, demotes: bool) -> int:
    """How many of the node's pages there is room for on the nodes that they are demoted to."""
    demoting = sample.demoting
    if demoting is None:
        below = [each for each in zones if each != node] if demotes else []
    else:
        below = [each for each in zones if each not in demoting] if node in demoting else []
    return sum(left_pages(zones[each]) for each in below)


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
