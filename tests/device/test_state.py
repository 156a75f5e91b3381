"""The device of each change (`state`), and those from a level up, fed by a board. Times are made up, in ms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memnotify_cuse.board import Board, ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.device.topics import Special, Topic
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_CRITICAL, LEVEL_LOW, LEVEL_MEDIUM, Record

NORMAL, DMA32, DMA = ZoneId(0, "Normal"), ZoneId(0, "DMA32"), ZoneId(0, "DMA")
MS = 1_000_000


class Bench:
    """A device under a board."""

    def __init__(self) -> None:
        self.device = Device(page_kb=4, policy=Policy())
        self.board = Board(self.device)
        self._woken: list[OpenFile] = []
        self._states = {
            NORMAL: ZoneState(NORMAL, 0, 900, 60, 0),
            DMA32: ZoneState(DMA32, 0, 900, 60, 0),
            DMA: ZoneState(DMA, -1, 9, 6, 0),
        }
        self.at(0)

    def at(self, now_ms: int, *moved: ZoneId) -> None:
        """A scan."""
        self.board.publish(self._states.values(), moved, now_ms * MS)

    def presses(self, now_ms: int, zone: ZoneId = NORMAL, level: str = LEVEL_LOW, free: int = 50) -> None:
        state = self._states[zone]
        self._states[zone] = replace(
            state, status=1, free_pages=free, level=level, reason="anon_scan", raised=1, time_ns=now_ms * MS
        )
        self.at(now_ms, zone)

    def clears(self, now_ms: int, zone: ZoneId = NORMAL) -> None:
        self._states[zone] = replace(self._states[zone], status=0, free_pages=900)
        self.at(now_ms)

    def open(self, topic: Topic = Special.STATE, uid: int = 1) -> OpenFile:
        return self.device.open(uid, topic, self._woken.append)

    def sleeper(self, now_ms: int, topic: Topic = Special.STATE, uid: int = 1) -> OpenFile:
        """An open file of which all was read, with somebody waiting on it."""
        file = self.open(topic, uid)
        self.reads(file, now_ms)
        assert not self.polls(file, now_ms)
        self.device.watch(file)
        return file

    def woken(self) -> list[OpenFile]:
        woken, self._woken[:] = list(self._woken), []
        return woken

    def polls(self, file: OpenFile, now_ms: int) -> bool:
        return self.device.poll(file, now_ms * MS)

    def reads(self, file: OpenFile, now_ms: int, size: int = 4096) -> list[Record]:
        data = self.device.read(file, size, now_ms * MS)
        return [Record.parse(line) for line in (data or b"").splitlines()]


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestState:
    def test_the_first_read_says_how_it_is_now(self, bench: Bench) -> None:
        bench.presses(1000)
        file = bench.open()
        assert bench.polls(file, 1500)
        records = bench.reads(file, 1500)
        assert [(each.zone, each.pressure, each.reason) for each in records] == [
            ("Normal", 1, "anon_scan"),
            ("DMA32", 0, "none"),
        ]
        assert not bench.polls(file, 1501)
        assert bench.reads(file, 1501) == []

    def test_each_change_is_told_the_end_as_well(self, bench: Bench) -> None:
        file = bench.sleeper(500)
        for now_ms, told in (
            (1000, (1, "anon_scan", LEVEL_LOW)),
            (2000, (1, "anon_scan", LEVEL_MEDIUM)),
            (3000, (0, "ended", LEVEL_LOW)),
        ):
            if told[0]:
                bench.presses(now_ms, level=told[2])
            else:
                bench.clears(now_ms)
            assert bench.woken() == [file]
            assert bench.polls(file, now_ms)
            (record,) = bench.reads(file, now_ms)
            assert (record.pressure, record.reason, record.level) == told
            assert not bench.polls(file, now_ms)
            bench.device.watch(file)

    def test_what_is_no_change_is_not_told(self, bench: Bench) -> None:
        bench.presses(1000)
        bench.sleeper(1001)
        bench.presses(2000, free=40)
        assert bench.woken() == []

    def test_what_changes_while_nobody_reads_is_read_once_as_it_is_now(self, bench: Bench) -> None:
        file = bench.sleeper(500)
        bench.presses(1000)
        bench.presses(2000, DMA32)
        bench.clears(3000)
        assert bench.polls(file, 3000)
        assert {(each.zone, each.pressure) for each in bench.reads(file, 3000)} == {("Normal", 0), ("DMA32", 1)}

    def test_a_program_that_only_polls_is_told_twice_at_most(self, bench: Bench) -> None:
        file = bench.sleeper(500)
        bench.presses(1000)
        assert [bench.polls(file, 1000) for _ in range(4)] == [True, True, False, False]
        assert bench.reads(file, 60_000), "what was announced can be read"

    def test_read_by_bytes_it_stays_readable_to_the_end(self, bench: Bench) -> None:
        file = bench.open()
        text = b""
        while (byte := bench.device.read(file, 1, 500 * MS)) is not None:
            text += byte
            assert bench.polls(file, 500) == (text.count(b"\n") < 2)
        assert len(text.splitlines()) == 2

    def test_changes_are_told_as_often_as_notifications_and_the_last_one_is(self, bench: Bench) -> None:
        file = bench.sleeper(500)
        bench.presses(1000)
        assert bench.reads(file, 1000)
        bench.device.watch(file)
        bench.woken()
        bench.clears(1100)
        assert bench.woken() == []
        assert bench.board.deadline_ns == 1200 * MS
        bench.board.tick(1200 * MS)
        assert bench.woken() == [file]
        (record,) = bench.reads(file, 1200)
        assert record.pressure == 0
        assert bench.board.deadline_ns is None

    def test_where_many_wait_users_take_turns_and_all_are_told(self, bench: Bench) -> None:
        many = [bench.sleeper(500, uid=1) for _ in range(250)]
        one = bench.sleeper(500, uid=2)
        bench.presses(1000)
        first = bench.woken()
        assert len(first) == 100
        assert one in first
        told = list(first)
        for turn in range(1, 3):
            bench.board.tick((1000 + 200 * turn) * MS)
            told += bench.woken()
        assert set(told) == {*many, one}
        assert bench.board.deadline_ns is None

    def test_an_owner_is_signalled_of_each_change(self, bench: Bench) -> None:
        file = bench.sleeper(500)
        bench.device.unwatch(file)
        bench.device.subscribe(file, subscribed=True)
        for now_ms in (1000, 3000):
            if now_ms == 1000:
                bench.presses(now_ms)
            else:
                bench.clears(now_ms)
            assert bench.device.pick_subscribers(now_ms * MS) == [file]
            assert bench.device.signalled(file, now_ms * MS) is not None
            assert bench.polls(file, now_ms)
            assert bench.reads(file, now_ms)
        assert bench.device.pick_subscribers(4000 * MS) == []

    def test_a_change_that_nobody_follows_is_no_notification(self, bench: Bench) -> None:
        """Each begins a round of SIGIO, for all open files."""
        bench.open()
        bench.presses(1000)
        assert bench.device.take_told(), "the notification"
        bench.clears(2000)
        assert not bench.device.take_told()

    def test_a_simulation_is_a_change(self, bench: Bench) -> None:
        file = bench.sleeper(500)
        bench.board.simulate(NORMAL, 1000 * MS, 1000 * MS, LEVEL_CRITICAL)
        (record,) = bench.reads(file, 1000)
        assert (record.pressure, record.reason, record.level) == (1, "simulated", LEVEL_CRITICAL)
        bench.board.tick(2000 * MS)
        (record,) = bench.reads(file, 2000)
        assert (record.pressure, record.reason) == (0, "ended")


class TestLevels:
    def test_is_told_from_its_level_up(self, bench: Bench) -> None:
        medium, critical = bench.sleeper(500, Special.MEDIUM), bench.sleeper(500, Special.CRITICAL)
        bench.presses(1000)
        assert bench.woken() == []
        bench.presses(2000, level=LEVEL_MEDIUM)
        assert bench.woken() == [medium]
        assert bench.polls(medium, 2000)
        assert bench.reads(medium, 2000)[0].level == LEVEL_MEDIUM
        assert not bench.polls(critical, 2000)
        bench.device.watch(medium)
        bench.presses(3000, level=LEVEL_CRITICAL)
        assert set(bench.woken()) == {medium, critical}

    def test_what_is_below_its_level_by_now_is_not_told(self, bench: Bench) -> None:
        file = bench.sleeper(500, Special.MEDIUM)
        bench.presses(1000, level=LEVEL_MEDIUM)
        assert bench.woken() == [file]
        bench.presses(1100, level=LEVEL_LOW)
        assert not bench.polls(file, 1100)
        assert bench.reads(file, 1100) == []

    def test_tells_of_the_zone_that_has_the_level(self, bench: Bench) -> None:
        bench.presses(1000, free=1)
        bench.presses(2000, DMA32, LEVEL_MEDIUM, free=80)
        (record,) = bench.reads(bench.open(Special.MEDIUM), 2000)
        assert record.zone == "DMA32"


class TestNow:
    def test_a_record_says_how_the_zone_is_now_and_when_the_evidence_was_seen(self, bench: Bench) -> None:
        bench.presses(1000, free=150)
        state = replace(bench._states[NORMAL], free_pages=3, level=LEVEL_CRITICAL)
        bench.board.publish([state], (), 60_000 * MS)
        (record,) = bench.reads(bench.open(None), 60_000)
        assert (record.free_pages, record.level, record.time_ns) == (3, LEVEL_CRITICAL, 1000 * MS)

    def test_so_does_one_that_was_announced_and_not_read(self, bench: Bench) -> None:
        file = bench.sleeper(500, None)
        bench.presses(1000, free=50)
        assert bench.polls(file, 1000)
        bench.presses(1100, free=30)
        (record,) = bench.reads(file, 1150)
        assert record.free_pages == 30
