"""The replayer: samples reach the board as the kernel's would, at their times, and pressure ends with them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from memnotify_cuse.board import Board
from memnotify_cuse.carried import Played
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.scanner import replay
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.recording import Header
from memnotify_cuse.scanner.recordingfile import Recording, RecordingWriter
from memnotify_cuse.scanner.replay import Replay, shifted
from memnotify_cuse.scanner.sample import Sample
from tests.scanner.samples import CLASSIC, MS, direct_begin, sample, shrink, zone
from tests.support.replay import End, Playback, capture, play, play_samples

NORMAL = ZoneId(0, "Normal")
START_NS = 5_000_000_000_000
DELAY_NS = 300 * MS


class Clock:
    """In place of the machine's: it stands still but for sleeping, and starts far from the recording's.

    While the replayer sleeps it calls the board when something is due, as the server does.
    """

    def __init__(self) -> None:
        self.now_ns = START_NS
        self.playback = Playback()
        self.board = Board(self.playback)

    def monotonic_ns(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        until_ns = self.now_ns + round(seconds * 1e9)
        while (due_ns := self.board.deadline_ns) is not None and due_ns < until_ns:
            self.now_ns = due_ns
            self.board.tick(due_ns)
        self.now_ns = until_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(replay, "time", clock)
    monkeypatch.setattr(trio, "sleep", clock.sleep)
    return clock


def replayed(recording: Recording, clock: Clock) -> None:
    scanner = Replay(clock.board, recording)
    assert clock.board.states == {}
    scanner.first_scan()
    assert scanner.samples == 1
    clock.now_ns += DELAY_NS
    trio.run(scanner.run)
    assert scanner.samples == len(list(recording.samples()))


@pytest.mark.parametrize("name", ["episode", "fill-swapless", "stream"])
def test_a_replay_tells_what_the_rules_say_as_long_after_its_start(name: str, clock: Clock) -> None:
    recording = capture(name)
    shift_ns = START_NS + DELAY_NS - next(recording.samples()).time_ns
    replayed(recording, clock)
    expected = play(recording)
    assert clock.playback.notices == [replace(each, time_ns=each.time_ns + shift_ns) for each in expected.notices]
    assert clock.playback.ends == [End(each.time_ns + shift_ns, each.zone) for each in expected.ends]
    told = clock.board.states[NORMAL]
    assert told.raised == len(expected.ends)
    assert told.time_ns == 0 or START_NS < told.time_ns < clock.now_ns


def test_pressure_that_the_recording_left_is_ended(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    short = list(capture("episode").samples())[:60]
    assert play_samples(short, CLASSIC).ends == []
    path = tmp_path / "short.jsonl.gz"
    with RecordingWriter(path, Header(CLASSIC)) as writer:
        for each in short:
            writer.write(each)
    with caplog.at_level(logging.WARNING):
        replayed(Recording(path), clock)
    assert clock.playback.ends == [End(clock.now_ns, NORMAL)]
    assert all(state.status <= 0 for state in clock.board.states.values())
    assert clock.board.states[NORMAL].raised == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"replaying {path} ({(short[-1].time_ns - short[0].time_ns) / 1e9:.1f} s); "
        "programs are not told of this machine's own memory",
        "the recording has ended, after 60 samples; no zone is under pressure any more",
    ]


@pytest.mark.parametrize("name", ["episode", "fill-swapless"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 1.0])
def test_another_server_goes_on_where_the_first_one_was(name: str, part: float, clock: Clock) -> None:
    """It is killed after a part of the samples: what they both tell is what one would have told."""
    recording = capture(name)
    expected = play(recording)
    shift_ns = START_NS - next(recording.samples()).time_ns
    first = Replay(clock.board, recording)
    first.first_scan()
    until = max(1, round(part * len(list(recording.samples()))))

    class Killed(BaseException):
        pass

    class Kernel:
        """Kills it between two samples."""

        @staticmethod
        async def sleep(seconds: float) -> None:
            if first.samples >= until:
                raise Killed
            await clock.sleep(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio, "sleep", Kernel.sleep)
        if part < 1.0:
            with pytest.raises(Killed):
                trio.run(first.run)
        else:
            trio.run(first.run)
    assert first.played == Played(START_NS, until)
    carried = clock.board.snapshot()
    # Programs are told by the next one of what comes while there is none.
    clock.now_ns += DELAY_NS
    clock.board = Board(clock.playback)
    following = Replay(clock.board, recording)
    following.first_scan()
    states = following.go_on_from(Played(START_NS, until), carried.zones)
    clock.board.restore(states, carried, clock.now_ns)
    clock.board.tick(clock.now_ns)
    trio.run(following.run)
    assert following.samples == first.samples if part == 1.0 else len(list(recording.samples()))
    ends = [(each.zone, each.time_ns) for each in clock.playback.ends]
    assert [zone for zone, _ in ends] == [each.zone for each in expected.ends]
    assert all(time_ns >= each.time_ns + shift_ns for (_, time_ns), each in zip(ends, expected.ends, strict=True))
    assert clock.board.states[NORMAL].raised == len(expected.ends)


@pytest.mark.parametrize("damaged", [False, True])
def test_what_is_wrong_is_said_before_anything_is_played(tmp_path: Path, damaged: bool) -> None:
    path = tmp_path / "some.jsonl.gz"
    with RecordingWriter(path, Header(CLASSIC)) as writer:
        for each in (sample(zone(), time_ms=5), sample(zone(), time_ms=4)) if damaged else ():
            writer.write(each)
    playback = Playback()
    board = Board(playback)
    with pytest.raises(RecordingError, match=":3: time_ns" if damaged else ": holds no sample"):
        Replay(board, Recording(path))
    assert board.states == {}


def test_a_shifted_sample_takes_its_events_along() -> None:
    events = [shrink(), direct_begin()]
    moved = shifted(sample(time_ms=5, events=events), 3)
    assert moved.time_ns == 5 * MS + 3
    assert moved.events is not None
    assert [event.time_ns for event in moved.events] == [4, 4]
    assert [event.comm for event in moved.events] == ["kswapd0", "cc1"]
    none: Sample = shifted(sample(), 3)
    assert none.events is None
