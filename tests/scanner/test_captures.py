"""The rules on what was captured from a real kernel: told when memory is short, silent while files are read."""

from __future__ import annotations

import pytest

from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.scanner.zones import ZoneTracker
from tests.scanner.captures import Capture, load
from tests.scanner.samples import CLASSIC

NORMAL = ZoneId(0, "Normal")
SILENT = ["stream", "stream-hot", "stream-cold", "stream-thrash", "fill-cache", "cgroup"]
TOLD = {
    "episode": "anon_scan",
    "episode-hot": "anon_scan",
    "fill": "anon_scan",
    "fill-hot": "anon_scan",
    "fill-active-cache": "anon_scan",
    "fill-swapless": "file_exhausted",
}


def raises(capture: Capture, every: int) -> list[tuple[int, str | None]]:
    """When evidence came (ns), and its reason, with only each `every`-th sample looked at."""
    tracker = ZoneTracker(CLASSIC)
    found: list[tuple[int, str | None]] = []
    for each in capture.samples[::every]:
        scan = tracker.update(each)
        assert set(scan.moved) <= {NORMAL}, "the small zones have no anonymous pages"
        found += [(each.time_ns, state.reason) for state in scan.states if state.zone in scan.moved]
    return found


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize("scenario", SILENT)
def test_silent_while_page_cache_serves(scenario: str, every: int) -> None:
    assert raises(load(scenario), every) == []


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize(("scenario", "reason"), TOLD.items())
def test_told_when_the_kernel_turns_to_anonymous_pages(scenario: str, reason: str, every: int) -> None:
    found = raises(load(scenario), every)
    assert found
    assert reason in {each for _, each in found}


@pytest.mark.parametrize("scenario", ["episode", "episode-hot", "fill", "fill-hot"])
def test_told_by_the_first_sample_after_the_first_anonymous_page(scenario: str) -> None:
    capture = load(scenario)
    first_ns = capture.first_anon_scan_ns
    assert first_ns is not None
    told_ns = raises(capture, 1)[0][0]
    assert told_ns == min(each.time_ns for each in capture.samples if each.time_ns >= first_ns)


def test_pressure_ends_with_the_episode() -> None:
    tracker = ZoneTracker(CLASSIC)
    history = [any(state.under_pressure for state in tracker.update(each).states) for each in load("episode").samples]
    assert True in history
    assert history[-1] is False
