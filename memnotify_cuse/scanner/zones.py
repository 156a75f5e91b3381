"""The state of every zone: ignored, clear, or under pressure. A state machine without I/O.

    clear ──evidence on its node, and free ≤ 2 × (high + reserve)──▶ pressure
    pressure ──free > 2 × (high + reserve)──▶ clear

Zones with fewer present pages than a tenth of their node's are ignored (rules of the v6 mem_notify patch).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from memnotify_cuse.board import STATUS_CLEAR, STATUS_IGNORED, STATUS_PRESSURE, ZoneState
from memnotify_cuse.kernel.zoneinfo import Zone, ZoneId
from memnotify_cuse.scanner.evidence import (
    Evidence,
    Machine,
    Reclaim,
    clear_pages,
    find_evidence,
    reclaim_between,
)
from memnotify_cuse.scanner.sample import Sample

SMALL_ZONE_FRACTION = 10
ANON_FRACTION = 64
RECENT_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Scan:
    """What one sample came to: every populated zone's state, and those that gave evidence in it.

    `reclaim` is what global reclaim scanned since the sample before.
    """

    states: tuple[ZoneState, ...]
    moved: tuple[ZoneId, ...]
    reclaim: Reclaim


class ZoneTracker:
    """Follows the zones from sample to sample."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._before: Sample | None = None
        self._states: dict[ZoneId, ZoneState] = {}
        self._recent: deque[tuple[int, Reclaim]] = deque()

    @property
    def states(self) -> tuple[ZoneState, ...]:
        return tuple(self._states.values())

    def update(self, sample: Sample) -> Scan:
        """Take in the next sample; the first one raises nothing, since there is nothing to compare it with."""
        evidence: dict[int, Evidence] = {}
        reclaim = Reclaim()
        if self._before is not None:
            reclaim = reclaim_between(self._before, sample)
            recent = self._within_last_second(reclaim, sample.time_ns)
            evidence = find_evidence(self._before, sample, recent, self._machine)
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
            if zone.present_pages * SMALL_ZONE_FRACTION < present[zone.id.node]:
                states[zone.id] = self._next(zone, STATUS_IGNORED)
                continue
            found = evidence.get(zone.id.node)
            short = zone.free_pages <= clear_pages(zone)
            if found and short and _has_a_share(zone, anon[zone.id.node]):
                states[zone.id] = self._raised(zone, found, sample.time_ns)
                moved.append(zone.id)
            else:
                was_raised = zone.id in self._states and self._states[zone.id].under_pressure
                states[zone.id] = self._next(zone, STATUS_PRESSURE if was_raised and short else STATUS_CLEAR)
        self._states = states
        self._before = sample
        return Scan(tuple(states.values()), tuple(moved), reclaim)

    def _within_last_second(self, reclaim: Reclaim, now_ns: int) -> Reclaim:
        self._recent.append((now_ns, reclaim))
        while self._recent[0][0] <= now_ns - RECENT_NS:
            self._recent.popleft()
        return sum((each for _, each in self._recent), Reclaim())

    def _raised(self, zone: Zone, found: Evidence, time_ns: int) -> ZoneState:
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
        )

    def _next(self, zone: Zone, status: int) -> ZoneState:
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
        )


def _has_a_share(zone: Zone, node_anon_pages: int) -> bool:
    """Anonymous pages can only be taken from a zone that has some, more than crumbs of its node's."""
    return zone.anon_pages > 0 and zone.anon_pages * ANON_FRACTION >= node_anon_pages
