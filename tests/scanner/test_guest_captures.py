"""The rules on what was recorded in the experiments of the guest tier, in which memory really ran out, or did not.

Made by `python -m tests.support.guest.captures`. In those of pressure nobody gives anything back, so each of them ends
with the OOM killer; of the others nobody is to be told.
"""

from __future__ import annotations

import pytest

from memnotify_cuse.scanner.recordingfile import Recording
from tests.support.replay import GUEST_TRACES, guest_capture, keep_their_distance, play

ALLOCATORS = ("cold", "hot", "mixed")
LOADS = ("stream", "database", "backup", "compile", "git-gc")
MORE_LOADS = ("mapped", "madv-free", "lookups", "inodes", "cgroup-limit", "huge-pages", "big-end")
"""Kept by `python -m benchmarks.matrix --keep`, of some kinds of machine."""
NAMES = sorted(path.name.partition(".")[0] for path in GUEST_TRACES.iterdir())
SILENT = [name for name in NAMES if name.split("-", 2)[2] in (*LOADS, *MORE_LOADS)]
PRESSURE = [name for name in NAMES if name.split("-", 2)[2] in ALLOCATORS]
LEAD_S = {"zram": 30.0, "none": 3.0}
"""By swap: how long before the OOM kill the first notice must be there. With zram it is swapping that takes so long."""

REASONS = {"zram": {"anon_scan", "file_exhausted"}, "none": {"file_exhausted"}}
AFTER_ANON_S = 1.0
BEFORE_ANON_S = 10.0


def moment(recording: Recording, name: str) -> int | None:
    return recording.header.marks.get(name)


def test_every_load_is_recorded_on_every_kind_of_machine() -> None:
    machines = [f"{swap}-{lru}" for swap in ("zram", "none") for lru in ("classic", "mglru")]
    expected = {f"{machine}-{load}" for machine in machines for load in (*ALLOCATORS, *LOADS)}
    assert expected == {name for name in NAMES if name.split("-", 2)[2] not in MORE_LOADS}
    assert {name.split("-", 2)[2] for name in NAMES} >= set(MORE_LOADS)


@pytest.mark.parametrize("name", SILENT)
def test_no_program_is_told_of_what_is_no_shortage(name: str) -> None:
    recording = guest_capture(name)
    assert play(recording).notices == []


@pytest.mark.parametrize("name", SILENT)
@pytest.mark.parametrize("every", [2, 5])
def test_nor_by_a_scanner_that_looks_more_rarely(name: str, every: int) -> None:
    assert play(guest_capture(name), every=every).notices == []


@pytest.mark.parametrize("name", PRESSURE)
def test_told_in_time_before_the_oom_killer(name: str) -> None:
    recording = guest_capture(name)
    kill_ns = moment(recording, "oom_kill_ns")
    assert kill_ns is not None
    first = play(recording).notices[0]
    swap = name.partition("-")[0]
    assert (kill_ns - first.time_ns) / 1e9 > LEAD_S[swap]
    assert first.reason in REASONS[swap]


@pytest.mark.parametrize("name", [name for name in PRESSURE if name.startswith("zram") and not name.endswith("mixed")])
def test_with_swap_told_when_the_kernel_turns_to_anonymous_pages(name: str) -> None:
    """Or shortly before, as long as the swap has not been seen to win anything.

    With page cache in use beside it (`mixed`) reclaim takes crumbs of anonymous memory long before it is short.
    """
    recording = guest_capture(name)
    anon_ns = moment(recording, "first_anon_scan_ns")
    assert anon_ns is not None
    assert -BEFORE_ANON_S < (play(recording).notices[0].time_ns - anon_ns) / 1e9 < AFTER_ANON_S


@pytest.mark.parametrize("name", PRESSURE)
def test_told_again_until_the_end(name: str) -> None:
    """However many have been told: whoever can still give something is asked for it.

    Until the last look, that is: with zram nobody gets to run at all in the last seconds before the OOM killer.
    """
    recording = guest_capture(name)
    kill_ns = moment(recording, "oom_kill_ns")
    assert kill_ns is not None
    looked_ns = max(sample.time_ns for sample in recording.samples() if sample.time_ns <= kill_ns)
    before = [notice for notice in play(recording).notices if notice.time_ns <= kill_ns]
    assert (looked_ns - before[-1].time_ns) / 1e9 < 3.0
    assert keep_their_distance(before)
