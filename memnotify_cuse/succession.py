"""From one server to the next: what is noted of scanner and board in the state file, and how the next one goes on.

    after each tick    the states of the zones, simulations, and what was told of them, where any of that has changed
    after each sample  the sample

In this order: a server that is killed in between sees the evidence of that sample again. So a notification may come
twice, and none is lost.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from memnotify_cuse.board import Board, ZoneState
from memnotify_cuse.carried import Carried, CarriedError, decode, encode
from memnotify_cuse.keeper.statefile import StateFile
from memnotify_cuse.pressurelog import PressureLog
from memnotify_cuse.record import MAX_SIMULATION_S
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.loop import Scanner
from memnotify_cuse.scanner.recording import Decoder, SampleEncoder
from memnotify_cuse.scanner.sample import Sample

if TYPE_CHECKING:
    from memnotify_cuse.scanner.replay import Replay

log = logging.getLogger(__name__)

LONGEST_SIMULATION_NS: Final = int(MAX_SIMULATION_S * 1e9)


class Succession:
    """Of the server that has `state`, which must have begun before `go_on`; nothing is noted before that."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        self._begun = False
        self._first: Sample | None = None
        self._noted: Carried | None = None

    def of(self, board: Board, scanner: Scanner | Replay, pressure_log: PressureLog) -> None:
        """What it is about."""
        self._board = board
        self._scanner = scanner
        self._pressure_log = pressure_log

    def note_sample(self, sample: Sample) -> None:
        """The scanner has looked, and what it saw was published."""
        if not self._begun:
            self._first = sample
            return
        self._state.note_sample(SampleEncoder().encode(replace(sample, events=None)))

    def note(self) -> None:
        """The board has changed, maybe."""
        if not self._begun:
            return
        carried = self._now()
        if carried != self._noted:
            self._noted = carried
            self._state.note_pressure(encode(carried))

    def go_on(self, now_ns: int) -> tuple[ZoneState, ...]:
        """Go on from what the server before has left: the zones under pressure that it has told of.

        What cannot be read is left out.
        """
        sample, carried = self._read_sample(now_ns), self._read_carried(now_ns)
        self._begun = True
        try:
            return self._take_over(sample, carried, now_ns)
        except Exception:
            # Programs are to have a device: what there is of pressure is found again.
            log.exception("unexpected error in going on with the pressure")
            return ()

    def _take_over(self, sample: Sample | None, carried: Carried, now_ns: int) -> tuple[ZoneState, ...]:
        if isinstance(self._scanner, Scanner):
            if sample is None and self._first is not None:
                self.note_sample(self._first)
            states = self._scanner.go_on_from(sample, carried)
        elif carried.played is not None:
            states = self._scanner.go_on_from(carried.played, carried.zones)
        else:
            return ()
        told = self._board.restore(states, carried, now_ns)
        since_ns = {each.zone: each.since_ns for each in carried.zones if each.since_ns is not None}
        self._pressure_log.go_on(self._board.states, since_ns)
        return told

    def _now(self) -> Carried:
        carried = self._board.snapshot()
        since_ns = self._pressure_log.since_ns
        if since_ns:
            carried = replace(
                carried, zones=tuple(replace(each, since_ns=since_ns.get(each.zone)) for each in carried.zones)
            )
        if not isinstance(self._scanner, Scanner):
            return replace(carried, played=self._scanner.played)
        return replace(carried, nodes=self._scanner.forecast) if since_ns else carried

    def _read_sample(self, now_ns: int) -> Sample | None:
        line = self._state.sample
        if not line or not isinstance(self._scanner, Scanner):
            return None
        try:
            sample = Decoder("the state file").sample(line)
        except RecordingError as error:
            log.warning("the scanner begins anew: %s", error)
            return None
        if sample.time_ns > now_ns:
            log.warning("the scanner begins anew: the last sample is of %d, after %d", sample.time_ns, now_ns)
            return None
        return sample

    def _read_carried(self, now_ns: int) -> Carried:
        data = self._state.pressure
        if not data:
            return Carried()
        try:
            carried = decode(data, now_ns, LONGEST_SIMULATION_NS)
        except CarriedError as error:
            log.warning("what programs were told of memory begins anew: %s", error)
            return Carried()
        # Of another machine than the one that is looked at.
        return carried if (carried.played is None) == isinstance(self._scanner, Scanner) else Carried()
