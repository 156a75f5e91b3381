"""Fair between users: what one user's files do not do to another's. Guard time, herd control, turns, bounds."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.accounts import ROOT_UID, OverBoundError
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.policy import Policy
from tests.device.bench import ALICE, BOB, CAROL, DMA32, NORMAL, UserBench


@pytest.fixture
def bench() -> UserBench:
    return UserBench()


def users_of(files: list[OpenFile]) -> list[int]:
    return [file.user for file in files]


class TestGuardTime:
    def test_fifty_idle_files_of_one_user_do_not_lengthen_another_s(self, bench: UserBench) -> None:
        for _ in range(50):
            bench.open(ALICE)
        file = bench.open(BOB)
        bench.notify(1000)
        bench.answer([file], 1000)
        assert not bench.polls(file, 1199)
        assert bench.polls(file, 1200), "200 ms for the one file that Bob has"

    def test_counts_all_files_of_the_user(self, bench: UserBench) -> None:
        files = [bench.open(ALICE) for _ in range(10)]
        bench.notify(1000)
        bench.answer([files[0]], 1000)
        assert not bench.polls(files[0], 2999)
        assert bench.polls(files[0], 3000)

    def test_counts_the_files_of_the_ids_in_a_user_s_namespace(self, bench: UserBench) -> None:
        file = bench.open(ALICE)
        for uid in range(100_000, 100_009):
            bench.open(uid)
            bench.device.users.count_to(uid, ALICE)
        assert bench.device.open_files_of(ALICE) == 10
        bench.notify(1000)
        bench.answer([file], 1000)
        assert not bench.polls(file, 2999)
        assert bench.polls(file, 3000)


class TestHerdControl:
    def test_four_thousand_sleepers_of_one_user_do_not_keep_another_waiting(self, bench: UserBench) -> None:
        bench.sleepers(ALICE, 4000)
        (file,) = bench.sleepers(BOB, 1)
        bench.notify(1000)
        woken = bench.woken()
        assert file in woken
        assert len(woken) == 100

    def test_each_user_s_share_is_of_its_own_watchers(self, bench: UserBench) -> None:
        alices, bobs = bench.sleepers(ALICE, 40), bench.sleepers(BOB, 16)
        bench.notify(1000)
        woken = bench.woken()
        assert [file for file in woken if file.user == ALICE] == alices[:3], "40 / 16 + 1"
        assert [file for file in woken if file.user == BOB] == bobs[:2], "16 / 16 + 1"

    def test_users_are_woken_in_turns_one_file_at_a_time(self, bench: UserBench) -> None:
        bench.sleepers(ALICE, 40)
        bench.sleepers(BOB, 16)
        bench.sleepers(CAROL, 1)
        bench.notify(1000)
        assert users_of(bench.woken()) == [ALICE, BOB, CAROL, ALICE, BOB, ALICE]

    def test_the_user_whose_turn_is_longest_ago_is_first(self) -> None:
        bench = UserBench(Policy(guard_step_ns=0))
        bench.sleepers(ALICE, 2, NORMAL)
        bench.sleepers(BOB, 2, DMA32)
        bench.notify(1000, NORMAL)
        assert users_of(bench.woken()) == [ALICE]
        bench.sleepers(ALICE, 1, DMA32)
        bench.notify(1200, DMA32)
        assert users_of(bench.woken()) == [BOB, ALICE]

    def test_what_is_left_of_the_most_in_all_goes_to_those_who_had_none_the_last_time(self) -> None:
        bench = UserBench(Policy(herd_max=3))
        for user in (ALICE, BOB):
            bench.sleepers(user, 40)
        bench.notify(1000)
        assert users_of(bench.woken()) == [ALICE, BOB, ALICE]
        bench.notify(1200)
        assert users_of(bench.woken()) == [BOB, ALICE, BOB]

    def test_every_user_is_told_where_there_are_more_than_the_most_in_all(self) -> None:
        bench = UserBench(Policy(herd_max=3))
        for user in range(1000, 1010):
            bench.sleepers(user, 40)
        bench.notify(1000)
        assert users_of(bench.woken()) == list(range(1000, 1010))

    def test_the_ids_of_a_user_s_namespace_share_the_user_s_place(self, bench: UserBench) -> None:
        files = [file for uid in range(100_000, 100_008) for file in bench.sleepers(uid, 2)]
        for uid in range(100_000, 100_008):
            bench.device.users.count_to(uid, ALICE)
        bobs = bench.sleepers(BOB, 1)
        bench.notify(1000)
        woken = bench.woken()
        assert users_of(woken) == [ALICE, BOB, ALICE], "16 / 16 + 1 of Alice"
        assert set(woken) - set(bobs) == set(files[:2]), "first in, first out"
        assert bench.device.watchers == 14

    @given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=8), st.integers(1, 5))
    def test_no_user_waits_longer_than_one_notification_for_another_s_files(
        self, crowd: list[tuple[int, bool]], herd_max: int
    ) -> None:
        """Whoever has a file asleep has one woken at each notification, and one signalled."""
        bench = UserBench(Policy(herd_max=herd_max, guard_step_ns=0))
        for number, (count, signalled) in enumerate(crowd):
            (bench.subscribers if signalled else bench.sleepers)(2000 + number, count)
        sleeper, subscriber = bench.sleepers(ALICE, 1), bench.subscribers(BOB, 1)
        for now_ms in range(1000, 3000, 200):
            bench.notify(now_ms)
            woken = bench.woken()
            assert set(sleeper) <= set(woken)
            assert set(subscriber) <= set(bench.signal(now_ms))
            bench.answer(woken, now_ms)

    @given(st.integers(1, 15), st.lists(st.integers(1, 60), max_size=5))
    def test_a_user_s_few_files_are_told_as_if_there_were_no_other_user(self, count: int, crowd: list[int]) -> None:
        alone, beside = UserBench(), UserBench()
        for number, others in enumerate(crowd):
            beside.sleepers(2000 + number, others)
        files = {bench: bench.sleepers(ALICE, count) for bench in (alone, beside)}
        for now_ms in range(1000, 8000, 200):
            told = []
            for bench in (alone, beside):
                bench.notify(now_ms)
                woken = bench.woken()
                told.append([number for number, file in enumerate(files[bench]) if file in woken])
                bench.answer(woken, now_ms)
            assert told[0] == told[1]


class TestSigio:
    def test_a_thousand_subscribers_of_one_user_do_not_come_before_another_s_first(self, bench: UserBench) -> None:
        bench.subscribers(ALICE, 1000)
        bobs = bench.subscribers(BOB, 2)
        bench.notify(1000)
        picked = bench.picks(1000)
        assert picked[1] == bobs[0]
        assert users_of(picked) == [ALICE, BOB] + [ALICE] * 62, "1000 / 16 + 1 of Alice's, 2 / 16 + 1 of Bob's"

    def test_a_user_s_watchers_take_nothing_of_another_s_share(self, bench: UserBench) -> None:
        bench.sleepers(ALICE, 1600)
        bobs = bench.subscribers(BOB, 32)
        bench.notify(1000)
        assert len(bench.woken()) == 97, "100 and 3 wanted, 100 in all"
        assert bench.picks(1000) == bobs[:3]

    def test_who_polls_and_who_is_signalled_share_the_most_in_all(self, bench: UserBench) -> None:
        bench.sleepers(ALICE, 1600)
        bench.subscribers(BOB, 1600)
        bench.notify(1000)
        assert (len(bench.woken()), len(bench.picks(1000))) == (50, 50)

    def test_the_user_who_was_signalled_longest_ago_is_first(self, bench: UserBench) -> None:
        (alice,) = bench.subscribers(ALICE, 1, NORMAL)
        bench.subscribers(BOB, 1, DMA32)
        bench.notify(1000, NORMAL)
        assert bench.signal(1000) == [alice]
        bench.subscribers(ALICE, 1, DMA32)
        bench.notify(1200, DMA32)
        assert users_of(bench.picks(1200)) == [BOB, ALICE]

    def test_those_signalled_count_for_their_own_user(self, bench: UserBench) -> None:
        alices = bench.subscribers(ALICE, 40)
        bobs = bench.subscribers(BOB, 40)
        bench.notify(1000)
        told = set()
        for file in alices[:3]:
            bench.announces(file, 1000)
            told.add(file.number)
        assert bench.picks(1000, told) == bobs[:3]

    def test_each_user_is_owed_one_also_late_in_a_notification(self) -> None:
        bench = UserBench(Policy(herd_max=2))
        alices = bench.subscribers(ALICE, 40)
        bench.notify(1000)
        assert bench.signal(1000) == alices[:2]
        (late,) = bench.subscribers(BOB, 1)
        assert bench.picks(1001, {file.number for file in alices[:2]}) == [late]

    def test_a_user_who_was_told_is_owed_no_more_beyond_the_most_in_all(self) -> None:
        bench = UserBench(Policy(herd_max=2))
        alice, bob = bench.subscribers(ALICE, 40)[0], bench.subscribers(BOB, 40)[0]
        bench.notify(1000)
        assert bench.signal(1000) == [alice, bob]
        assert bench.picks(1001, {alice.number, bob.number}) == []


class TestBounds:
    def test_a_user_cannot_keep_another_from_opening(self, bench: UserBench) -> None:
        """Nor with the 65,536 ids of its user namespace, whose owner is not known yet."""
        bench = UserBench(Policy(max_open_per_user=128, max_open=1024, root_reserve=32))
        for uid in (ALICE, *range(100_000, 100_600)):
            with suppress(OverBoundError):
                while True:
                    bench.open(uid)
        for _ in range(64):
            bench.open(BOB)

    def test_root_opens_when_nobody_else_can(self) -> None:
        bench = UserBench(Policy(max_open=16, root_reserve=4))
        for uid in range(2000, 2012):
            bench.open(uid)
        with pytest.raises(OverBoundError) as refused:
            bench.open(BOB)
        assert not refused.value.per_user
        for _ in range(4):
            bench.open(ROOT_UID)

    def test_text_files_and_device_files_are_one_account(self) -> None:
        bench = UserBench(Policy(max_open_per_user=2))
        bench.device.account.take(bench.device.users.of(ALICE))
        bench.open(ALICE)
        with pytest.raises(OverBoundError):
            bench.open(ALICE)
        assert bench.device.open_files_of(ALICE) == 1, "for the guard time"

    def test_what_an_id_holds_is_its_owner_s_once_that_is_learned(self) -> None:
        bench = UserBench(Policy(max_open_per_user=2))
        files = [bench.open(uid) for uid in (100_000, 100_001, 100_000)]
        for uid in (100_000, 100_001):
            bench.device.users.count_to(uid, ALICE)
        assert users_of(files) == [ALICE] * 3
        assert [file.uid for file in files] == [100_000, 100_001, 100_000]
        for uid in (ALICE, 100_000, 100_002):
            bench.device.users.count_to(100_002, ALICE)
            with pytest.raises(OverBoundError):
                bench.open(uid)
        for file in files:
            bench.device.close(file)
        assert bench.device.account.held == bench.device.open_files_of(ALICE) == 0
        assert bench.open(100_001).user == ALICE

    def test_closing_forgets_the_user(self, bench: UserBench) -> None:
        (file,) = bench.sleepers(ALICE, 1)
        bench.device.subscribe(file, subscribed=True)
        bench.device.close(file)
        bench.notify(1000)
        assert bench.woken() == bench.picks(1000) == []
        assert bench.device.account.users == bench.device.open_files == bench.device.subscribers == 0


class TestMemory:
    def test_an_open_file_costs_400_bytes_at_most_and_gives_them_back(self) -> None:
        bench = UserBench()

        def fill() -> None:
            for file in bench.sleepers(ALICE, 4000):
                file.opener_tid = file.user_tid = 1_000_000 + file.number
                bench.device.subscribe(file, subscribed=True)
            bench.notify(1000)
            bench.woken()

        def leave_ten() -> None:
            for file in bench.device.files[10:]:
                bench.device.close(file)

        filled, left = traced(fill, leave_ten)
        assert filled / 4000 < 400 + 2 * 64, "and its places among watchers and subscribers"
        assert left < 100 * 1024

    def test_the_transport_s_callable_is_kept_once(self) -> None:
        class Transport:
            def wake(self, file: OpenFile) -> None:
                raise AssertionError

        bench, transport = UserBench(), Transport()
        first, second = (bench.device.open(ALICE, None, transport.wake) for _ in range(2))
        assert first.wake is second.wake


def traced(*steps: Callable[[], None]) -> list[int]:
    """How many bytes more than at first are in use after each of `steps`."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        used = []
        for step in steps:
            step()
            gc.collect()
            used.append(tracemalloc.get_traced_memory()[0] - before)
        return used
    finally:
        tracemalloc.stop()
