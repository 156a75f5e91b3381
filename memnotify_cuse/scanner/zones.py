"""The state of every zone: ignored, clear, or under pressure. A state machine without I/O.

    clear ──evidence on its node, and free ≤ 2 × (high + reserve)──▶ pressure
    pressure ──free > 2 × (high + reserve)──▶ clear

Where what is left runs out (`file_exhausted`), free pages may be far above that threshold a moment before there are
none: with no page cache to speak of, they fall in a straight line. Then what is left on the node stands in for it:

    clear ──file_exhausted, and no more than the headroom left in the zone──▶ pressure
    pressure ──free > 2 × (high + reserve), and half as much again as the headroom left on the node──▶ clear

Zones with fewer present pages than a tenth of their node's are ignored (rules of the v6 mem_notify patch).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from memnotify_cuse.board import STATUS_CLEAR, STATUS_IGNORED, STATUS_PRESSURE, ZoneState
from memnotify_cuse.carried import Carried, CarriedNode, CarriedZone
from memnotify_cuse.kernel.zoneinfo import Zone, ZoneId
from memnotify_cuse.scanner.evidence import (
    FILE_EXHAUSTED,
    Evidence,
    Reclaim,
    clear_pages,
    find_evidence,
    reclaim_between,
)
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.outlook import Outlook, OutlookTracker
from memnotify_cuse.scanner.sample import Sample

SMALL_ZONE_FRACTION = 10
ANON_FRACTION = 64
RECENT_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Scan:
    """What one sample came to: every populated zone's state, and those that gave evidence in it.

    `reclaim` is what global reclaim scanned since the sample before, `outlooks` how much is left on each node.
    """

    states: tuple[ZoneState, ...]
    moved: tuple[ZoneId, ...]
    reclaim: Reclaim
    outlooks: Mapping[int, Outlook]


class ZoneTracker:
    """Follows the zones from sample to sample."""

    def __init__(self, machine: Machine, headroom_kb: int | None = None) -> None:
        self._machine = machine
        self._outlook = OutlookTracker(machine, headroom_kb)
        self._before: Sample | None = None
        self._states: dict[ZoneId, ZoneState] = {}
        self._recent: deque[tuple[int, Reclaim]] = deque()

    @property
    def states(self) -> tuple[ZoneState, ...]:
        return tuple(self._states.values())

    @property
    def outlook(self) -> tuple[CarriedNode, ...]:
        """What the next scanner is to know of the nodes."""
        return self._outlook.carried()

    def go_on(self, sample: Sample, carried: Carried) -> None:
        """Begin with the last sample of another tracker, and what was known then."""
        self._outlook.go_on(carried.nodes, sample.time_ns)
        self.update(sample)
        self.go_on_with(carried.zones)

    def go_on_with(self, zones: Iterable[CarriedZone]) -> None:
        """Take zones for what they were, unless they are gone by now, or ignored."""
        for each in zones:
            state = self._states.get(each.zone)
            if state is not None:
                was = STATUS_PRESSURE if each.pressed else STATUS_CLEAR
                status = STATUS_IGNORED if state.status == STATUS_IGNORED else was
                self._states[each.zone] = replace(
                    state, status=status, reason=each.reason, time_ns=each.time_ns, raised=each.raised
                )

    def update(self, sample: Sample) -> Scan:
        """Take in the next sample; the first one raises nothing, since there is nothing to compare it with."""
        evidence: dict[int, Evidence] = {}
        reclaim = Reclaim()
        machine = self._follow_lru(sample)
        outlooks = self._outlook.update(sample)
        if self._before is not None:
            reclaim = reclaim_between(self._before, sample)
            recent = self._within_last_second(reclaim, sample.time_ns)
            evidence = find_evidence(self._before, sample, reclaim, recent, outlooks, machine)
        present: Counter[int] = Counter()
        anon: Counter[int] = Counter()
        for zone in sample.zoneinfo.zones:
            present[zone.id.node] += zone.present_pages
            anon[zone.id.node] += zone.anon_pages
        states: dict[ZoneId, ZoneState] = {}
        moved = []
        for zone in sample.zoneinfo.zones:
            if not zone.present_pages:
                continue
            outlook = outlooks[zone.id.node]
            if zone.present_pages * SMALL_ZONE_FRACTION < present[zone.id.node]:
                states[zone.id] = self._next(zone, STATUS_IGNORED, outlook)
                continue
            found = evidence.get(zone.id.node)
            if found and _is_short(zone, found, outlook) and _has_a_share(zone, anon[zone.id.node]):
                states[zone.id] = self._raised(zone, found, sample.time_ns, outlook)
                moved.append(zone.id)
            else:
                was_raised = zone.id in self._states and self._states[zone.id].under_pressure
                remains = was_raised and _remains_short(zone, outlook)
                states[zone.id] = self._next(zone, STATUS_PRESSURE if remains else STATUS_CLEAR, outlook)
        self._states = states
        self._before = sample
        return Scan(tuple(states.values()), tuple(moved), reclaim, outlooks)

    def _follow_lru(self, sample: Sample) -> Machine:
        """Take in whether MGLRU is on; the machine by whose rules this sample's evidence is to be judged."""
        if sample.mglru is None or sample.mglru == self._machine.mglru:
            return self._machine
        self._machine = replace(self._machine, mglru=sample.mglru)
        self._outlook.machine = self._machine
        # When it is switched, the kernel moves all pages between its lists, which is no sign of reclaim.
        return replace(self._machine, mglru=True)

    def _within_last_second(self, reclaim: Reclaim, now_ns: int) -> Reclaim:
        self._recent.append((now_ns, reclaim))
        while self._recent[0][0] <= now_ns - RECENT_NS:
            self._recent.popleft()
        return sum((each for _, each in self._recent), Reclaim())

    def _raised(self, zone: Zone, found: Evidence, time_ns: int, outlook: Outlook) -> ZoneState:
        before = self._states.get(zone.id)
        newly = before is None or not before.under_pressure
        return ZoneState(
            zone=zone.id,
            status=STATUS_PRESSURE,
            free_pages=zone.free_pages,
            high_pages=zone.high_pages,
            reserve_pages=zone.lowmem_reserve_pages,
            reason=found.reason,
            time_ns=time_ns,
            raised=(before.raised if before else 0) + newly,
            short_pages=_short_pages(outlook),
            level=outlook.level,
        )

    def _next(self, zone: Zone, status: int, outlook: Outlook) -> ZoneState:
        before = self._states.get(zone.id)
        return ZoneState(
            zone=zone.id,
            status=status,
            free_pages=zone.free_pages,
            high_pages=zone.high_pages,
            reserve_pages=zone.lowmem_reserve_pages,
            reason=before.reason if before else None,
            time_ns=before.time_ns if before else 0,
            raised=before.raised if before else 0,
            short_pages=_short_pages(outlook),
            level=outlook.level,
        )


def _is_short(zone: Zone, found: Evidence, outlook: Outlook) -> bool:
    if found.reason == FILE_EXHAUSTED:
        return outlook.is_short(zone)
    return zone.free_pages <= clear_pages(zone)


def _remains_short(zone: Zone, outlook: Outlook) -> bool:
    return zone.free_pages <= clear_pages(zone) or outlook.left_pages <= outlook.recovered_pages


def _short_pages(outlook: Outlook) -> int:
    return max(0, outlook.recovered_pages - outlook.left_pages)


def _has_a_share(zone: Zone, node_anon_pages: int) -> bool:
    """Anonymous pages can only be taken from a zone that has some, more than crumbs of its node's."""
    return zone.anon_pages > 0 and zone.anon_pages * ANON_FRACTION >= node_anon_pages
