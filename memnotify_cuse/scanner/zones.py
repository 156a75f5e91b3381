"""The state of every zone: ignored, clear, or under pressure. A state machine without I/O.

    clear ──evidence on its node, and free ≤ 2 × (high + reserve)──▶ pressure
    pressure ──free > 2 × (high + reserve)──▶ clear

Where what is left runs out (`file_exhausted`), free pages may be far above that threshold a moment before there are
none: with no page cache to speak of, they fall in a straight line. Then what is left on the node stands in for it:

    clear ──file_exhausted, and no more than the headroom left in the zone──▶ pressure
    pressure ──free > 2 × (high + reserve), and more left on the node than headroom and its floor──▶ clear

Nothing keeps pages of a memory cgroup free: page cache fills it to its limit, and stays. So for one of those it is what
is left, and not what is free, in both directions; and where swap has room, what is left without it.

Zones with fewer present pages than a tenth of their node's are ignored (rules of the v6 mem_notify patch).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from memnotify_cuse.board import STATUS_CLEAR, STATUS_IGNORED, STATUS_PRESSURE, ZoneState
from memnotify_cuse.carried import Carried, CarriedNode, CarriedZone
from memnotify_cuse.domain import CgroupId
from memnotify_cuse.kernel.zoneinfo import Zone, ZoneId
from memnotify_cuse.scanner import choices
from memnotify_cuse.scanner.evidence import FILE_EXHAUSTED, Evidence, find_evidence
from memnotify_cuse.scanner.forecast import Forecast, clear_pages
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.measured import Measured, Measurer
from memnotify_cuse.scanner.sample import Sample

SMALL_ZONE_FRACTION: Final = 10
"""Rule of the v6 mem_notify patch."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What one sample came to: every populated zone's state, those that gave evidence in it, and what was measured."""

    states: tuple[ZoneState, ...]
    moved: tuple[ZoneId, ...]
    measured: Measured


class ZoneTracker:
    """Follows the zones from sample to sample."""

    def __init__(
        self,
        machine: Machine,
        headroom_kb: int | None = None,
        *,
        ceiling_fraction: int = choices.CEILING_FRACTION,
    ) -> None:
        self._measurer = Measurer(machine, headroom_kb, ceiling_fraction)
        self._states: dict[ZoneId, ZoneState] = {}

    @property
    def states(self) -> tuple[ZoneState, ...]:
        return tuple(self._states.values())

    @property
    def forecast(self) -> tuple[CarriedNode, ...]:
        """What the next scanner is to know of the nodes."""
        return self._measurer.carried()

    def go_on(self, sample: Sample, carried: Carried) -> None:
        """Begin with the last sample of another tracker, and what was known then."""
        self._measurer.go_on(carried.nodes, sample.time_ns)
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
        measured = self._measurer.measure(sample)
        evidence = find_evidence(measured)
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
            forecast = measured.forecasts[zone.id.node]
            found = evidence.get(zone.id.node)
            if zone.present_pages * SMALL_ZONE_FRACTION < present[zone.id.node]:
                states[zone.id] = self._next(zone, STATUS_IGNORED, forecast)
            elif found and has_a_share(zone, anon[zone.id.node]) and is_short(zone, found, forecast):
                states[zone.id] = self._raised(zone, found, sample.time_ns, forecast)
                moved.append(zone.id)
            else:
                was_raised = zone.id in self._states and self._states[zone.id].under_pressure
                remains = was_raised and _remains_short(zone, forecast)
                states[zone.id] = self._next(zone, STATUS_PRESSURE if remains else STATUS_CLEAR, forecast)
        self._states = states
        return Scan(tuple(states.values()), tuple(moved), measured)

    def _raised(self, zone: Zone, found: Evidence, time_ns: int, forecast: Forecast) -> ZoneState:
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
            short_pages=_short_pages(zone, forecast),
            level=forecast.level,
        )

    def _next(self, zone: Zone, status: int, forecast: Forecast) -> ZoneState:
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
            short_pages=_short_pages(zone, forecast),
            level=forecast.level,
        )


def is_short(zone: Zone, found: Evidence, forecast: Forecast) -> bool:
    """Whether a zone of a node with evidence is to be raised."""
    if found.reason == FILE_EXHAUSTED:
        return forecast.is_short(zone)
    return zone.free_pages <= clear_pages(zone)


def _remains_short(zone: Zone, forecast: Forecast) -> bool:
    if isinstance(zone.id, CgroupId):
        return forecast.cache_pages <= 2 * forecast.floor_pages or forecast.left_pages <= forecast.recovered_pages
    return zone.free_pages <= clear_pages(zone) or forecast.left_pages <= forecast.recovered_pages


def _short_pages(zone: Zone, forecast: Forecast) -> int:
    short = max(0, forecast.left_alone_pages - forecast.left_pages)
    # What is taken in a second may be more than a cgroup has in all.
    return min(short, zone.present_pages - zone.free_pages) if isinstance(zone.id, CgroupId) else short


def has_a_share(zone: Zone, node_anon_pages: int) -> bool:
    """Anonymous pages can only be taken from a zone that has some, more than crumbs of its node's."""
    return zone.anon_pages > 0 and zone.anon_pages * choices.ANON_FRACTION >= node_anon_pages
