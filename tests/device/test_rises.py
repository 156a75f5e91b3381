"""A rise in level reaches every open file of the zone, whatever its guard time and herd control, once."""

from __future__ import annotations

import pytest

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.record import LEVEL_CRITICAL, LEVEL_LOW, LEVEL_MEDIUM
from tests.device.bench import ALICE, BOB, CAROL, DMA32, MS, NORMAL, UserBench


@pytest.fixture
def bench() -> UserBench:
    return UserBench()


def state_of(level: str) -> ZoneState:
    return ZoneState(NORMAL, 1, 50, 60, 0, "anon_scan", level=level)


def rise(bench: UserBench, now_ms: int, level: str = LEVEL_CRITICAL) -> None:
    bench.notify(now_ms, level=level, rises=True)


class TestPoll:
    def test_every_sleeper_is_woken_users_in_turn(self, bench: UserBench) -> None:
        for user, count in ((ALICE, 300), (BOB, 2), (CAROL, 1)):
            bench.sleepers(user, count)
        rise(bench, 1000)
        woken = bench.woken()
        assert len(woken) == 303
        assert [file.user for file in woken[:6]] == [ALICE, BOB, CAROL, ALICE, BOB, ALICE]

    def test_guard_time_does_not_keep_it(self, bench: UserBench) -> None:
        files = bench.sleepers(ALICE, 40)
        bench.notify(1000)
        bench.answer(bench.woken(), 1001)
        rise(bench, 1200)
        assert set(bench.woken()) == set(files)
        assert all(bench.polls(file, 1201) for file in files)

    def test_who_was_woken_before_and_sleeps_again_without_a_look_is_woken(self, bench: UserBench) -> None:
        """A file that was signalled awaits an answer, and its poll sleeper is asleep."""
        (file,) = bench.sleepers(ALICE, 1)
        bench.notify(1000)
        bench.woken()
        bench.device.watch(file)
        rise(bench, 1200)
        assert bench.woken() == [file]

    def test_a_file_that_was_not_asleep_finds_it_once(self, bench: UserBench) -> None:
        file = bench.open(ALICE)
        bench.notify(1000)
        assert bench.polls(file, 1000)
        assert bench.reads(file, 1000)
        bench.open(ALICE)
        rise(bench, 1100)
        assert bench.polls(file, 1150)
        record = bench.reads(file, 1150)
        assert record is not None
        assert record.endswith(b" level=critical\n")
        assert not bench.polls(file, 1160)
        assert bench.reads(file, 1160) is None
        assert bench.polls(file, 1550), "the guard time runs from that answer: two files"

    def test_a_read_finds_it_in_place_of_an_older_record(self, bench: UserBench) -> None:
        file = bench.open(ALICE)
        bench.notify(1000)
        assert bench.polls(file, 1000)
        rise(bench, 1010)
        record = bench.reads(file, 1020)
        assert record is not None
        assert record.count(b"\n") == 1
        assert b" level=critical" in record

    def test_between_two_answers_it_is_answered_anew(self, bench: UserBench) -> None:
        file = bench.open(ALICE)
        bench.notify(1000)
        assert bench.polls(file, 1000)
        rise(bench, 1040)
        assert bench.polls(file, 1045)
        assert bench.polls(file, 1046)
        assert not bench.polls(file, 1047)

    def test_who_had_it_with_a_wake_is_not_told_of_it_again(self, bench: UserBench) -> None:
        bench.sleepers(ALICE, 50)
        rise(bench, 1000)
        woken = bench.woken()
        bench.answer(woken, 1001)
        bench.notify(1200, level=LEVEL_MEDIUM)
        assert bench.woken() == []
        assert not bench.polls(woken[0], 1300)

    def test_each_rise_is_told(self, bench: UserBench) -> None:
        files = bench.sleepers(ALICE, 50)
        for now_ms, level in ((1000, LEVEL_MEDIUM), (1200, LEVEL_CRITICAL)):
            rise(bench, now_ms, level)
            woken = bench.woken()
            assert set(woken) == set(files)
            bench.answer(woken, now_ms)

    def test_a_file_opened_since_is_told_by_its_first_poll_only(self, bench: UserBench) -> None:
        rise(bench, 1000)
        file = bench.open(ALICE)
        assert bench.polls(file, 1100)
        assert bench.reads(file, 1100)
        assert not bench.polls(file, 1110)

    def test_a_record_that_awaits_an_answer_is_brought_up_to_date_and_is_the_rise_s(self, bench: UserBench) -> None:
        (file,) = bench.sleepers(ALICE, 1)
        bench.open(ALICE)
        bench.notify(1000)
        rise(bench, 1200)
        assert bench.polls(file, 1201)
        record = bench.reads(file, 1201)
        assert record is not None
        assert b" level=critical" in record
        assert not bench.polls(file, 1210)

    def test_it_is_withdrawn_when_the_pressure_ends(self, bench: UserBench) -> None:
        file = bench.open(ALICE)
        bench.notify(1000)
        assert bench.polls(file, 1000)
        assert bench.reads(file, 1000)
        rise(bench, 1050)
        bench.device.pressure_ended((NORMAL,), 1060 * MS)
        bench.notify(1100)
        assert not bench.polls(file, 1110), "the new pressure has not risen"

    def test_it_is_the_zone_s_files_and_those_of_all_zones_that_are_told(self, bench: UserBench) -> None:
        others, mine, all_zones = (bench.sleepers(ALICE, 20, zone) for zone in (DMA32, NORMAL, None))
        bench.notify(1000, NORMAL, level=LEVEL_CRITICAL, rises=True)
        assert set(bench.woken()) == {*mine, *all_zones}
        assert not bench.polls(others[0], 1001)

    def test_files_of_all_zones_are_told_of_the_highest_level(self, bench: UserBench) -> None:
        file = bench.open(ALICE)
        bench.notify(1000, DMA32, level=LEVEL_LOW)
        bench.notify(1200, NORMAL, level=LEVEL_CRITICAL, rises=True)
        bench.notify(1400, DMA32, level=LEVEL_LOW)
        record = bench.reads(file, 1500)
        assert record is not None
        assert b" zone=Normal " in record

    def test_without_a_rise_herd_control_holds_at_every_level(self, bench: UserBench) -> None:
        bench.sleepers(ALICE, 40)
        bench.notify(1000, level=LEVEL_MEDIUM)
        assert len(bench.woken()) == 3


