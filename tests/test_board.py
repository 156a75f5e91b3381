"""The board: merging of scans and simulations, and the notification rate. No clock: times are made up."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from memnotify_cuse.board import NOTIFY_INTERVAL_NS, Board, BoardListener, ChangesTold, UnknownZoneError, ZoneState
from memnotify_cuse.carried import Carried
from memnotify_cuse.domain import CgroupId
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_CRITICAL, LEVEL_LOW, LEVEL_MEDIUM

NORMAL = ZoneId(0, "Normal")
DMA32 = ZoneId(0, "DMA32")
DMA = ZoneId(0, "DMA")
MS = 1_000_000


class Listener(BoardListener):
    def __init__(self) -> None:
        self.notified_zones: list[tuple[int, dict[ZoneId, str | None]]] = []
        self.ended: list[tuple[int, tuple[ZoneId, ...]]] = []
        self.rises: list[tuple[int, ZoneId, str]] = []
        self.changes: list[set[ZoneId]] = []
        self.awaited = False

    def awaits(self, zones: tuple[ZoneState, ...]) -> bool:
        return self.awaited

    def changed(self, zones: tuple[ZoneId, ...]) -> ChangesTold:
        self.changes.append(set(zones))
        return ChangesTold(0, more=False)

    def notified(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        assert all(state.under_pressure for state in zones)
        self.notified_zones.append((now_ns // MS, {state.zone: state.reason for state in zones}))
        self.rises += [(now_ns // MS, state.zone, state.level) for state in zones if state.rises]

    def pressure_ended(self, zones: tuple[ZoneId, ...], now_ns: int) -> None:
        self.ended.append((now_ns // MS, zones))

    @property
    def times_ms(self) -> list[int]:
        return [time_ms for time_ms, _ in self.notified_zones]


def state(zone: ZoneId, status: int, *, free: int = 100, reason: str | None = None) -> ZoneState:
    return ZoneState(zone, status, free_pages=free, high_pages=60, reserve_pages=0, reason=reason)


def calm() -> list[ZoneState]:
    return [state(DMA, -1), state(DMA32, 0, free=5000), state(NORMAL, 0, free=5000)]


def pressed(*zones: ZoneId, level: str = LEVEL_LOW) -> list[ZoneState]:
    under = {zone: replace(state(zone, 1, reason="anon_scan"), level=level) for zone in zones}
    return [under.get(each.zone, each) for each in calm()]


def calls_of(act: Callable[[], object]) -> int:
    """How many calls of functions it takes: a measure of work that is the same on each machine."""
    count = itertools.count()
    sys.setprofile(lambda _frame, event, _arg: next(count) if event.endswith("call") else None)
    try:
        act()
    finally:
        sys.setprofile(None)
    return next(count)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def board(listener: Listener) -> Board:
    board = Board(listener)
    board.publish(calm(), [], 0)
    return board


def drive(board: Board, start_ms: int, end_ms: int) -> None:
    """Call `tick` at each deadline up to `end_ms`, as the server does; a deadline that never moves is an error."""
    now_ms = start_ms
    for _ in range(1000):
        deadline_ns = board.deadline_ns
        if deadline_ns is None or deadline_ns > end_ms * MS:
            return
        now_ms = max(now_ms, -(-deadline_ns // MS))
        board.tick(now_ms * MS)
    pytest.fail("the board's deadline stands still: its driver would spin")


def test_evidence_is_notified_at_once(board: Board, listener: Listener) -> None:
    board.publish(pressed(NORMAL), [NORMAL], 5 * MS)
    assert listener.notified_zones == [(5, {NORMAL: "anon_scan"})]


def test_pressure_without_new_evidence_is_not_notified_again(board: Board, listener: Listener) -> None:
    board.publish(pressed(NORMAL), [NORMAL], 5 * MS)
    for now_ms in range(10, 2000, 50):
        board.publish(pressed(NORMAL), [], now_ms * MS)
        drive(board, now_ms, now_ms)
    assert listener.times_ms == [5]
    assert board.states[NORMAL].under_pressure


def test_at_most_one_notification_in_200_ms_system_wide(board: Board, listener: Listener) -> None:
    for now_ms in range(0, 1000, 20):
        board.publish(pressed(NORMAL, DMA32), [NORMAL, DMA32], now_ms * MS)
    assert listener.times_ms == [0, 200, 400, 600, 800]


def test_a_zone_that_is_raised_too_soon_after_another_is_notified_when_its_time_comes(
    board: Board, listener: Listener
) -> None:
    board.publish(pressed(NORMAL), [NORMAL], 0)
    board.publish(pressed(NORMAL, DMA32), [DMA32], 30 * MS)
    assert listener.times_ms == [0]
    assert board.deadline_ns == NOTIFY_INTERVAL_NS
    drive(board, 30, 1000)
    assert listener.notified_zones[1:] == [(200, {DMA32: "anon_scan"})]


def test_a_postponed_notification_is_dropped_when_the_pressure_ends_before_its_time(
    board: Board, listener: Listener
) -> None:
    board.publish(pressed(NORMAL), [NORMAL], 0)
    board.publish(pressed(NORMAL, DMA32), [DMA32], 30 * MS)
    board.publish(pressed(NORMAL), [], 60 * MS)
    drive(board, 60, 1000)
    assert listener.times_ms == [0]
    assert listener.ended == [(60, (DMA32,))]
    assert board.deadline_ns is None


def test_the_end_of_pressure_is_told_once(board: Board, listener: Listener) -> None:
    board.publish(pressed(NORMAL), [NORMAL], 0)
    board.publish(calm(), [], 50 * MS)
    board.publish(calm(), [], 100 * MS)
    assert listener.ended == [(50, (NORMAL,))]


def test_a_zone_that_vanishes_under_pressure_has_ended(board: Board, listener: Listener) -> None:
    board.publish(pressed(NORMAL), [NORMAL], 0)
    board.publish([each for each in calm() if each.zone != NORMAL], [], 50 * MS)
    assert listener.ended == [(50, (NORMAL,))]
    assert NORMAL not in board.states


def test_a_simulation_goes_on_for_its_time_and_ends(board: Board, listener: Listener) -> None:
    board.simulate(NORMAL, 500 * MS, 10 * MS)
    assert board.states[NORMAL].under_pressure
    assert board.states[NORMAL].reason == "simulated"
    drive(board, 10, 5000)
    assert listener.notified_zones == [(t, {NORMAL: "simulated"}) for t in (10, 210, 410)]
    assert listener.ended == [(510, (NORMAL,))]
    assert board.states[NORMAL].status == 0
    assert board.deadline_ns is None


def test_a_simulation_of_all_zones_leaves_ignored_ones_alone(board: Board, listener: Listener) -> None:
    board.simulate(None, 100 * MS, 0)
    assert listener.notified_zones == [(0, {DMA32: "simulated", NORMAL: "simulated"})]
    assert board.states[DMA].status == -1


def test_a_simulation_of_zero_seconds_ends_one(board: Board, listener: Listener) -> None:
    board.simulate(NORMAL, 10_000 * MS, 0)
    board.simulate(NORMAL, 0, 50 * MS)
    assert listener.ended == [(50, (NORMAL,))]
    assert board.deadline_ns is None


@pytest.mark.parametrize("zone", [ZoneId(3, "Normal"), DMA])
def test_a_simulation_of_an_unknown_or_ignored_zone_names_those_there_are(board: Board, zone: ZoneId) -> None:
    with pytest.raises(UnknownZoneError, match=rf"no zone {zone}.*node0-DMA32, node0-Normal"):
        board.simulate(zone, MS, 0)


def test_real_pressure_is_not_hidden_by_a_simulation(board: Board, listener: Listener) -> None:
    board.simulate(NORMAL, 1000 * MS, 0)
    board.publish(pressed(NORMAL), [NORMAL], 50 * MS)
    assert board.states[NORMAL].reason == "anon_scan"
    drive(board, 50, 250)
    assert listener.notified_zones[-1] == (200, {NORMAL: "anon_scan"})


def test_a_simulated_record_asks_for_memory_although_there_is_plenty(board: Board) -> None:
    board.simulate(NORMAL, MS, 0)
    record = board.states[NORMAL].record(page_kb=4)
    assert record.reclaim_target_kb == (2 * 60 - 60) * 4


def test_a_zone_that_becomes_ignored_ends_its_simulation(board: Board, listener: Listener) -> None:
    board.simulate(NORMAL, 10_000 * MS, 0)
    board.publish([state(NORMAL, -1), *calm()[:2]], [], 20 * MS)
    drive(board, 20, 20_000)
    assert board.deadline_ns is None
    assert listener.ended == [(20, (NORMAL,))]


def test_raised_counts_scans_and_simulations(board: Board) -> None:
    board.simulate(NORMAL, MS, 0)
    drive(board, 0, 100)
    board.simulate(NORMAL, MS, 200 * MS)
    drive(board, 200, 300)
    assert board.states[NORMAL].raised == 2


def test_the_record_of_a_state() -> None:
    zone = ZoneState(NORMAL, 1, free_pages=1000, high_pages=600, reserve_pages=50, reason="anon_scan", time_ns=7)
    assert zone.record(page_kb=16).format() == (
        b"node=0 zone=Normal pressure=1 free_pages=1000 high_pages=600 reserve_pages=50 reclaim_target_kb=4800 "
        b"reason=anon_scan time_ns=7 level=low\n"
    )


class TestTakenOver:
    """The board of the next server goes on where that of the one before has ended."""

    def succeed(self, board: Board, states: list[ZoneState], now_ms: int) -> tuple[Board, Listener, set[ZoneId]]:
        """The next board, who listens to it, and which zones it says were told of. The first scan was calm."""
        listener = Listener()
        following = Board(listener)
        following.publish(calm(), [], 0)
        told = following.restore(states, board.snapshot(), now_ms * MS)
        following.tick(now_ms * MS)
        return following, listener, {state.zone for state in told}

    def test_at_rest_there_is_nothing_to_be_said(self, board: Board) -> None:
        assert board.snapshot() == Carried()
        board.publish(calm(), [], 50 * MS)
        assert board.snapshot() == Carried()

    def test_pressure_that_was_told_is_not_told_again(self, board: Board) -> None:
        board.publish(pressed(NORMAL), [NORMAL], 5 * MS)
        following, listener, told = self.succeed(board, pressed(NORMAL), 900)
        assert told == {NORMAL}
        assert following.states[NORMAL].under_pressure
        assert following.notifications == 1
        following.publish(pressed(NORMAL), [], 950 * MS)
        assert listener.times_ms == []
        following.publish(calm(), [], 1000 * MS)
        assert listener.ended == [(1000, (NORMAL,))]

    def test_pressure_that_nobody_was_told_of_yet_is_told(self, board: Board) -> None:
        board.publish(pressed(NORMAL), [NORMAL], 0)
        board.publish(pressed(NORMAL, DMA32), [DMA32], 30 * MS)
        following, listener, told = self.succeed(board, pressed(NORMAL, DMA32), 90)
        assert told == {NORMAL}
        assert listener.times_ms == []
        drive(following, 90, 1000)
        assert listener.notified_zones == [(200, {DMA32: "anon_scan"})]

    def test_a_simulation_keeps_its_level_and_is_no_change_to_who_follows_states(self, board: Board) -> None:
        board.publish(calm(), [], 0)
        board.simulate(NORMAL, 600_000 * MS, 5 * MS, LEVEL_CRITICAL)
        following, listener, _ = self.succeed(board, calm(), 900)
        assert following.states[NORMAL].level == LEVEL_CRITICAL
        # What it told at first is what the first scan found.
        assert listener.changes == [{state.zone for state in calm()}]
        following.simulate(NORMAL, 0, 1000 * MS)
        assert listener.changes[1:] == [{NORMAL}]

    def test_the_rate_of_notifications_holds_across_both(self, board: Board) -> None:
        board.publish(pressed(NORMAL), [NORMAL], 100 * MS)
        following, listener, _ = self.succeed(board, pressed(NORMAL), 150)
        following.publish(pressed(NORMAL), [NORMAL], 160 * MS)
        drive(following, 160, 1000)
        assert listener.times_ms == [300]

    def test_a_simulation_goes_on_for_the_rest_of_its_time(self, board: Board) -> None:
        board.simulate(NORMAL, 500 * MS, 10 * MS)
        following, listener, told = self.succeed(board, calm(), 300)
        assert told == {NORMAL}
        assert (following.states[NORMAL].reason, following.states[NORMAL].raised) == ("simulated", 1)
        drive(following, 300, 5000)
        assert listener.notified_zones == [(300, {NORMAL: "simulated"}), (500, {NORMAL: "simulated"})]
        assert listener.ended == [(510, (NORMAL,))]
        assert following.notifications == 3

    def test_a_simulation_whose_time_is_over_ends_at_once(self, board: Board) -> None:
        board.simulate(NORMAL, 500 * MS, 10 * MS)
        following, listener, told = self.succeed(board, calm(), 700)
        assert told == {NORMAL}
        assert (listener.ended, listener.times_ms) == ([(700, (NORMAL,))], [])
        assert following.deadline_ns is None
        assert following.states[NORMAL].raised == 1, "it still says how often"

    def test_a_simulation_can_be_ended(self, board: Board) -> None:
        board.simulate(None, 600_000 * MS, 0)
        following, listener, _ = self.succeed(board, calm(), 100)
        following.simulate(None, 0, 150 * MS)
        assert listener.ended == [(150, (DMA32, NORMAL))]
        assert following.deadline_ns is None

    @pytest.mark.parametrize("now", [[], [state(NORMAL, -1)]], ids=["gone", "ignored"])
    def test_a_zone_that_is_none_any_more_has_ended(self, board: Board, now: list[ZoneState]) -> None:
        board.publish(pressed(NORMAL), [NORMAL], 0)
        board.simulate(NORMAL, 600_000 * MS, 0)
        following, listener, _ = self.succeed(board, [*calm()[:2], *now], 100)
        assert listener.ended == [(100, (NORMAL,))]
        assert [each.status for each in following.states.values()] == [-1, 0, *(each.status for each in now)]
        assert following.deadline_ns is None

    def test_a_level_that_was_told_does_not_rise_again(self, board: Board) -> None:
        board.publish(pressed(NORMAL, level=LEVEL_CRITICAL), [NORMAL], 0)
        board.publish(pressed(NORMAL, level=LEVEL_MEDIUM), [], 1000 * MS)
        following, listener, _ = self.succeed(board, pressed(NORMAL, level=LEVEL_MEDIUM), 2000)
        following.publish(pressed(NORMAL, level=LEVEL_CRITICAL), [], 3000 * MS)
        assert listener.rises == []
        following.publish(pressed(NORMAL, level=LEVEL_LOW), [], 4000 * MS)
        following.publish(pressed(NORMAL, level=LEVEL_CRITICAL), [], 14_000 * MS)
        assert listener.rises == [(14_000, NORMAL, LEVEL_CRITICAL)]

    def test_a_level_that_has_risen_meanwhile_is_told_to_everybody(self, board: Board) -> None:
        board.publish(pressed(NORMAL), [NORMAL], 0)
        _, listener, _ = self.succeed(board, pressed(NORMAL, level=LEVEL_CRITICAL), 900)
        assert listener.rises == [(900, NORMAL, LEVEL_CRITICAL)]

    def test_it_is_the_same_for_the_one_after_that(self, board: Board) -> None:
        board.publish(pressed(NORMAL, level=LEVEL_MEDIUM), [NORMAL], 0)
        board.simulate(DMA32, 600_000 * MS, 10 * MS)
        drive(board, 10, 210)
        states = [replace(each, raised=each.status) for each in pressed(NORMAL, level=LEVEL_MEDIUM)]
        board.publish(states, [], 220 * MS)
        following = Board(Listener())
        following.restore(states, board.snapshot(), 300 * MS)
        assert following.snapshot() == board.snapshot()


class TestCritical:
    """Notifications come as often as programs answer, each with evidence of its own."""

    def play(self, board: Board, listener: Listener, awaited_ms: range, *, every_ms: int = 20) -> list[int]:
        for now_ms in range(1000, 1500, every_ms):
            listener.awaited = now_ms in awaited_ms
            drive(board, now_ms - every_ms, now_ms - 1)
            board.publish(pressed(NORMAL, level=LEVEL_CRITICAL), [NORMAL], now_ms * MS)
        return listener.times_ms

    def test_every_200_ms_while_nobody_has_answered(self, board: Board, listener: Listener) -> None:
        assert self.play(board, listener, range(0)) == [1000, 1200, 1400]

    def test_at_each_sample_while_somebody_waits_again(self, board: Board, listener: Listener) -> None:
        assert self.play(board, listener, range(1040, 1100)) == [1000, 1040, 1060, 1080, 1280, 1480]

    def test_not_sooner_than_20_ms_after_the_last_one(self, board: Board, listener: Listener) -> None:
        times_ms = self.play(board, listener, range(2000), every_ms=5)
        assert times_ms == list(range(1000, 1500, 20))

    def test_a_simulation_is_repeated_as_often(self, board: Board, listener: Listener) -> None:
        listener.awaited = True
        board.simulate(NORMAL, 101 * MS, 0, LEVEL_CRITICAL)
        drive(board, 0, 1000)
        assert listener.times_ms == [0, 20, 40, 60, 80, 100]


class TestRise:
    """A level above the highest one told in a zone's pressure is told to everybody, at once."""

    def play(self, board: Board, *levels: tuple[int, str | None], evidence: bool = False) -> None:
        """Publish `levels` of the Normal zone at these times in ms, None for no pressure; the first with evidence."""
        for now_ms, level in levels:
            drive(board, now_ms, now_ms)
            first = evidence or not board.states[NORMAL].under_pressure
            states = calm() if level is None else pressed(NORMAL, level=level)
            board.publish(states, [NORMAL] if level and first else [], now_ms * MS)

    def test_pressure_that_begins_low_or_medium_is_none(self, board: Board, listener: Listener) -> None:
        self.play(board, (0, LEVEL_LOW), (1000, None), (2000, LEVEL_MEDIUM))
        assert listener.times_ms == [0, 2000]
        assert listener.rises == []

    def test_pressure_that_begins_critical_is_one(self, board: Board, listener: Listener) -> None:
        self.play(board, (0, LEVEL_CRITICAL))
        assert listener.rises == [(0, NORMAL, LEVEL_CRITICAL)]

    def test_is_notified_without_new_evidence_once(self, board: Board, listener: Listener) -> None:
        self.play(board, (0, LEVEL_LOW), (1000, LEVEL_MEDIUM), (1500, LEVEL_MEDIUM), (2000, LEVEL_CRITICAL))
        self.play(board, (2500, LEVEL_CRITICAL), (3000, LEVEL_CRITICAL))
        assert listener.times_ms == [0, 1000, 2000]
        assert listener.rises == [(1000, NORMAL, LEVEL_MEDIUM), (2000, NORMAL, LEVEL_CRITICAL)]

    @pytest.mark.parametrize(("level", "told_ms"), [(LEVEL_MEDIUM, 200), (LEVEL_CRITICAL, 20)])
    def test_waits_for_the_rate_and_comes_as_soon_as_it_allows(
        self, board: Board, listener: Listener, level: str, told_ms: int
    ) -> None:
        self.play(board, (0, LEVEL_LOW), (10, level))
        assert listener.times_ms == [0]
        assert board.deadline_ns == told_ms * MS
        drive(board, 10, 1000)
        assert listener.rises == [(told_ms, NORMAL, level)]
        assert board.deadline_ns is None

    def test_that_is_over_before_its_time_is_not_told(self, board: Board, listener: Listener) -> None:
        self.play(board, (0, LEVEL_LOW), (30, LEVEL_MEDIUM), (60, LEVEL_LOW))
        assert board.deadline_ns is None
        self.play(board, (90, LEVEL_MEDIUM), (120, None))
        assert board.deadline_ns is None
        drive(board, 120, 1000)
        assert listener.times_ms == [0]

    def test_a_level_reached_before_the_first_notification_is_none_unless_it_is_critical(
        self, board: Board, listener: Listener
    ) -> None:
        board.publish(pressed(DMA32), [DMA32], 0)
        board.publish(pressed(DMA32, NORMAL, level=LEVEL_LOW), [NORMAL], 30 * MS)
        board.publish(pressed(DMA32, NORMAL, level=LEVEL_MEDIUM), [], 60 * MS)
        drive(board, 60, 1000)
        assert listener.rises == [(200, DMA32, LEVEL_MEDIUM)]
        assert list(listener.notified_zones[-1][1]) == [NORMAL, DMA32]

    def test_a_level_that_swings_does_not_tell_everybody_at_each_swing(self, board: Board, listener: Listener) -> None:
        swings = [(ms, (LEVEL_LOW, LEVEL_CRITICAL, LEVEL_MEDIUM)[ms // 3000 % 3]) for ms in range(0, 60_000, 3000)]
        self.play(board, *swings, evidence=True)
        assert listener.rises == [(3000, NORMAL, LEVEL_CRITICAL)]
        assert len(listener.times_ms) == len(swings)

    def test_the_same_level_rises_again_after_ten_seconds_below_it(self, board: Board, listener: Listener) -> None:
        self.play(board, (0, LEVEL_CRITICAL), (1000, LEVEL_MEDIUM), (10_999, LEVEL_CRITICAL))
        assert listener.rises == [(0, NORMAL, LEVEL_CRITICAL)]
        self.play(board, (11_500, LEVEL_LOW), (15_000, LEVEL_MEDIUM), (21_500, LEVEL_CRITICAL))
        assert listener.rises[1:] == [(21_500, NORMAL, LEVEL_CRITICAL)]

    def test_the_level_that_it_fell_to_is_the_one_that_counts(self, board: Board, listener: Listener) -> None:
        self.play(board, (0, LEVEL_CRITICAL), (1000, LEVEL_LOW), (11_000, LEVEL_LOW), (12_000, LEVEL_MEDIUM))
        assert listener.rises[1:] == [(12_000, NORMAL, LEVEL_MEDIUM)]

    def test_the_end_of_the_pressure_forgets_what_was_told(self, board: Board, listener: Listener) -> None:
        self.play(board, (0, LEVEL_CRITICAL), (1000, None), (1500, LEVEL_LOW), (2000, LEVEL_CRITICAL))
        assert [now_ms for now_ms, _, _ in listener.rises] == [0, 2000]

    def test_each_zone_has_its_own(self, board: Board, listener: Listener) -> None:
        board.publish(pressed(NORMAL), [NORMAL], 0)
        critical = pressed(DMA32, level=LEVEL_CRITICAL)[1]
        board.publish([pressed(NORMAL)[0], critical, pressed(NORMAL)[2]], [NORMAL, DMA32], 1000 * MS)
        assert listener.rises == [(1000, DMA32, LEVEL_CRITICAL)]
        assert list(listener.notified_zones[-1][1]) == [NORMAL, DMA32]

    def test_a_simulation_is_of_level_low_whatever_the_machine_does(self, board: Board, listener: Listener) -> None:
        board.simulate(NORMAL, 1000 * MS, 0)
        board.publish([replace(each, level=LEVEL_CRITICAL) for each in calm()], [], 300 * MS)
        assert board.states[NORMAL].level == LEVEL_LOW
        assert listener.rises == []

    def test_the_states_that_others_look_at_are_not_marked(self, board: Board) -> None:
        self.play(board, (0, LEVEL_CRITICAL))
        assert not board.states[NORMAL].rises


class TestCgroups:
    """They take the way of a zone, and each has a rate of its own."""

    BOX, OTHER = CgroupId("/pod/box", 1), CgroupId("/other", 2)

    def cgroups(self, *of: CgroupId, level: str = LEVEL_LOW, free: int = 100) -> list[ZoneState]:
        return [replace(state(each, 1, free=free, reason="file_exhausted"), level=level) for each in of]

    def notified_of(self, listener: Listener, zone: ZoneId) -> list[int]:
        """When, in ms."""
        return [time_ms for time_ms, zones in listener.notified_zones if zone in zones]

    def test_are_notified_of_and_seen_after_the_zones(self, board: Board, listener: Listener) -> None:
        board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], 5 * MS)
        assert listener.notified_zones == [(5, {self.BOX: "file_exhausted"})]
        assert list(board.states) == [DMA, DMA32, NORMAL, self.BOX]
        assert [each.zone for each in board.zones] == [DMA, DMA32, NORMAL]
        assert board.notifications == 1

    def test_stay_when_the_zones_are_published(self, board: Board, listener: Listener) -> None:
        board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], 5 * MS)
        board.publish(calm(), [], 10 * MS)
        assert board.states[self.BOX].under_pressure
        assert listener.ended == []

    def test_are_notified_of_once_in_200_ms_each(self, board: Board, listener: Listener) -> None:
        for now_ms in range(0, 1000, 20):
            board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], now_ms * MS)
        assert listener.times_ms == [0, 200, 400, 600, 800]

    def test_put_off_neither_a_zone_nor_one_another(self, board: Board, listener: Listener) -> None:
        for now_ms in range(0, 1000, 10):
            both = self.cgroups(self.BOX, self.OTHER) if now_ms >= 70 else self.cgroups(self.BOX)
            moved = [self.BOX, self.OTHER] if now_ms >= 70 else [self.BOX]
            board.publish_cgroups(both, moved, now_ms * MS)
            if now_ms >= 30:
                board.publish(pressed(NORMAL), [NORMAL], now_ms * MS)
        assert self.notified_of(listener, self.BOX) == [0, 200, 400, 600, 800]
        assert self.notified_of(listener, NORMAL) == [30, 230, 430, 630, 830]
        assert self.notified_of(listener, self.OTHER) == [70, 270, 470, 670, 870]

    def test_are_not_put_off_by_a_zone(self, board: Board, listener: Listener) -> None:
        board.publish(pressed(NORMAL), [NORMAL], 0)
        board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], 30 * MS)
        assert self.notified_of(listener, self.BOX) == [30]

    def test_that_are_critical_do_not_hasten_others(self, board: Board, listener: Listener) -> None:
        listener.awaited = True
        for now_ms in range(0, 400, 10):
            critical = self.cgroups(self.BOX, level=LEVEL_CRITICAL)
            board.publish_cgroups([*critical, *self.cgroups(self.OTHER)], [self.BOX, self.OTHER], now_ms * MS)
            board.publish(pressed(NORMAL), [NORMAL], now_ms * MS)
        assert self.notified_of(listener, self.BOX) == list(range(0, 400, 20))
        assert self.notified_of(listener, self.OTHER) == [0, 200]
        assert self.notified_of(listener, NORMAL) == [0, 200]

    def test_have_their_notification_when_its_time_comes(self, board: Board, listener: Listener) -> None:
        board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], 0)
        board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], 30 * MS)
        assert board.deadline_ns == NOTIFY_INTERVAL_NS
        drive(board, 30, 1000)
        assert listener.times_ms == [0, 200]
        assert board.deadline_ns is None

    def test_rise_to_critical_at_once(self, board: Board, listener: Listener) -> None:
        listener.awaited = True
        board.publish_cgroups(self.cgroups(self.BOX, self.OTHER), [self.BOX, self.OTHER], 0)
        critical = self.cgroups(self.BOX, level=LEVEL_CRITICAL)
        board.publish_cgroups([*critical, *self.cgroups(self.OTHER)], [], 30 * MS)
        assert listener.rises == [(30, self.BOX, LEVEL_CRITICAL)]
        assert listener.notified_zones[-1] == (30, {self.BOX: "file_exhausted"})
        board.publish_cgroups([*critical, *self.cgroups(self.OTHER)], [], 500 * MS)
        assert len(listener.rises) == 1

    def test_that_are_not_published_any_more_have_ended(self, board: Board, listener: Listener) -> None:
        board.publish_cgroups(self.cgroups(self.BOX, self.OTHER), [self.BOX, self.OTHER], 0)
        board.publish_cgroups(self.cgroups(self.OTHER), [], 50 * MS)
        assert listener.ended == [(50, (self.BOX,))]
        assert self.BOX not in board.states
        board.publish_cgroups([], [], 60 * MS)
        assert listener.ended[1:] == [(60, (self.OTHER,))]
        drive(board, 60, 2000)
        assert listener.times_ms == [0]
        assert board.deadline_ns is None

    def test_that_are_gone_are_not_notified_of_when_their_time_comes(self, board: Board, listener: Listener) -> None:
        board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], 0)
        board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], 30 * MS)
        board.publish_cgroups([], [], 60 * MS)
        drive(board, 60, 2000)
        assert listener.times_ms == [0]
        assert board.deadline_ns is None

    def test_whose_pressure_comes_and_goes_are_notified_of_no_oftener(self, board: Board, listener: Listener) -> None:
        """A program can make that of its own cgroup as often as it likes."""
        for now_ms in range(0, 1000, 20):
            board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], now_ms * MS)
            board.publish_cgroups([], [], (now_ms + 10) * MS)
        assert len(listener.times_ms) <= 5

    def test_rise_again_in_another_pressure(self, board: Board, listener: Listener) -> None:
        for now_ms in (0, 1000):
            board.publish_cgroups(self.cgroups(self.BOX, level=LEVEL_CRITICAL), [self.BOX], now_ms * MS)
            board.publish_cgroups([], [], (now_ms + 500) * MS)
        assert listener.rises == [(0, self.BOX, LEVEL_CRITICAL), (1000, self.BOX, LEVEL_CRITICAL)]

    def test_are_no_change_of_state_that_everybody_is_told_of(self, board: Board, listener: Listener) -> None:
        before = list(listener.changes)
        board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], 0)
        board.publish_cgroups(self.cgroups(self.BOX, level=LEVEL_CRITICAL), [self.BOX], 300 * MS)
        board.publish_cgroups([], [], 600 * MS)
        drive(board, 600, 2000)
        assert listener.changes == before
        board.publish(pressed(NORMAL), [NORMAL], 3000 * MS)
        assert listener.changes[len(before) :] == [{NORMAL}]

    def test_are_not_carried_to_the_next_server(self, board: Board, listener: Listener) -> None:
        board.publish(pressed(NORMAL), [NORMAL], 0)
        board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], 700 * MS)
        carried = board.snapshot()
        assert [each.zone for each in carried.zones] == [NORMAL]
        assert carried.last_notified_ns == 0
        after = Board(listener)
        assert [each.zone for each in after.restore(pressed(NORMAL), carried, 800 * MS)] == [NORMAL]

    def test_are_not_simulated(self, board: Board, listener: Listener) -> None:
        board.publish_cgroups(self.cgroups(self.BOX), [], 0)
        board.simulate(None, 1000 * MS, 0)
        assert listener.notified_zones == [(0, {DMA32: "simulated", NORMAL: "simulated"})]
        assert (board.states[self.BOX].reason, board.states[self.BOX].raised) == ("file_exhausted", 0)
        with pytest.raises(UnknownZoneError):
            board.simulate(self.BOX, 1000 * MS, 0)

    def test_cost_no_more_each_where_there_are_many(self) -> None:
        """All of them are under pressure, and wait for their time."""

        def calls(count: int) -> int:
            board = Board(BoardListener())
            of = [CgroupId(f"/{number}", number) for number in range(count)]
            states = self.cgroups(*of, level=LEVEL_CRITICAL)
            board.publish_cgroups(states, of, 0)
            board.publish_cgroups(states, of, 5 * MS)
            return calls_of(lambda: board.publish_cgroups(states, of[:10], 10 * MS))

        assert calls(200) < 8 * calls(50), "four times as many, and some"

    def test_under_pressure_do_not_end_with_a_simulation(self, board: Board, listener: Listener) -> None:
        board.publish_cgroups(self.cgroups(self.BOX), [self.BOX], 0)
        board.simulate(None, 100 * MS, 10 * MS)
        drive(board, 10, 1000)
        assert {zone for _, zones in listener.ended for zone in zones} == {DMA32, NORMAL}
        assert board.states[self.BOX].under_pressure
