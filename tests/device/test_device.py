"""The semantics of section "device" in docs/semantics.md: guard time, herd control, the byte queue.

No clock and no mount: times are made up, and a transport is a list of the files that were woken.
"""

from __future__ import annotations

import pytest

from memnotify_cuse.accounts import OverBoundError
from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.kernel.zoneinfo import ZoneId

NORMAL = ZoneId(0, "Normal")
DMA32 = ZoneId(0, "DMA32")
MS = 1_000_000


def pressure(zone: ZoneId = NORMAL, *, free: int = 50, time_ns: int = 1) -> tuple[ZoneState, ...]:
    return (ZoneState(zone, 1, free_pages=free, high_pages=60, reserve_pages=0, reason="anon_scan", time_ns=time_ns),)


class Bench:
    """A device, and the files that it woke since the last look."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.device = Device(page_kb=4, policy=policy)
        self._woken: list[OpenFile] = []

    def open(self, zone: ZoneId | None = None, uid: int = 0) -> OpenFile:
        return self.device.open(uid, zone, self._woken.append)

    def sleeper(self, zone: ZoneId | None = None) -> OpenFile:
        """An open file with somebody waiting on it."""
        file = self.open(zone)
        assert not self.device.poll(file, 0)
        self.device.watch(file)
        return file

    def woken(self) -> list[OpenFile]:
        woken, self._woken[:] = list(self._woken), []
        return woken

    def polls(self, file: OpenFile, now_ms: float) -> bool:
        return self.device.poll(file, int(now_ms * MS))

    def reads(self, file: OpenFile, now_ms: float, size: int = 4096) -> bytes | None:
        return self.device.read(file, size, int(now_ms * MS))

    def takes(self, file: OpenFile, now_ms: float) -> bool:
        """Whether the file is readable; then its record is read."""
        return self.polls(file, now_ms) and self.reads(file, now_ms) is not None

    def notify(self, now_ms: float, zones: tuple[ZoneState, ...] | None = None) -> None:
        self.device.notified(zones or pressure(time_ns=int(now_ms * MS)), int(now_ms * MS))


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestReadable:
    def test_nothing_without_pressure(self, bench: Bench) -> None:
        file = bench.open()
        assert not bench.polls(file, 0)
        assert bench.reads(file, 0) is None

    def test_a_sleeper_is_woken_and_then_told(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000)
        assert bench.woken() == [file]
        assert bench.polls(file, 1001)

    def test_a_file_opened_during_pressure_is_told_by_its_first_poll(self, bench: Bench) -> None:
        bench.notify(1000)
        assert bench.polls(bench.open(), 1500)

    def test_a_file_opened_during_pressure_is_told_by_its_first_read(self, bench: Bench) -> None:
        bench.notify(1000)
        record = bench.reads(bench.open(), 1500)
        assert record is not None
        assert record.startswith(b"node=0 zone=Normal pressure=1 ")

    def test_not_readable_after_the_pressure_has_ended(self, bench: Bench) -> None:
        bench.notify(1000)
        bench.device.pressure_ended((NORMAL,), 1100 * MS)
        assert not bench.polls(bench.open(), 1500)

    def test_still_readable_while_another_zone_is_under_pressure(self, bench: Bench) -> None:
        bench.notify(1000, pressure(NORMAL) + pressure(DMA32))
        bench.device.pressure_ended((NORMAL,), 1100 * MS)
        assert bench.polls(bench.open(), 1500)


class TestAnswers:
    def test_a_notification_is_answered_twice_however_late_the_program_gets_to_run(self, bench: Bench) -> None:
        """Once for a program that only polls would do; who polls an epoll descriptor is asked about twice."""
        file = bench.sleeper()
        bench.notify(1000)
        assert bench.polls(file, 9000)
        assert bench.polls(file, 9001)
        assert not bench.polls(file, 9002)

    def test_reading_the_record_ends_it(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000)
        assert bench.polls(file, 1001)
        assert bench.reads(file, 1002)
        assert not bench.polls(file, 1003)

    def test_a_poll_inside_epoll_ctl_does_not_lose_the_notification(self, bench: Bench) -> None:
        bench.notify(1000)
        file = bench.open()
        assert bench.polls(file, 1500), "the poll of EPOLL_CTL_ADD"
        assert bench.polls(file, 1501), "the poll of epoll_wait"
        assert not bench.polls(file, 1502), "the poll of the next epoll_wait"

    def test_what_pollin_announced_can_be_read_long_after(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000)
        assert bench.polls(file, 1001)
        bench.device.pressure_ended((NORMAL,), 1150 * MS)
        assert bench.reads(file, 60_000)

    def test_a_second_answer_is_not_given_long_after_the_first(self, bench: Bench) -> None:
        """A program that waits on it anew, much later, is not to be woken by what is over."""
        file = bench.sleeper()
        bench.notify(1000)
        assert bench.polls(file, 1001)
        bench.device.pressure_ended((NORMAL,), 1150 * MS)
        assert not bench.polls(file, 1201)


class TestAnotherOpen:
    def test_is_not_told_of_what_the_same_user_was_told_of_through_a_file_that_is_closed(self, bench: Bench) -> None:
        """A shell that opens the device in a loop is told as often as one that keeps it open."""
        bench.notify(1000)
        for now_ms in (1010, 1020, 1030):
            file = bench.open(uid=1)
            assert (bench.reads(file, now_ms) is not None) == (now_ms == 1010)
            bench.device.close(file)
        bench.notify(1200)
        assert bench.reads(bench.open(uid=1), 1210)

    def test_is_told_where_nobody_was_before(self, bench: Bench) -> None:
        bench.notify(1000)
        bench.device.close(bench.open(uid=1))
        assert bench.reads(bench.open(uid=1), 1010)

    def test_what_is_remembered_of_users_is_bounded(self) -> None:
        """One user may have 65,536 ids."""
        bench = Bench(Policy(max_open=4, root_reserve=0))
        bench.notify(1000)
        for uid in range(1, 50):
            file = bench.open(uid=uid)
            assert bench.reads(file, 1010)
            bench.device.close(file)
        assert len(bench.device._told_and_closed) <= 4

    def test_of_another_user_is_told(self, bench: Bench) -> None:
        bench.notify(1000)
        file = bench.open(uid=1)
        bench.reads(file, 1010)
        bench.device.close(file)
        assert bench.reads(bench.open(uid=2), 1020)

    def test_is_told_of_the_next_pressure(self, bench: Bench) -> None:
        bench.notify(1000)
        file = bench.open(uid=1)
        bench.reads(file, 1010)
        bench.device.close(file)
        bench.device.pressure_ended((NORMAL,), 1100 * MS)
        waits = bench.open(uid=1)
        bench.device.watch(waits)
        bench.notify(5000)
        assert bench.woken() == [waits]


class TestGuardTime:
    def test_runs_from_the_first_answer(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000)
        assert bench.takes(file, 3000)
        assert not bench.polls(file, 3199)
        assert bench.polls(file, 3200), "pressure lasts, one open file: 200 ms"

    def test_grows_with_the_open_files(self, bench: Bench) -> None:
        files = [bench.open() for _ in range(10)]
        bench.notify(1000)
        assert bench.takes(files[0], 1000)
        assert not bench.polls(files[0], 2999)
        assert bench.polls(files[0], 3000)

    def test_is_at_most_10_s(self, bench: Bench) -> None:
        files = [bench.open() for _ in range(200)]
        bench.notify(1000)
        assert bench.takes(files[0], 1000)
        assert not bench.polls(files[0], 10_999)
        assert bench.polls(files[0], 11_000)

    def test_also_runs_from_a_read_without_poll(self, bench: Bench) -> None:
        bench.notify(1000)
        file = bench.open()
        assert bench.reads(file, 1000)
        assert bench.reads(file, 1100) is None
        assert bench.reads(file, 1200)

    def test_an_answer_a_moment_after_a_notification_does_not_miss_the_next_one(self, bench: Bench) -> None:
        file = bench.sleeper()
        for at_ms in (1000, 1200, 1400):
            bench.notify(at_ms)
            assert bench.woken() == [file]
            assert bench.polls(file, at_ms + 20)
            bench.device.watch(file)

    def test_a_sleeper_is_not_woken_within_it(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000)
        assert bench.takes(file, 1100)
        bench.device.watch(file)
        bench.woken()
        bench.notify(1200)
        assert bench.woken() == []
        bench.notify(1400)
        assert bench.woken() == [file]


class TestHerdControl:
    def test_one_of_sixteen_and_one(self, bench: Bench) -> None:
        sleepers = [bench.sleeper() for _ in range(40)]
        bench.notify(1000)
        assert bench.woken() == sleepers[:3], "40 / 16 + 1, first in first out"
        bench.notify(1200)
        assert bench.woken() == sleepers[3:6], "40 of them still count, less the three told: 37 / 16 + 1"

    def test_at_most_100(self, bench: Bench) -> None:
        for _ in range(3000):
            bench.sleeper()
        bench.notify(1000)
        assert len(bench.woken()) == 100

    def test_everybody_has_a_turn(self, bench: Bench) -> None:
        sleepers = [bench.sleeper() for _ in range(40)]
        woken: list[OpenFile] = []
        for turn in range(40):
            bench.notify(1000 + 200 * turn)
            woken += bench.woken()
        assert woken == sleepers

    def test_who_is_told_goes_to_the_end_of_the_queue(self, bench: Bench) -> None:
        first, second = bench.sleeper(), bench.sleeper()
        for turn, expected in enumerate([first, second, first, second]):
            now_ms = 1000 * (turn + 1)
            bench.notify(now_ms)
            assert bench.woken() == [expected]
            assert bench.polls(expected, now_ms)
            assert bench.reads(expected, now_ms)
            bench.device.watch(expected)

    def test_waiting_again_does_not_lose_the_place(self, bench: Bench) -> None:
        first, _ = bench.sleeper(), bench.sleeper()
        bench.device.watch(first)
        bench.notify(1000)
        assert bench.woken() == [first]

    def test_off_wakes_all(self) -> None:
        bench = Bench(Policy(herd_divisor=None))
        sleepers = [bench.sleeper() for _ in range(500)]
        bench.notify(1000)
        assert bench.woken() == sleepers

    def test_only_watchers_of_the_zone_are_woken_and_counted(self, bench: Bench) -> None:
        others = [bench.sleeper(DMA32) for _ in range(100)]
        mine = [bench.sleeper(NORMAL), bench.sleeper(None)]
        bench.notify(1000, pressure(NORMAL))
        bench.notify(1200, pressure(NORMAL))
        assert bench.woken() == mine
        assert not bench.polls(others[0], 1300)


class TestPending:
    def test_is_withdrawn_when_the_pressure_ends_before_anybody_was_answered(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000)
        bench.device.pressure_ended((NORMAL,), 1100 * MS)
        assert not bench.polls(file, 1101)
        assert bench.reads(file, 1102) is None

    def test_that_replaced_an_announced_record_leaves_something_to_read(self, bench: Bench) -> None:
        """POLLIN was answered, and a read after that does not block, whatever came of the pressure since."""
        file = bench.sleeper()
        bench.notify(1000)
        assert bench.polls(file, 1001)
        bench.device.watch(file)
        assert bench.polls(file, 1100)
        assert not bench.polls(file, 1101), "all is answered, the record not read"
        bench.notify(1300)
        bench.device.pressure_ended((NORMAL,), 1400 * MS)
        assert not bench.polls(file, 1401)
        assert bench.reads(file, 1402) is not None
        assert bench.reads(file, 1403) is None

    def test_is_not_picked_twice(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000)
        bench.device.watch(file)
        bench.woken()
        bench.notify(1200)
        assert bench.woken() == []

    def test_has_the_latest_record(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000, pressure(free=50, time_ns=1))
        bench.notify(1200, pressure(free=30, time_ns=2))
        record = bench.reads(file, 1300)
        assert record is not None
        assert record.count(b"\n") == 1
        assert b" free_pages=30 " in record

    def test_tells_of_the_zone_that_is_furthest_from_clear(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000, pressure(NORMAL, free=40) + pressure(DMA32, free=10))
        record = bench.reads(file, 1001)
        assert record is not None
        assert b" zone=DMA32 " in record


class TestByteQueue:
    def test_is_a_stream_of_bytes(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000)
        whole = b""
        while piece := bench.reads(file, 1001, size=1):
            assert len(piece) == 1
            whole += piece
        assert whole.endswith(b"\n")
        assert whole.count(b"\n") == 1

    def test_a_zero_length_read_returns_at_once_and_changes_nothing(self, bench: Bench) -> None:
        file = bench.sleeper()
        assert bench.reads(file, 500, size=0) == b""
        bench.notify(1000)
        assert bench.reads(file, 1001, size=0) == b""
        assert bench.polls(file, 1002)

    def test_a_half_read_record_keeps_the_file_readable(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000)
        bench.reads(file, 1001, size=5)
        bench.device.pressure_ended((NORMAL,), 1100 * MS)
        assert bench.polls(file, 60_000)
        assert bench.reads(file, 60_001)
        assert not bench.polls(file, 60_002)

    def test_a_new_record_replaces_an_unread_one(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000, pressure(free=50))
        assert bench.polls(file, 1001)
        bench.device.watch(file)
        bench.notify(5000, pressure(free=30))
        record = bench.reads(file, 5001)
        assert record is not None
        assert record.count(b"\n") == 1
        assert b" free_pages=30 " in record

    def test_a_new_record_waits_behind_a_half_read_one(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.notify(1000, pressure(free=50))
        head = bench.reads(file, 1001, size=5)
        bench.device.watch(file)
        for turn in range(5):
            bench.notify(5000 + 1000 * turn, pressure(free=30 - turn))
        rest = bench.reads(file, 20_000)
        assert head is not None
        assert rest is not None
        first, second = (head + rest).splitlines()
        assert b" free_pages=50 " in first
        assert b" free_pages=26 " in second

    def test_a_queue_holds_two_records_at_most(self, bench: Bench) -> None:
        file = bench.sleeper()
        for turn in range(50):
            bench.device.watch(file)
            bench.notify(1000 + 1000 * turn)
            bench.polls(file, 1000 + 1000 * turn)
            if turn == 0:
                bench.reads(file, 1000, size=3)
        assert file.queued_bytes < 2 * 200


class TestBounds:
    def test_open_files_of_one_user(self) -> None:
        bench = Bench(Policy(max_open_per_user=2))
        first, _ = bench.open(uid=1), bench.open(uid=1)
        with pytest.raises(OverBoundError) as refused:
            bench.open(uid=1)
        assert refused.value.per_user
        bench.open(uid=2)
        bench.device.close(first)
        bench.open(uid=1)

    def test_open_files_of_all(self) -> None:
        bench = Bench(Policy(max_open=2, root_reserve=0))
        bench.open(uid=1), bench.open(uid=2)
        with pytest.raises(OverBoundError) as refused:
            bench.open(uid=3)
        assert not refused.value.per_user

    def test_closing_forgets_everything(self, bench: Bench) -> None:
        file = bench.sleeper()
        bench.device.close(file)
        bench.device.close(file)
        assert (bench.device.open_files, bench.device.watchers) == (0, 0)
        bench.notify(1000)
        assert bench.woken() == []
