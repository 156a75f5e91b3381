"""The states that the `state` device tells: of each zone how it is now, and with which change it became so.

A file of that device is told of each change of a zone's status or level. What it reads are the zones that have changed
since it read last, as they are now; at first that is all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from memnotify_cuse.board import STATUS_IGNORED, ZoneState
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_LOW

REASON_ENDED = "ended"


class Changes:
    """The zones' states, and the number of the change that each had last. `page_kb` is the page size in KiB."""

    def __init__(self, page_kb: int) -> None:
        self._page_kb = page_kb
        self._states: Mapping[ZoneId, ZoneState] = {}
        self._changed: dict[ZoneId, int] = {}

    def follow(self, states: Mapping[ZoneId, ZoneState]) -> None:
        """Take in the states of all zones: what is read from now on says this."""
        self._states = states

    def changed(self, zones: tuple[ZoneId, ...], number: int) -> None:
        """`zones` have changed; `number` is above that of every change before."""
        self._changed.update(dict.fromkeys(zones, number))
        for gone in self._changed.keys() - self._states.keys():
            del self._changed[gone]

    def since(self, number: int) -> bytes:
        """A record of each zone that has changed after the change of that number; nothing of zones that are ignored."""
        states = (self._states.get(zone) for zone, changed in self._changed.items() if changed > number)
        return b"".join(self._record(state) for state in states if state and state.status != STATUS_IGNORED)

    def _record(self, state: ZoneState) -> bytes:
        record = state.record(self._page_kb)
        if not state.under_pressure:
            record = replace(record, reason=REASON_ENDED if state.raised else record.reason, level=LEVEL_LOW)
        return record.format()
