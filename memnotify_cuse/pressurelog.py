"""What the server logs of its work: zones that come under pressure, clear, or rise in level, and how many were told.

A zone that changes faster than lines may be written is not logged change by change: its line comes when there is room,
says how it is then, and counts what was left out. No clock: times are CLOCK_MONOTONIC nanoseconds, passed in.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.told import Told
from memnotify_cuse.domain import CgroupId
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVELS

log = logging.getLogger(__name__)

LINES: Final = 5
CGROUP_LINES: Final = 3
"""No more of them are about cgroups: a user may have one whose pressure comes and goes all day."""

WITHIN_NS: Final = 1_000_000_000
"""So many lines in any second: half of what the log takes for good (`logstream`), so that others find room in it."""

MOST_ZONES: Final = 1024
"""Beyond so many, a cgroup whose end could not be logged yet is forgotten."""

FIRST_SUM_NS: Final = 1_000_000_000
LONGEST_SUM_NS: Final = 60_000_000_000
"""How many programs were told is logged in sums: of a second at first, and of twice as long each time, up to this."""


@dataclass(slots=True)
class _Zone:
    """What the log says of a zone: whether it is under pressure, since when, and the highest level of that."""

    pressed: bool = False
    level: int = -1
    since_ns: int = 0
    lasted_ns: int = 0
    skipped: int = 0
    is_cgroup: bool = False


class PressureLog:
    """Told by the board of each change; `page_kb` is the page size in KiB."""

    def __init__(self, page_kb: int) -> None:
        self._page_kb = page_kb
        self._zones: dict[ZoneId, _Zone] = {}
        self._written_ns: deque[int] = deque(maxlen=LINES)
        self._cgroups_written_ns: deque[int] = deque(maxlen=CGROUP_LINES)
        self._told = Told()
        self._summed = Told()
        self._sum_ns = FIRST_SUM_NS
        self._sum_began_ns: int | None = None

    @property
    def since_ns(self) -> dict[ZoneId, int]:
        """Since when each zone under pressure is that."""
        return {zone: each.since_ns for zone, each in self._zones.items() if each.pressed}

    def go_on(self, states: Mapping[ZoneId, ZoneState], since_ns: Mapping[ZoneId, int]) -> None:
        """The zones under pressure since then were logged by the server before, with the levels that they have."""
        for zone, began_ns in since_ns.items():
            if zone in states:
                self._zones[zone] = _Zone(True, LEVELS.index(states[zone].level), began_ns)

    def told(self, told: Told, now_ns: int) -> None:
        """So many programs were told by now, since the start."""
        self._told = told
        if self._sum_began_ns is None and told != self._summed:
            self._sum_began_ns = now_ns

    def changed(self, states: Mapping[ZoneId, ZoneState], now_ns: int) -> None:
        """The zones are as `states` says; called often enough to write what had to wait."""
        for zone, state in states.items():
            known = self._zones.setdefault(zone, _Zone(is_cgroup=isinstance(zone, CgroupId)))
            if state.under_pressure != known.pressed:
                self._pressure_changed(known, state, now_ns)
            elif state.under_pressure and LEVELS.index(state.level) > known.level:
                known.level = LEVELS.index(state.level)
                self._write(known, now_ns, "%s: level %s, %s", zone, state.level, self._amounts(state))
            elif known.skipped and self._has_room(now_ns, known):
                words = f"under pressure ({state.reason}), level {state.level}" if known.pressed else "clear"
                self._write(known, now_ns, "%s: %s, %s", zone, words, self._amounts(state))
        for zone in [zone for zone in self._zones if zone not in states]:
            self._not_there(zone, now_ns)
        self._write_sum(now_ns, any(each.pressed for each in self._zones.values()))

    def _not_there(self, zone: ZoneId, now_ns: int) -> None:
        """`zone` is not among the states: it is gone, or a cgroup that is not under pressure."""
        known = self._zones[zone]
        if not known.is_cgroup:
            del self._zones[zone]
            log.warning("%s is no longer in zoneinfo", zone)
            return
        if known.pressed:
            known.pressed, known.lasted_ns = False, now_ns - known.since_ns
        if self._has_room(now_ns, known) or len(self._zones) > MOST_ZONES:
            del self._zones[zone]
            self._write(known, now_ns, "%s: clear after %.1f s", zone, known.lasted_ns / 1e9)

    def _pressure_changed(self, known: _Zone, state: ZoneState, now_ns: int) -> None:
        lasted_s = (now_ns - known.since_ns) / 1e9
        known.pressed, known.since_ns, known.level = state.under_pressure, now_ns, LEVELS.index(state.level)
        amounts = self._amounts(state)
        if state.under_pressure:
            form = "%s: under pressure (%s), level %s, %s"
            self._write(known, now_ns, form, state.zone, state.reason, state.level, amounts)
        else:
            self._write(known, now_ns, "%s: clear after %.1f s, %s", state.zone, lasted_s, amounts)

    def _amounts(self, state: ZoneState) -> str:
        free_mb = state.free_pages * self._page_kb / 1024
        target_mb = state.target_pages * self._page_kb / 1024
        return f"{free_mb:.1f} MiB free" + (f", {target_mb:.1f} MiB to be freed" if state.under_pressure else "")

    def _write(self, known: _Zone, now_ns: int, form: str, *values: object) -> None:
        if not self._has_room(now_ns, known):
            known.skipped += 1
            return
        self._written_ns.append(now_ns)
        if known.is_cgroup:
            self._cgroups_written_ns.append(now_ns)
        if known.skipped:
            before = "one change before was" if known.skipped == 1 else f"{known.skipped} changes before were"
            form, values = f"{form} (%s not logged)", (*values, before)
            known.skipped = 0
        log.info(form, *values)

    def _has_room(self, now_ns: int, zone: _Zone | None = None) -> bool:
        full = _is_full(self._written_ns, now_ns)
        return not full and not (zone is not None and zone.is_cgroup and _is_full(self._cgroups_written_ns, now_ns))

    def _write_sum(self, now_ns: int, pressed: bool) -> None:
        began_ns = self._sum_began_ns
        if began_ns is None:
            if not pressed:
                self._sum_ns = FIRST_SUM_NS
            return
        wait_ns = self._sum_ns if pressed else FIRST_SUM_NS
        if now_ns - began_ns < wait_ns or not self._has_room(now_ns):
            return
        self._written_ns.append(now_ns)
        told, self._summed, self._sum_began_ns = self._told - self._summed, self._told, None
        self._sum_ns = min(2 * self._sum_ns, LONGEST_SUM_NS)
        log.info(
            "told %s: %d woken, %d signalled, by %s",
            _counted(told.woken + told.signalled, "program"),
            told.woken,
            told.signalled,
            _counted(told.notifications, "notification"),
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _is_full(written_ns: deque[int], now_ns: int) -> bool:
    return len(written_ns) == written_ns.maxlen and now_ns - written_ns[0] < WITHIN_NS
