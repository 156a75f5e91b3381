"""The board: what the scanner publishes about every zone, and what the device is told of it.

The scanner writes the state of all zones here after each sample, with the zones whose anonymous pages were
reclaimed in it; a simulation writes here too, and takes the same way from here on. The board merges the two and tells
its listener about *notifications* and about zones whose pressure ended. There is at most one notification in 200 ms
(MEM_NOTIFY_FREQ of the 2008 patch); while a zone's level is critical there are as many as programs answer, at most one
in 20 ms. The board does no I/O and reads no clock: times are CLOCK_MONOTONIC nanoseconds, passed in.

Memory cgroups take the same way, those of them that are under pressure. Each has a rate of its own: what goes on in one
container does not put off what is to be told of the machine, or of another one.

A *rise* is told to every program: the level of a zone under pressure is above the highest one told in that pressure, or
is critical at its first notification. A level that swings does not rise at each swing, since the highest one told is
kept until the level was below it for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from memnotify_cuse.carried import Carried, CarriedZone, ToldLevels
from memnotify_cuse.domain import CgroupId
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_CRITICAL, LEVEL_LOW, LEVELS, Record

NOTIFY_INTERVAL_NS: Final = 200_000_000
"""Least time between two notifications, system-wide (`MEM_NOTIFY_FREQ`, HZ/5, of the v6 patch)."""

CRITICAL_INTERVAL_NS: Final = 20_000_000
"""The same while some zone is critical, as often as the scanner looks then: what is left may not last for 200 ms, and a
program that has given memory back since, and waits again, may have more."""

TOLD_LEVEL_KEPT_NS: Final = 10_000_000_000
"""How long a zone's level must have been below the highest one told before it can rise to that one again."""

STATUS_IGNORED: Final = -1
STATUS_CLEAR: Final = 0
STATUS_PRESSURE: Final = 1

REASON_SIMULATED: Final = "simulated"


@dataclass(frozen=True, slots=True)
class ZoneState:
    """One zone as the scanner sees it.

    `status` is −1 (ignored: too small), 0 (no pressure) or 1 (pressure); `reserve_pages` is the largest entry
    of the zone's protection row; `reason` is the evidence that raised it last and `time_ns` when that was
    seen (None and 0 before the first time); `raised` counts the changes from 0 to 1. `short_pages` is how many pages
    the node as a whole is short of where its pressure ends, beside what the zone is; `level` says what comes next.
    `rises` is the board's, in a notification: every open file is to be told, since the level has risen.
    """

    zone: ZoneId
    status: int
    free_pages: int
    high_pages: int
    reserve_pages: int
    reason: str | None = None
    time_ns: int = 0
    raised: int = 0
    short_pages: int = 0
    level: str = LEVEL_LOW
    rises: bool = False

    @property
    def clear_pages(self) -> int:
        """Free pages above which the zone is not, or no longer, under pressure: 2 × (high + reserve)."""
        return 2 * (self.high_pages + self.reserve_pages)

    @property
    def target_pages(self) -> int:
        """How many pages would have to be freed to end the pressure."""
        return max(0, self.clear_pages - self.free_pages, self.short_pages)

    @property
    def under_pressure(self) -> bool:
        return self.status == STATUS_PRESSURE

    def record(self, page_kb: int) -> Record:
        """The text record of this state; `page_kb` is the page size in KiB."""
        return Record(
            node=self.zone.node,
            zone=self.zone.name,
            pressure=int(self.under_pressure),
            free_pages=self.free_pages,
            high_pages=self.high_pages,
            reserve_pages=self.reserve_pages,
            reclaim_target_kb=self.target_pages * page_kb,
            reason=self.reason or "none",
            time_ns=self.time_ns,
            level=self.level,
        )


class ChangesTold(NamedTuple):
    """To how many files changes of state were told, and whether more are to be told."""

    files: int
    more: bool


