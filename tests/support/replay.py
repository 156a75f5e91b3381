"""Plays recordings back in no time at all: through the scanner's rules and the board, with a clock of the samples' own.

    from tests.support.replay import capture, play

    notices = play(capture("episode")).notices
    assert notices[0].reason == "anon_scan"

What is played is the very code that serves; only whoever is told, and the clock, are the test's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from memnotify_cuse.board import CRITICAL_INTERVAL_NS, NOTIFY_INTERVAL_NS, Board, BoardListener, ZoneState
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_CRITICAL, LEVEL_LOW
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.recordingfile import Recording
from memnotify_cuse.scanner.replay import Player
from memnotify_cuse.scanner.sample import Sample

TRACES: Final = Path(__file__).parents[1] / "fixtures" / "traces"
"""Recordings of real reclaim, most made by tests/support/capture.py."""


GUEST_TRACES: Final = TRACES / "guest"
"""Recordings of the experiments of the guest tier, made by tests/support/guest/captures.py."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One zone of one notification, and when it was given (by the clock of the recording)."""

    time_ns: int
    zone: ZoneId
    reason: str | None
    level: str = LEVEL_LOW


def keep_their_distance(notices: Iterable[Notice]) -> bool:
    """Whether notifications came no oftener than they may: every 200 ms, or 20 where it became critical."""
    times = {notice.time_ns: notice.level for notice in notices}
    return all(
        later - earlier >= (CRITICAL_INTERVAL_NS if times[later] == LEVEL_CRITICAL else NOTIFY_INTERVAL_NS)
        for earlier, later in pairwise(times)
    )


@dataclass(frozen=True, slots=True)
class End:
    """When a zone was no longer under pressure."""

    time_ns: int
    zone: ZoneId


@dataclass(slots=True)
class Playback(BoardListener):
    """The listener of the board: what a device would have been told, in its order."""

    notices: list[Notice] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)

    def notified(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        self.notices += [Notice(now_ns, state.zone, state.reason, state.level) for state in zones]

    def pressure_ended(self, zones: tuple[ZoneId, ...], now_ns: int) -> None:
        self.ends += [End(now_ns, zone) for zone in zones]


def capture(name: str) -> Recording:
    """The recording `name` of tests/fixtures/traces."""
    return Recording(TRACES / f"{name}.jsonl.gz")


def guest_capture(name: str) -> Recording:
    """The recording `name` of tests/fixtures/traces/guest."""
    return Recording(GUEST_TRACES / f"{name}.jsonl.gz")


def play(recording: Recording, *, every: int = 1) -> Playback:
    """Play a whole recording, or each `every`-th sample of it."""
    return play_samples(list(recording.samples())[::every], recording.header.machine)


def play_samples(samples: Iterable[Sample], machine: Machine) -> Playback:
    """Play `samples` as if each came at its time, and the board's own clock ran between them."""
    playback = Playback()
    board = Board(playback)
    player = Player(board, machine)
    for sample in samples:
        while (due_ns := board.deadline_ns) is not None and due_ns < sample.time_ns:
            board.tick(due_ns)
        player.feed(sample, sample.time_ns)
    return playback
