"""Accounts: bounds, shares of what is left, the reserve, and the ids of user namespaces."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.accounts import ROOT_UID, Account, Bounds, OverBoundError, Users
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.policy import Policy
from tests.device.bench import ALICE, BOB, CAROL, UserBench


def take_all(account: Account, user: int) -> int:
    """How much `user` gets until it is refused."""
    for taken in range(account.bounds.total + 1):
        try:
            account.take(user)
        except OverBoundError:
            return taken
    raise AssertionError("never refused")


class TestAccount:
    def test_a_user_has_its_bound_while_there_is_plenty(self) -> None:
        assert take_all(Account(Bounds(total=1000, per_user=10, root_reserve=10)), ALICE) == 10

    def test_the_fuller_it_is_the_less_a_user_gets_and_the_next_one_still_gets_something(self) -> None:
        account = Account(Bounds(total=1000, per_user=1000, root_reserve=0))
        shares = [take_all(account, user) for user in range(1000, 1020)]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] == 200, "a quarter of the 800 that are left then"
        assert shares[-1] > 0

    def test_many_subordinate_ids_leave_half_to_those_who_log_in(self) -> None:
        account = Account(Bounds(total=110, per_user=10, root_reserve=10))
        assert sum(take_all(account, uid) for uid in range(100_000, 100_200)) == 50
        assert take_all(account, BOB) == 10
        account.give_back(100_000)
        account.take(100_200)

    def test_subordinate_ids_whose_owner_was_learned_are_not_held_against_the_others(self) -> None:
        account = Account(Bounds(total=110, per_user=100, root_reserve=10))
        assert take_all(account, 100_000) == 10, "a quarter of the 40 that are left then"
        account.move(100_000, ALICE)
        assert (account.of(100_000), account.of(ALICE), account.held) == (0, 10, 10)
        assert take_all(account, 100_001) == 10

    def test_the_reserve_is_root_s(self) -> None:
        account = Account(Bounds(total=20, per_user=20, root_reserve=8))
        for user in range(1000, 1012):
            account.take(user)
        with pytest.raises(OverBoundError) as refused:
            account.take(2000)
        assert not refused.value.per_user
        assert take_all(account, ROOT_UID) == 8

    def test_a_user_who_holds_nothing_is_not_kept(self) -> None:
        account = Account(Bounds(total=20, per_user=20, root_reserve=8))
        account.take(ALICE)
        account.give_back(ALICE)
        assert (account.users, account.held, account.of(ALICE)) == (0, 0, 0)


class TestUsers:
    def test_an_id_is_its_own_user_until_its_owner_is_learned(self) -> None:
        users = Users()
        assert (users.of(100_000), users.knows(100_000)) == (100_000, False)
        users.count_to(100_000, ALICE)
        assert (users.of(100_000), users.knows(100_000)) == (ALICE, True)

    def test_the_ids_of_root_s_namespaces_are_their_own(self) -> None:
        users = Users()
        users.count_to(100_000, ROOT_UID)
        assert (users.of(100_000), users.knows(100_000)) == (100_000, True)

    def test_root_is_nobody_s(self) -> None:
        users = Users()
        users.count_to(ROOT_UID, ALICE)
        assert users.of(ROOT_UID) == ROOT_UID

    def test_the_first_owner_stays_until_the_id_is_forgotten(self) -> None:
        users = Users()
        users.count_to(100_000, ALICE)
        for other in (BOB, ROOT_UID, 100_000):
            users.count_to(100_000, other)
            assert users.of(100_000) == ALICE
        users.forget_all_but(set())
        users.count_to(100_000, BOB)
        assert users.of(100_000) == BOB

    def test_an_owner_s_owner_has_its_ids_too(self) -> None:
        users = Users()
        learned: list[tuple[int, int]] = []
        users.on_learned(lambda user, owner: learned.append((user, owner)))
        users.count_to(200_000, 100_000)
        users.count_to(100_000, ALICE)
        assert users.of(200_000) == ALICE
        users.count_to(200_001, 100_000)
        assert users.of(200_001) == ALICE
        users.count_to(ALICE, 200_001)
        assert users.of(ALICE) == ALICE, "no id is counted to itself by a detour"
        assert learned == [(200_000, 100_000), (100_000, ALICE), (200_001, ALICE)]


UIDS = (ROOT_UID, ALICE, BOB, CAROL, 100_000, 100_001)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["open", "text"]), st.sampled_from(UIDS), st.just(0)),
    st.tuples(st.sampled_from(["close", "untext", "watch", "subscribe"]), st.integers(0, 20), st.just(0)),
    st.tuples(st.just("learn"), st.sampled_from(UIDS), st.sampled_from(UIDS)),
    st.tuples(st.just("forget"), st.just(0), st.just(0)),
)


@given(st.lists(STEPS, max_size=60))
def test_each_user_s_account_is_what_it_holds_after_any_sequence(steps: list[tuple[str, int, int]]) -> None:
    bench = UserBench(Policy(max_open_per_user=5, max_open=20, root_reserve=3))
    device = bench.device
    texts: list[int] = []
    files: list[OpenFile] = []
    for step, which, owner in steps:
        if step in ("open", "text"):
            try:
                if step == "open":
                    files.append(bench.open(which))
                else:
                    device.account.take(device.users.of(which))
                    texts.append(which)
            except OverBoundError:
                pass
        elif step == "untext" and texts:
            device.account.give_back(device.users.of(texts.pop(which % len(texts))))
        elif step == "learn":
            device.users.count_to(which, owner)
        elif step == "forget":
            device.users.forget_all_but({*texts, *(file.uid for file in files)})
        elif files and step == "close":
            device.close(files.pop(which % len(files)))
        elif files and step == "watch":
            device.watch(files[which % len(files)])
        elif files and step == "subscribe":
            device.subscribe(files[which % len(files)], subscribed=True)
        assert all(file.user == device.users.of(file.uid) for file in files)
        of_device = Counter(file.user for file in files)
        in_all = of_device + Counter(map(device.users.of, texts))
        assert {user: device.account.of(user) for user in map(device.users.of, UIDS)} == {
            user: in_all[user] for user in map(device.users.of, UIDS)
        }
        assert (device.account.held, device.account.users) == (in_all.total(), len(in_all))
        assert all(device.open_files_of(user) == of_device[user] for user in UIDS)
        assert device.account.held <= device.account.bounds.total
    for file in files:
        device.close(file)
    assert (device.open_files, device.watchers, device.subscribers) == (0, 0, 0)
