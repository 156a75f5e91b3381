"""The rules on what was captured from a real kernel: told when memory is short, silent while files are read."""

from __future__ import annotations

import pytest

from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.scanner.recordingfile import Recording
from memnotify_cuse.scanner.zones import ZoneTracker
from tests.support.replay import TRACES, capture, keep_their_distance, play

NORMAL = ZoneId(0, "Normal")
SILENT = [
    *("stream", "stream-hot", "stream-cold", "stream-thrash", "stream-idle-a", "stream-idle-b", "stream-idle-c"),
    *("fill-cache", "cgroup"),
]
TOLD = {
    "episode": "anon_scan",
    "episode-hot": "anon_scan",
    "fill": "anon_scan",
    "fill-hot": "anon_scan",
    "fill-active-cache": "anon_scan",
    "fill-swapless": "file_exhausted",
}
RECORDED = "recorded-episode"
"""Made by `memnotify record`: with trace events, and no oftener than the scanner looks."""


def raises(recording: Recording, every: int) -> list[tuple[int, str | None]]:
    """When evidence came (ns), and its reason, with only each `every`-th sample looked at."""
    tracker = ZoneTracker(recording.header.machine)
    found: list[tuple[int, str | None]] = []
    for each in list(recording.samples())[::every]:
        scan = tracker.update(each)
        assert set(scan.moved) <= {NORMAL}, "the small zones have no anonymous pages"
        found += [(each.time_ns, state.reason) for state in scan.states if state.zone in scan.moved]
    return found


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize("scenario", SILENT)
def test_silent_while_page_cache_serves(scenario: str, every: int) -> None:
    assert raises(capture(scenario), every) == []
    assert play(capture(scenario), every=every).notices == []


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize(("scenario", "reason"), TOLD.items())
def test_told_when_the_kernel_turns_to_anonymous_pages(scenario: str, reason: str, every: int) -> None:
    found = raises(capture(scenario), every)
    assert found
    assert reason in {each for _, each in found}


@pytest.mark.parametrize("scenario", ["episode", "episode-hot", "recorded-episode", "fill", "fill-hot"])
def test_told_by_the_first_sample_after_the_first_anonymous_page(scenario: str) -> None:
    recording = capture(scenario)
    first_ns = recording.header.marks["first_anon_scan_ns"]
    first_sample_ns = min(each.time_ns for each in recording.samples() if each.time_ns >= first_ns)
    assert raises(recording, 1)[0][0] == first_sample_ns
    assert play(recording).notices[0].time_ns == first_sample_ns


def test_without_swap_told_before_kswapd_wakes() -> None:
    recording = capture("fill-swapless")
    assert "first_anon_scan_ns" not in recording.header.marks
    assert play(recording).notices[0].time_ns < recording.header.marks["kswapd_wake_ns"]


@pytest.mark.parametrize("scenario", [*TOLD, RECORDED])
def test_notices_keep_their_distance_and_end_with_the_pressure(scenario: str) -> None:
    playback = play(capture(scenario))
    times_ns = [notice.time_ns for notice in playback.notices]
    assert keep_their_distance(playback.notices)
    assert {notice.zone for notice in playback.notices} == {NORMAL}
    assert len(playback.ends) == 1
    assert playback.ends[0].time_ns > times_ns[-1]


@pytest.mark.parametrize(
    ("scenario", "count"), [("episode", 2), ("episode-hot", 2), ("recorded-episode", 2), ("fill", 6), ("fill-hot", 21)]
)
def test_playing_a_recording_gives_the_same_notices_each_time(scenario: str, count: int) -> None:
    first = play(capture(scenario))
    assert play(capture(scenario)) == first
    assert len(first.notices) == count


def test_every_capture_has_its_rule() -> None:
    assert {path.name.partition(".")[0] for path in TRACES.glob("*.gz")} == {*SILENT, *TOLD, RECORDED}


def test_pressure_ends_with_the_episode() -> None:
    recording = capture("episode")
    tracker = ZoneTracker(recording.header.machine)
    history = [any(state.under_pressure for state in tracker.update(each).states) for each in recording.samples()]
    assert True in history
    assert history[-1] is False
