"""A recording in place of the kernel: its samples take the way of the scanner's own, at the recorded pace."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Final

import trio

from memnotify_cuse.board import STATUS_CLEAR, Board, ZoneState
from memnotify_cuse.carried import CarriedZone, Played
from memnotify_cuse.kernel.zoneinfo import format_zoneinfo
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.recordingfile import Recording
from memnotify_cuse.scanner.sample import Sample
from memnotify_cuse.scanner.zones import Scan, ZoneTracker

log = logging.getLogger(__name__)


class Player:
    """Takes samples through a ZoneTracker to `board`. It waits for nothing: the caller says what time it is."""

    def __init__(self, board: Board, machine: Machine, headroom_kb: int | None = None) -> None:
        self._board = board
        self._tracker = ZoneTracker(machine, headroom_kb)
        self.samples = 0
        self.last: Sample | None = None

    def feed(self, sample: Sample, now_ns: int) -> None:
        """Play one sample."""
        scan = self.pass_over(sample)
        self._board.publish(scan.states, scan.moved, now_ns)

    def pass_over(self, sample: Sample) -> Scan:
        """Take in a sample that another board was told of."""
        self.samples += 1
        self.last = sample
        return self._tracker.update(sample)

    def go_on_with(self, zones: Iterable[CarriedZone]) -> tuple[ZoneState, ...]:
        """Take zones for what they were; all of them."""
        self._tracker.go_on_with(zones)
        return self._tracker.states

    def end(self, now_ns: int) -> None:
        """There is nothing more: no zone is under pressure any longer."""
        states = self._tracker.states
        self._board.publish(
            [replace(state, status=STATUS_CLEAR) if state.under_pressure else state for state in states], (), now_ns
        )


class Replay:
    """Does for a recording what `loop.Scanner` does for the kernel, with the same calls.

    The constructor reads the whole recording once, so that what is wrong with it is said before any program listens
    (RecordingError).
    """

    wakeup_name: Final = "replay"
    lost_events: Final = 0

    def __init__(self, board: Board, recording: Recording, headroom_kb: int | None = None) -> None:
        self._recording = recording
        self._new_player = partial(Player, board, recording.header.machine, headroom_kb)
        self._player = self._new_player()
        self._began_ns: int | None = None
        self._first: list[Sample] = []
        times_ns = [sample.time_ns for sample in recording.samples()]
        if not times_ns:
            raise RecordingError(str(recording.path), 0, "holds no sample")
        self._first_ns = times_ns[0]
        self.length_s = (times_ns[-1] - times_ns[0]) / 1e9
        self._rest: Iterator[Sample] = recording.samples()

    @property
    def mglru(self) -> bool:
        """Whether the recorded kernel used MGLRU at the sample that was played last."""
        recorded = self._player.last.mglru if self._player.last is not None else None
        return self._recording.header.machine.mglru if recorded is None else recorded

    @property
    def samples(self) -> int:
        """How many were played."""
        return self._player.samples

    def zoneinfo(self) -> str:
        """The recorded machine's /proc/zoneinfo, as of the sample that was played last."""
        return format_zoneinfo(self._player.last.zoneinfo) if self._player.last else ""

    def first_scan(self) -> None:
        """Play the first sample, from which all zones are known."""
        now_ns = time.monotonic_ns()
        self._first = [next(self._rest)]
        self._player.feed(shifted(self._first[0], now_ns - self._first_ns), now_ns)

    @property
    def played(self) -> Played | None:
        """How far it is, for a server that takes over; None before it was begun."""
        return Played(self._began_ns, self.samples) if self._began_ns is not None else None

    def go_on_from(self, played: Played, zones: Iterable[CarriedZone]) -> tuple[ZoneState, ...]:
        """Go on where another server was, after `first_scan`; the zones as they were then."""
        self._began_ns = played.began_ns
        self._player = self._new_player()
        # The file was opened with rights that are given up by now, and its first sample was played.
        for sample in chain(self._first, islice(self._rest, max(0, played.samples - len(self._first)))):
            self._player.pass_over(shifted(sample, played.began_ns - self._first_ns))
        return self._player.go_on_with(zones)

    async def run(self) -> None:
        """Play the others, each as long after the beginning as it came after the first one; then all zones are clear.

        What was missed between two servers is played at once.
        """
        if self._began_ns is None:
            log.warning(
                "replaying %s (%.1f s); programs are not told of this machine's own memory",
                self._recording.path,
                self.length_s,
            )
            self._began_ns = time.monotonic_ns()
        shift_ns = self._began_ns - self._first_ns
        for recorded in self._rest:
            sample = shifted(recorded, shift_ns)
            await trio.sleep(max(0.0, (sample.time_ns - time.monotonic_ns()) / 1e9))
            self._player.feed(sample, time.monotonic_ns())
        self._player.end(time.monotonic_ns())
        log.warning("the recording has ended, after %d samples; no zone is under pressure any more", self.samples)


def shifted(sample: Sample, by_ns: int) -> Sample:
    """`sample` as if all of it had been `by_ns` later."""
    events = sample.events and tuple(
        event if event.time_ns is None else replace(event, time_ns=event.time_ns + by_ns) for event in sample.events
    )
    return replace(sample, time_ns=sample.time_ns + by_ns, events=events)
