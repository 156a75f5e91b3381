"""What is logged of zones and programs. No clock: times are made up."""

from __future__ import annotations

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.told import Told
from memnotify_cuse.domain import CgroupId
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.pressurelog import LINES, LONGEST_SUM_NS, PressureLog
from memnotify_cuse.record import LEVEL_CRITICAL, LEVEL_LOW, LEVEL_MEDIUM, LEVELS

NORMAL, DMA32 = ZoneId(0, "Normal"), ZoneId(0, "DMA32")
MS = 1_000_000


def state(zone: ZoneId, pressed: bool, level: str = LEVEL_LOW, free: int = 256) -> ZoneState:
    return ZoneState(zone, int(pressed), free, 512, 0, "anon_scan", level=level)


class Bench:
    """A log of two zones, whose lines are noted down with their times in ms."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        caplog.clear()
        self.log = PressureLog(page_kb=4)
        self.lines: list[tuple[int, str]] = []

    def at(self, now_ms: int, *states: ZoneState) -> list[str]:
        """The zones are so; what is logged then."""
        self._caplog.clear()
        self.log.changed({each.zone: each for each in states}, now_ms * MS)
        said = [record.getMessage() for record in self._caplog.records]
        self.lines += [(now_ms, line) for line in said]
        return said


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Bench:
    return Bench(caplog)


def test_an_episode_of_one_zone(bench: Bench) -> None:
    calm = state(DMA32, False)
    assert bench.at(0, calm, state(NORMAL, False)) == []
    assert bench.at(1000, calm, state(NORMAL, True)) == [
        "node0-Normal: under pressure (anon_scan), level low, 1.0 MiB free, 3.0 MiB to be freed"
    ]
    assert bench.at(1050, calm, state(NORMAL, True, free=128)) == []
    assert bench.at(1100, calm, state(NORMAL, True, LEVEL_MEDIUM)) == [
        "node0-Normal: level medium, 1.0 MiB free, 3.0 MiB to be freed"
    ]
    assert bench.at(1150, calm, state(NORMAL, True, LEVEL_LOW)) == []
    assert bench.at(1200, calm, state(NORMAL, True, LEVEL_MEDIUM)) == []
    assert bench.at(1250, calm, state(NORMAL, True, LEVEL_CRITICAL))[0].startswith("node0-Normal: level critical, ")
    assert bench.at(3500, calm, state(NORMAL, False, free=2560)) == ["node0-Normal: clear after 2.5 s, 10.0 MiB free"]


def test_what_flaps_is_counted_and_shown_as_it_is_then(bench: Bench) -> None:
    for now_ms in range(0, 500, 10):
        bench.at(now_ms, state(NORMAL, now_ms % 20 == 10))
    assert len(bench.lines) == LINES
    assert bench.at(2000, state(NORMAL, True)) == [
        "node0-Normal: under pressure (anon_scan), level low, 1.0 MiB free, 3.0 MiB to be freed "
        f"({49 - LINES} changes before were not logged)"
    ]
    assert bench.at(2010, state(NORMAL, True)) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 400), st.booleans(), st.booleans(), st.sampled_from(LEVELS), st.integers(0, 3), st.booleans()
        ),
        max_size=60,
    )
)
def test_never_more_lines_a_second_and_the_last_word_is_true(
    caplog: pytest.LogCaptureFixture, steps: list[tuple[int, bool, bool, str, int, bool]]
) -> None:
    bench = Bench(caplog)
    now_ms, told = 0, Told()
    normal, dma32 = False, False
    for pause_ms, normal, dma32, level, woken, _ in steps:
        now_ms += pause_ms
        told = Told(told.notifications + 1, told.woken + woken, 0)
        bench.log.told(told, now_ms * MS)
        bench.at(now_ms, state(NORMAL, normal, level), state(DMA32, dma32, level))
    for _ in range(3):
        now_ms += 1000
        bench.at(now_ms, state(NORMAL, normal), state(DMA32, dma32))
    times_ms = [time_ms for time_ms, _ in bench.lines]
    assert all(later - first >= 1000 for first, later in zip(times_ms, times_ms[LINES:], strict=False))
    for zone, pressed in ((NORMAL, normal), (DMA32, dma32)):
        about = [line for _, line in bench.lines if line.startswith(f"{zone}: ")]
        assert ("clear" not in about[-1] if about else False) == pressed


def test_programs_told_are_summed_up_for_longer_each_time(bench: Bench) -> None:
    pressed, woken = state(NORMAL, True), 0
    bench.at(0, pressed)
    for now_ms in range(0, 600_000, 200):
        woken += 2
        bench.log.told(Told(woken // 2, woken, 1), now_ms * MS)
        bench.at(now_ms, pressed)
    sums = [(now_ms, line) for now_ms, line in bench.lines if line.startswith("told")]
    assert sums[0] == (1000, "told 13 programs: 12 woken, 1 signalled, by 6 notifications")
    assert len(sums) < 20
    assert sums[-1][0] - sums[-2][0] >= LONGEST_SUM_NS // MS
    last_ms = now_ms
    bench.at(last_ms + 2000, state(NORMAL, False))
    bench.at(last_ms + 4000, state(NORMAL, False))
    words = [line.split() for _, line in bench.lines if line.startswith("told")]
    assert sum(int(each[3]) for each in words) == woken


def test_a_zone_that_vanishes_is_said(bench: Bench) -> None:
    bench.at(0, state(NORMAL, True), state(DMA32, False))
    assert bench.at(10, state(DMA32, False)) == ["node0-Normal is no longer in zoneinfo"]
    assert bench.at(20, state(DMA32, False)) == []


def test_pressure_that_the_server_before_has_logged_is_not_logged_again(bench: Bench) -> None:
    bench.log.go_on({NORMAL: state(NORMAL, True)}, {NORMAL: 1000 * MS, DMA32: 1000 * MS})
    assert bench.at(3000, state(NORMAL, True)) == []
    assert bench.log.since_ns == {NORMAL: 1000 * MS}
    assert bench.at(3500, state(NORMAL, True, LEVEL_MEDIUM)) != []
    (line,) = bench.at(5000, state(NORMAL, False))
    assert "clear after 4.0 s" in line
    assert bench.log.since_ns == {}


class TestCgroups:
    BOX = CgroupId("/pod/my box", 1)

    def test_an_episode_of_one(self, bench: Bench) -> None:
        """It is among the states only while it is under pressure."""
        calm = state(NORMAL, False)
        assert bench.at(0, calm) == []
        (line,) = bench.at(1000, calm, state(self.BOX, True))
        assert line.startswith("cgroup:/pod/my%20box: under pressure (anon_scan), level low, ")
        (line,) = bench.at(1500, calm, state(self.BOX, True, LEVEL_CRITICAL))
        assert line.startswith("cgroup:/pod/my%20box: level critical, ")
        assert bench.log.since_ns == {self.BOX: 1000 * MS}
        assert bench.at(3500, calm) == ["cgroup:/pod/my%20box: clear after 2.5 s"]
        assert bench.log.since_ns == {}
        assert bench.at(3600, calm) == []

    def test_that_is_there_once_more_is_logged_once_more(self, bench: Bench) -> None:
        calm = state(NORMAL, False)
        for now_ms in (0, 10_000):
            assert "under pressure" in bench.at(now_ms, calm, state(self.BOX, True))[0]
            assert bench.at(now_ms + 2000, calm) == ["cgroup:/pod/my%20box: clear after 2.0 s"]

    def test_that_comes_and_goes_all_day_leaves_room_for_zones(self, bench: Bench) -> None:
        for now_ms in range(0, 500, 10):
            bench.at(now_ms, state(NORMAL, False), *([state(self.BOX, True)] if now_ms % 20 else []))
        assert len(bench.lines) < LINES
        assert "node0-Normal: under pressure" in bench.at(510, state(NORMAL, True))[0]

    def test_whose_end_there_was_no_room_for_is_said_to_be_clear_later(self, bench: Bench) -> None:
        calm = state(NORMAL, False)
        boxes = [CgroupId(f"/{number}", number) for number in range(10)]
        for number in range(len(boxes)):
            bench.at(2000 * number, calm, *(state(each, True) for each in boxes[: number + 1]))
        assert len(bench.lines) == 10
        for now_ms in range(30_000, 60_000, 500):
            bench.at(now_ms, calm)
        clear = {line.split(": ")[0] for _, line in bench.lines if "clear" in line}
        assert clear == {box.name for box in boxes}

    def test_that_are_gone_are_forgotten(self, bench: Bench) -> None:
        for number in range(100):
            box = CgroupId(f"/{number}", number)
            bench.at(2000 * number, state(NORMAL, False), state(box, True))
            bench.at(2000 * number + 1000, state(NORMAL, False))
        assert bench.log.since_ns == {}
        assert len(bench.lines) == 200