class TestSigio:
    def test_every_subscriber_is_picked_users_in_turn_whatever_its_guard_time(self, bench: UserBench) -> None:
        bench.subscribers(ALICE, 300)
        bench.subscribers(BOB, 2)
        bench.notify(1000)
        bench.signal(1000)
        rise(bench, 1200)
        picked = bench.picks(1200)
        assert len(picked) == 302
        assert {file.user for file in picked[:2]} == {ALICE, BOB}

    def test_once(self, bench: UserBench) -> None:
        files = bench.subscribers(ALICE, 40)
        rise(bench, 1000)
        assert bench.signal(1000) == files
        assert bench.picks(1001, {file.number for file in files}) == []
        assert bench.picks(1001) == []
        bench.notify(1200, level=LEVEL_CRITICAL)
        assert bench.picks(1200) == []

    def test_a_service_that_comes_late_finds_those_of_the_rise_before(self, bench: UserBench) -> None:
        """Signalling thousands takes longer than it is to the next notification."""
        files = bench.subscribers(ALICE, 40)
        rise(bench, 1000)
        bench.notify(1200, level=LEVEL_CRITICAL)
        assert set(bench.signal(1250)) == set(files)

    def test_who_cannot_be_told_is_tried_in_one_notification_only(self, bench: UserBench) -> None:
        bench = UserBench(Policy(guard_step_ns=0))
        bench.subscribers(ALICE, 40)
        rise(bench, 1000)
        assert len(bench.picks(1000)) == 40
        assert len(bench.picks(1001)) == 40
        bench.notify(1200, level=LEVEL_CRITICAL)
        assert len(bench.picks(1200)) == 3, "as herd control has it"

    def test_one_that_is_found_after_the_rise_is_told_of_it(self, bench: UserBench) -> None:
        bench.subscribers(ALICE, 3)
        late = bench.open(ALICE)
        rise(bench, 1000)
        told = {file.number for file in bench.signal(1000)}
        bench.device.subscribe(late, subscribed=True)
        assert bench.picks(1010, told) == [late]

    def test_those_opened_since_keep_to_herd_control(self, bench: UserBench) -> None:
        rise(bench, 1000)
        bench.subscribers(ALICE, 40)
        assert len(bench.picks(1010)) == 0
        bench.notify(1200, level=LEVEL_CRITICAL)
        assert len(bench.picks(1200)) == 3

    def test_nobody_once_the_pressure_has_ended(self, bench: UserBench) -> None:
        bench.subscribers(ALICE, 3)
        rise(bench, 1000)
        bench.device.pressure_ended((NORMAL,), 1010 * MS)
        assert bench.picks(1020) == []
        bench.notify(1200)
        assert len(bench.picks(1200)) == 1

    def test_the_file_is_readable_although_its_guard_time_runs(self, bench: UserBench) -> None:
        (file,) = bench.subscribers(ALICE, 1)
        bench.notify(1000)
        assert bench.polls(file, 1000)
        assert bench.reads(file, 1000)
        rise(bench, 1100)
        assert bench.signal(1100) == [file]
        record = bench.reads(file, 1110)
        assert record is not None
        assert b" level=critical" in record
        assert bench.reads(file, 1120) is None

    def test_the_guard_time_runs_from_the_signal(self, bench: UserBench) -> None:
        (file,) = bench.subscribers(ALICE, 1)
        bench.notify(1000)
        assert bench.signal(1000) == [file]
        assert bench.reads(file, 1000)
        rise(bench, 1100)
        assert bench.signal(1100) == [file]
        bench.notify(1250, level=LEVEL_CRITICAL)
        assert bench.signal(1250) == []

    def test_those_of_another_zone_keep_to_herd_control(self, bench: UserBench) -> None:
        bench.subscribers(ALICE, 40, DMA32)
        bench.subscribers(ALICE, 40, NORMAL)
        bench.notify(1000, DMA32)
        rise(bench, 1200)
        assert {file.topic for file in bench.picks(1200)} == {NORMAL}