class BoardListener:
    """What is told: the device. This one does nothing with it."""

    def follow(self, states: Mapping[ZoneId, ZoneState]) -> None:
        """The states are these now; called before whatever else there is to be told."""

    def changed(self, zones: tuple[ZoneId, ...]) -> ChangesTold:
        """The status or level of `zones` has changed; none: tell those that were left before."""
        return ChangesTold(0, more=False)

    def awaits(self, zones: tuple[ZoneState, ...]) -> bool:
        """Whether a program waits for the next notification about any of `zones`, having answered the last one."""
        return False

    def notified(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        """Anonymous pages of `zones` are being reclaimed, or their level has risen; all are under pressure."""

    def pressure_ended(self, zones: tuple[ZoneId, ...], now_ns: int) -> None:
        """`zones` are no longer under pressure."""


class UnknownZoneError(ValueError):
    """A simulation names a zone that does not exist or that is ignored for its size."""


class _ToldLevel:
    """The highest level told in a zone's pressure, as an index of `LEVELS`, and whether it is due to fall."""

    __slots__ = ("_below_since_ns", "_now", "highest")

    def __init__(self, level: int) -> None:
        self.highest = self._now = level
        self._below_since_ns: int | None = None

    @property
    def carried(self) -> ToldLevels:
        return ToldLevels(self.highest, self._now, self._below_since_ns)

    @classmethod
    def of(cls, carried: ToldLevels) -> _ToldLevel:
        told = cls(carried.highest)
        _, told._now, told._below_since_ns = carried
        return told

    def follow(self, level: int, now_ns: int) -> None:
        """Take in the zone's present level."""
        if self._below_since_ns is not None and now_ns - self._below_since_ns >= TOLD_LEVEL_KEPT_NS:
            self.highest = self._now
            self._below_since_ns = None
        self._now = level
        if level >= self.highest:
            self._below_since_ns = None
        elif self._below_since_ns is None:
            self._below_since_ns = now_ns

    def tell(self) -> None:
        """Programs are told of the present level."""
        self.highest = max(self.highest, self._now)


Watch = Callable[[Mapping[ZoneId, ZoneState], int], None]


def _watch_nothing(_states: Mapping[ZoneId, ZoneState], _now_ns: int) -> None:
    pass


_Rated = ZoneId | None
"""What has a rate of notifications of its own: the machine (None), and each cgroup."""


def _rated(zone: ZoneId) -> _Rated:
    return zone if isinstance(zone, CgroupId) else None


def _is_critical(state: ZoneState) -> bool:
    return state.under_pressure and state.level == LEVEL_CRITICAL


class Board:
    """The state of every zone, simulations laid over it, and the notification rate.

    `watch` is given the states at the end of each `tick`, once all of it was told.

    `deadline_ns` is when `tick` has something to do (None: nothing is due); what drives the board calls
    `tick` then. `changed` is called after each call of another method, when the deadline may be a new one.
    """

    def __init__(
        self, listener: BoardListener, changed: Callable[[], None] = lambda: None, watch: Watch = _watch_nothing
    ) -> None:
        self._listener = listener
        self._changed = changed
        self._watch = watch
        self._zones: dict[ZoneId, ZoneState] = {}
        self._cgroups: dict[ZoneId, ZoneState] = {}
        self._scanned: dict[ZoneId, ZoneState] = {}
        self._effective: dict[ZoneId, ZoneState] = {}
        self._simulated_until_ns: dict[ZoneId, int] = {}
        self._simulated_level: dict[ZoneId, str] = {}
        self._simulated: dict[ZoneId, int] = {}
        self._due: dict[ZoneId, None] = {}
        self._told: dict[ZoneId, _ToldLevel] = {}
        self._risen: frozenset[ZoneId] = frozenset()
        self._shown: dict[ZoneId, tuple[int, str]] = {}
        self._more_to_show = False
        self._next_change_ns = 0
        self._last_notified_ns: dict[_Rated, int] = {}
        self._found_no_program_ns: dict[_Rated, int] = {}
        self._critical: frozenset[_Rated] = frozenset()
        self.notifications = 0

    @property
    def states(self) -> Mapping[ZoneId, ZoneState]:
        """Every populated zone, simulations included, in the order of /proc/zoneinfo; then cgroups under pressure."""
        return self._effective

    @property
    def zones(self) -> list[ZoneState]:
        """Every populated zone, simulations included, in the order of /proc/zoneinfo."""
        return [state for zone, state in self._effective.items() if not isinstance(zone, CgroupId)]

    @property
    def deadline_ns(self) -> int | None:
        deadlines = list(self._simulated_until_ns.values())
        rated = {_rated(zone) for zone in (*self._due, *self._risen, *self._simulated_until_ns)}
        deadlines += [self._next_slot_ns(each) for each in rated]
        if self._more_to_show:
            deadlines.append(self._next_change_ns)
        return min(deadlines, default=None)

    def publish(self, states: Iterable[ZoneState], moved: Collection[ZoneId], now_ns: int) -> None:
        """Take over a scan: the state of all zones, and those of them that gave evidence in it."""
        self._zones = {state.zone: state for state in states}
        self._take_over(moved, now_ns)

    def publish_cgroups(self, pressed: Iterable[ZoneState], moved: Collection[ZoneId], now_ns: int) -> None:
        """Take over a look at cgroups: the state of all that are under pressure, and those that gave evidence in it."""
        self._cgroups = {state.zone: state for state in pressed}
        # One whose pressure comes and goes keeps its rate.
        over_ns = now_ns - NOTIFY_INTERVAL_NS
        for gone in [
            each for each, ns in self._last_notified_ns.items() if each not in self._cgroups and ns <= over_ns
        ]:
            if gone is not None:
                del self._last_notified_ns[gone]
                self._found_no_program_ns.pop(gone, None)
        self._take_over(moved, now_ns)

    def _take_over(self, moved: Collection[ZoneId], now_ns: int) -> None:
        self._scanned = {**self._zones, **self._cgroups}
        for zone in moved:
            self._due[zone] = None
        self.tick(now_ns)
        self._changed()

    def simulate(self, zone: ZoneId | None, duration_ns: int, now_ns: int, level: str = LEVEL_LOW) -> None:
        """Put `zone` (None: all that are not ignored) under simulated pressure of `level` for `duration_ns`.

        A duration of 0 ends a simulation. A zone that is not there, or ignored, is an `UnknownZoneError`.
        """
        eligible = [state.zone for state in self._zones.values() if state.status != STATUS_IGNORED]
        if zone is not None and zone not in eligible:
            raise UnknownZoneError(f"no zone {zone} to simulate; there are {', '.join(map(str, eligible))}")
        for each in eligible if zone is None else [zone]:
            self._simulated_until_ns[each] = now_ns + duration_ns
            self._simulated_level[each] = level
            if duration_ns > 0:
                self._simulated[each] = self._simulated.get(each, 0) + 1
                self._due[each] = None
        self.tick(now_ns)
        self._changed()

    def tick(self, now_ns: int) -> None:
        """Do what is due: end simulations, repeat running ones, send the notification that had to wait."""
        for zone, until_ns in list(self._simulated_until_ns.items()):
            scanned = self._scanned.get(zone)
            if until_ns <= now_ns or scanned is None or scanned.status == STATUS_IGNORED:
                del self._simulated_until_ns[zone], self._simulated_level[zone]
        before = self._effective
        self._effective = {zone: self._overlay(state, now_ns) for zone, state in self._scanned.items()}
        self._listener.follow(self._effective)
        ended = tuple(
            zone
            for zone, state in before.items()
            if state.under_pressure and not (zone in self._effective and self._effective[zone].under_pressure)
        )
        if ended:
            for zone in ended:
                self._told.pop(zone, None)
            self._listener.pressure_ended(ended, now_ns)
        self._risen = frozenset(zone for zone, state in self._effective.items() if self._rises(state, now_ns))
        self._critical = frozenset(_rated(zone) for zone, state in self._effective.items() if _is_critical(state))
        due: dict[_Rated, list[ZoneId]] = {}
        for zone in dict.fromkeys((*self._due, *self._simulated_until_ns, *self._risen)):
            due.setdefault(_rated(zone), []).append(zone)
        notified: list[ZoneState] = []
        for rated, zones in due.items():
            notified += self._take_due(rated, zones, now_ns)
        if notified:
            self._notify(tuple(notified), now_ns)
        self._tell_changes(now_ns)
        self._watch(self._effective, now_ns)

    def _take_due(self, rated: _Rated, due: list[ZoneId], now_ns: int) -> tuple[ZoneState, ...]:
        """Those of one rate that a notification is due about, if there may be one by now."""
        slot_open = now_ns >= self._next_slot_ns(rated)
        if not slot_open:
            # What is simulated, or has risen, will be so at the next slot, or it is not to be told.
            due = [zone for zone in due if zone in self._due]
        zones = tuple(state for state in map(self._effective.get, due) if state and state.under_pressure)
        if slot_open and zones and self._is_for_no_program(rated, zones, now_ns):
            self._found_no_program_ns[rated], slot_open = now_ns, False
            self._due.update(dict.fromkeys(due))
        if slot_open or not zones:
            for zone in due:
                self._due.pop(zone, None)
        return zones if slot_open else ()

    def _tell_changes(self, now_ns: int) -> None:
        """Tell of changes of status and level; while there are many, as often as of pressure."""
        shown = self._to_be_shown()
        if shown == self._shown and not self._more_to_show:
            return
        self._more_to_show = True
        if now_ns < self._next_change_ns:
            return
        changed = tuple(zone for zone, each in shown.items() if self._shown.get(zone) != each)
        self._shown = shown
        told = self._listener.changed(changed)
        self._more_to_show = told.more
        if told.files:
            self._next_change_ns = now_ns + NOTIFY_INTERVAL_NS

    def _to_be_shown(self) -> dict[ZoneId, tuple[int, str]]:
        # Cgroups are not for everybody.
        return {state.zone: (state.status, state.level if state.under_pressure else "") for state in self.zones}

    def snapshot(self) -> Carried:
        """What the board of the next server must know: of zones that were ever under pressure. It looks at cgroups
        itself."""
        zones = (
            CarriedZone(
                zone,
                state.under_pressure,
                state.reason,
                state.time_ns,
                state.raised,
                self._simulated.get(zone, 0),
                self._simulated_until_ns.get(zone),
                zone in self._due,
                self._told[zone].carried if zone in self._told else None,
                simulated_level=self._simulated_level.get(zone, LEVEL_LOW),
            )
            for zone, state in self._zones.items()
            if state.raised or state.under_pressure or zone in self._simulated
        )
        return Carried(self.notifications, self._last_notified_ns.get(None), tuple(zones))

    def restore(self, states: Iterable[ZoneState], carried: Carried, now_ns: int) -> tuple[ZoneState, ...]:
        """Go on where the board of the server before has ended, with `states` as they were then.

        The zones under pressure that it has told of, which the listener does not know yet. Those of them that are gone,
        or ignored by now, end with the next `tick`, as do simulations whose time is over.
        """
        self._zones = {state.zone: state for state in states}
        self._scanned = dict(self._zones)
        self.notifications = carried.notifications
        if carried.last_notified_ns is not None:
            self._last_notified_ns[None] = carried.last_notified_ns
        known = {each.zone: each for each in carried.zones}
        self._simulated = {zone: each.simulations for zone, each in known.items() if each.simulations}
        until_ns = {zone: each.simulated_until_ns for zone, each in known.items()}
        self._simulated_until_ns = {zone: ns for zone, ns in until_ns.items() if ns is not None}
        self._simulated_level = {zone: known[zone].simulated_level for zone in self._simulated_until_ns}
        self._due = {zone: None for zone, each in known.items() if each.due}
        self._told = {zone: _ToldLevel.of(each.told) for zone, each in known.items() if each.told}
        self._effective = {zone: self._overlay(state, now_ns) for zone, state in self._scanned.items()}
        for zone in self._told:
            if zone not in self._effective or not self._effective[zone].under_pressure:
                self._effective[zone] = ZoneState(zone, STATUS_PRESSURE, 0, 0, 0)
        self._shown = self._to_be_shown()
        return tuple(self._effective[zone] for zone in self._told)

    def _notify(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        self._last_notified_ns.update((_rated(state.zone), now_ns) for state in zones)
        self.notifications += 1
        marked = tuple(replace(state, rises=True) if state.zone in self._risen else state for state in zones)
        self._risen -= {state.zone for state in zones}
        for state in zones:
            self._told.setdefault(state.zone, _ToldLevel(LEVELS.index(state.level))).tell()
        self._listener.notified(marked, now_ns)

    def _rises(self, state: ZoneState, now_ns: int) -> bool:
        """Whether `state` has a level that every program is to be told of."""
        if not state.under_pressure:
            return False
        told = self._told.get(state.zone)
        if told is None:
            return state.level == LEVEL_CRITICAL
        level = LEVELS.index(state.level)
        told.follow(level, now_ns)
        return level > told.highest

    def _next_slot_ns(self, rated: _Rated) -> int:
        last_ns = self._last_notified_ns.get(rated)
        if last_ns is None:
            return 0
        regular_ns = last_ns + NOTIFY_INTERVAL_NS
        if rated not in self._critical:
            return regular_ns
        return min(regular_ns, max(last_ns, self._found_no_program_ns.get(rated, 0)) + CRITICAL_INTERVAL_NS)

    def _is_for_no_program(self, rated: _Rated, zones: tuple[ZoneState, ...], now_ns: int) -> bool:
        """Whether a notification that comes sooner than usual would find no program that waits for one."""
        last_ns = self._last_notified_ns.get(rated)
        if last_ns is None or now_ns >= last_ns + NOTIFY_INTERVAL_NS or any(each.zone in self._risen for each in zones):
            return False
        return not self._listener.awaits(zones)

    def _overlay(self, state: ZoneState, now_ns: int) -> ZoneState:
        """`state` with a running simulation laid over it: as if its free pages were at the high watermark.

        Real pressure wins, so that a simulation never hides what the kernel does.
        """
        raised = state.raised + self._simulated.get(state.zone, 0)
        if state.zone not in self._simulated_until_ns or state.status != STATUS_CLEAR:
            return replace(state, raised=raised) if raised != state.raised else state
        return replace(
            state,
            status=STATUS_PRESSURE,
            free_pages=min(state.free_pages, state.high_pages),
            reason=REASON_SIMULATED,
            time_ns=now_ns,
            raised=raised,
            level=self._simulated_level[state.zone],
        )
