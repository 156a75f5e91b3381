"""What there is to be told: the record of each zone under pressure, and its last rise in level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from memnotify_cuse.board import ZoneState
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVELS

Records = dict[ZoneId | None, bytes]
"""What the open files of each zone (None: of all zones) are told."""


class _Pressed(NamedTuple):
    """A zone under pressure. Its record is made once for each notification, which may tell a thousand files."""

    record: bytes
    level: int
    missing_pages: int


class Pressure:
    """The zones under pressure. `page_kb` is the page size in KiB.

    `records` are those of the last notification that each zone had; `notification` counts the notifications.
    """

    def __init__(self, page_kb: int) -> None:
        self._page_kb = page_kb
        self._pressed: dict[ZoneId, _Pressed] = {}
        self._rises: dict[ZoneId | None, int] = {}
        self.records: Records = {}
        self.notification = 0

    def update(self, zones: tuple[ZoneState, ...]) -> tuple[Records, frozenset[ZoneId | None]]:
        """Take in a notification: its records, and the zones whose level has risen in it (and None for any)."""
        self.notification += 1
        pressed = {state.zone: self._pressed_zone(state) for state in zones}
        self._pressed.update(pressed)
        risen = [state.zone for state in zones if state.rises]
        self._rises.update(dict.fromkeys(risen, self.notification))
        self._follow()
        return _records_of(pressed), frozenset((*risen, None) if risen else ())

    def end(self, zones: tuple[ZoneId, ...]) -> None:
        """`zones` are clear: what was not told of them is not told any more."""
        for zone in zones:
            self._pressed.pop(zone, None)
            self._rises.pop(zone, None)
        self._follow()

    def rise_of(self, zone: ZoneId | None) -> int:
        """The number of the notification with the last rise of `zone` (None: of any), 0 where there was none."""
        return self._rises.get(zone, 0)

    def _follow(self) -> None:
        self.records = _records_of(self._pressed)
        self._rises.pop(None, None)
        if self._rises:
            self._rises[None] = max(self._rises.values())

    def _pressed_zone(self, state: ZoneState) -> _Pressed:
        return _Pressed(state.record(self._page_kb).format(), LEVELS.index(state.level), state.target_pages)


def _records_of(pressed: Mapping[ZoneId, _Pressed]) -> Records:
    """The record of each zone; for files of all zones that of the highest level, and the furthest from being clear."""
    if not pressed:
        return {}
    worst = max(pressed.values(), key=lambda each: (each.level, each.missing_pages))
    return {None: worst.record, **{zone: each.record for zone, each in pressed.items()}}