class TestCritical:
    """While what is left may end at any moment, whoever has answered and waits again is told by each notification."""

    def test_guard_time_does_not_count_for_who_is_back(self, bench: UserBench) -> None:
        (file,) = bench.sleepers(ALICE, 1)
        for now_ms in (1000, 1020, 1040):
            bench.notify(now_ms, level=LEVEL_CRITICAL)
            assert bench.woken() == [file]
            assert bench.device.awaits((state_of(LEVEL_CRITICAL),)) is False
            bench.answer([file], now_ms + 1)
            assert bench.device.awaits((state_of(LEVEL_CRITICAL),)) is True
        bench.notify(1060, level=LEVEL_MEDIUM)
        assert bench.woken() == []

    def test_who_polls_without_waiting_is_told_once_by_each(self, bench: UserBench) -> None:
        file = bench.open(ALICE)
        for now_ms in (1000, 1020):
            bench.notify(now_ms, level=LEVEL_CRITICAL)
            assert bench.polls(file, now_ms)
            assert bench.reads(file, now_ms)
            assert not bench.polls(file, now_ms + 10)

    def test_who_has_not_read_the_last_record_is_not_told_of_another_until_guard_time_has_passed(
        self, bench: UserBench
    ) -> None:
        (file,) = bench.subscribers(ALICE, 1)
        bench.notify(1000, level=LEVEL_CRITICAL)
        assert bench.signal(1000) == [file]
        bench.notify(1020, level=LEVEL_CRITICAL)
        assert bench.signal(1020) == []
        assert bench.reads(file, 1030)
        bench.notify(1040, level=LEVEL_CRITICAL)
        assert bench.signal(1040) == [file]
        bench.notify(1240, level=LEVEL_CRITICAL)
        assert bench.signal(1240) == [file]

    def test_herd_control_holds(self, bench: UserBench) -> None:
        bench.sleepers(ALICE, 160)
        bench.notify(1000, level=LEVEL_CRITICAL)
        assert len(bench.woken()) == 11

    def test_one_that_is_back_is_found_among_many_that_are_not(self, bench: UserBench) -> None:
        bench.subscribers(ALICE, 500)
        for now_ms in range(1000, 11_200, 200):
            bench.notify(now_ms, level=LEVEL_CRITICAL)
            told = bench.signal(now_ms)
        back = told[-1]
        assert bench.reads(back, 11_010)
        assert bench.device.awaits((state_of(LEVEL_CRITICAL),)) is True
        bench.notify(11_020, level=LEVEL_CRITICAL)
        assert bench.signal(11_020) == [back]
        assert bench.device.awaits((state_of(LEVEL_CRITICAL),)) is False

    def test_those_that_are_not_back_are_looked_at_as_often_as_otherwise(self, bench: UserBench) -> None:
        (silent,) = bench.subscribers(ALICE, 1)
        (other,) = bench.subscribers(BOB, 1)
        bench.notify(1000, level=LEVEL_CRITICAL)
        assert bench.signal(1000) == [silent, other]
        told_ms = []
        for now_ms in range(1020, 1620, 20):
            assert bench.reads(other, now_ms)
            bench.notify(now_ms, level=LEVEL_CRITICAL)
            told = bench.signal(now_ms)
            assert other in told
            if silent in told:
                told_ms.append(now_ms)
        assert told_ms == [1200, 1400, 1600]

    def test_one_that_is_closed_does_not_count_as_back(self, bench: UserBench) -> None:
        files = bench.sleepers(ALICE, 2)
        for file in files:
            assert bench.device.awaits((state_of(LEVEL_CRITICAL),)) is True
            bench.device.close(file)
        assert bench.device.awaits((state_of(LEVEL_CRITICAL),)) is False

    def test_one_that_waits_no_more_does_not_count_as_back(self, bench: UserBench) -> None:
        (file,) = bench.sleepers(ALICE, 1)
        bench.device.subscribe(file, subscribed=True)
        bench.device.unwatch(file)
        assert bench.device.awaits((state_of(LEVEL_CRITICAL),)) is True
        bench.device.subscribe(file, subscribed=False)
        assert bench.device.awaits((state_of(LEVEL_CRITICAL),)) is False

    def test_those_of_another_zone_are_looked_at_although_it_is_critical_elsewhere(self, bench: UserBench) -> None:
        (silent,) = bench.subscribers(ALICE, 1, DMA32)
        (other,) = bench.sleepers(BOB, 1, NORMAL)
        signals = 0
        for now_ms in range(1000, 11_000, 20):
            bench.notify(now_ms, level=LEVEL_CRITICAL)
            bench.answer(bench.woken(), now_ms)
            if now_ms % 1000 == 40:
                bench.notify(now_ms + 5, DMA32)
                signals += silent in bench.signal(now_ms + 5)
        assert signals == 10
        assert other in bench.device.files
