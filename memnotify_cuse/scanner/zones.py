"""The state of every zone: ignored, clear, or under pressure. A state machine without I/O.

    clear ──evidence on its node, and free ≤ 2 × (high + reserve)──▶ pressure
    pressure ──free > 2 × (high + reserve)──▶ clear

Zones with fewer present pages than a tenth of their node's are ignored (rules of the v6 mem_notify patch).
"""

from __future__ import annotations

from dataclasses import dataclass

from memnotify_cuse.board import STATUS_CLEAR, STATUS_IGNORED, STATUS_PRESSURE, ZoneState
from memnotify_cuse.kernel.zoneinfo import Zone, ZoneId
from memnotify_cuse.scanner.evidence import FILE_EXHAUSTED, Evidence, Machine, clear_pages, find_evidence
from memnotify_cuse.scanner.sample import Sample

SMALL_ZONE_FRACTION = 10


@dataclass(frozen=True, slots=True)
class Scan:
    """What one sample came to: every populated zone's state, and those that gave evidence in it."""

    states: tuple[ZoneState, ...]
    moved: tuple[ZoneId, ...]


class ZoneTracker:
    """Follows the zones from sample to sample."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._before: Sample | None = None
        self._states: dict[ZoneId, ZoneState] = {}

    @property
    def states(self) -> tuple[ZoneState, ...]:
        return tuple(self._states.values())

    def update(self, sample: Sample) -> Scan:
        """Take in the next sample; the first one raises nothing, since there is nothing to compare it with."""
        evidence = find_evidence(self._before, sample, self._machine) if self._before else {}
        present: dict[int, int] = {}
        for zone in sample.zoneinfo.zones:
            present[zone.id.node] = present.get(zone.id.node, 0) + zone.present_pages
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
            if found and short and _concerns(found, zone):
                states[zone.id] = self._raised(zone, found, sample.time_ns)
                moved.append(zone.id)
            else:
                was_raised = zone.id in self._states and self._states[zone.id].under_pressure
                states[zone.id] = self._next(zone, STATUS_PRESSURE if was_raised and short else STATUS_CLEAR)
        self._states = states
        self._before = sample
        return Scan(tuple(states.values()), tuple(moved))

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


def _concerns(evidence: Evidence, zone: Zone) -> bool:
    """Anonymous pages can only have been taken from a zone that has some."""
    return evidence.reason == FILE_EXHAUSTED or zone.anon_pages > 0
