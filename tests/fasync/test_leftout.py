"""Users who held up a helper: for how long they are left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.accounts import FIRST_SUBORDINATE_UID
from memnotify_cuse.fasync.leftout import FORGIVEN_AFTER_S, LONGEST_S, NS, LeftOut, key_of

ALICE, BOB, ROOT = 1001, 1002, 0


def blamed(times: int, *, every_s: float = 0.0) -> tuple[LeftOut, list[float], int]:
    """Alice, blamed so often, each time `every_s` after she was let in again; for how long, and the time now."""
    left_out, lengths, now_ns = LeftOut(), [], 0
    for _ in range(times):
        lengths.append(left_out.blame(ALICE, now_ns))
        now_ns += int((lengths[-1] + every_s) * NS)
    return left_out, lengths, now_ns


def test_a_second_the_first_time_and_twice_as_long_each_time() -> None:
    assert blamed(6)[1] == [1, 2, 4, 8, 16, 32]


def test_never_longer_than_an_hour() -> None:
    lengths = blamed(200)[1]
    assert lengths[11:] == [2048.0] + [LONGEST_S] * 188


def test_until_the_time_is_over() -> None:
    left_out = LeftOut()
    left_out.blame(ALICE, 5 * NS)
    assert left_out.is_out(ALICE, 6 * NS - 1)
    assert left_out.keys(6 * NS - 1) == {ALICE}
    assert not left_out.is_out(ALICE, 6 * NS)
    assert left_out.keys(6 * NS) == set()


def test_others_are_not_left_out() -> None:
    left_out = LeftOut()
    left_out.blame(ALICE, 0)
    assert not left_out.is_out(BOB, 0)
    left_out.blame(BOB, NS // 2)
    assert left_out.keys(NS // 2) == {ALICE, BOB}
    assert left_out.keys(NS) == {BOB}


def test_who_held_nothing_up_for_ten_minutes_starts_anew() -> None:
    _, lengths, _ = blamed(4, every_s=FORGIVEN_AFTER_S)
    assert lengths == [1, 1, 1, 1]


def test_less_than_that_is_not_forgotten() -> None:
    _, lengths, _ = blamed(4, every_s=FORGIVEN_AFTER_S - 1)
    assert lengths == [1, 2, 4, 8]


def test_blamed_again_while_left_out_counts_as_well() -> None:
    """A helper that was at work for that user already."""
    left_out = LeftOut()
    assert left_out.blame(ALICE, 0) == 1
    assert left_out.blame(ALICE, NS // 2) == 2
    assert left_out.is_out(ALICE, 2 * NS)
    assert not left_out.is_out(ALICE, 2 * NS + NS // 2)


def test_users_who_are_blamed_once_are_not_remembered_for_ever() -> None:
    """There are as many as an attacker has ids."""
    left_out = LeftOut()
    for number in range(1000):
        left_out.blame(1000 + number, int(number * FORGIVEN_AFTER_S * NS))
    assert len(left_out._records) <= 3


@given(st.integers(1, FIRST_SUBORDINATE_UID - 1), st.integers(1, 2**22))
def test_a_user_s_processes_are_one_and_root_s_are_each_its_own(uid: int, pid: int) -> None:
    assert key_of(uid, pid) == key_of(uid, pid + 1) == uid
    assert key_of(ROOT, pid) != key_of(ROOT, pid + 1)
    assert key_of(ROOT, pid) < 0


@given(st.integers(FIRST_SUBORDINATE_UID, 2**32 - 2), st.integers(FIRST_SUBORDINATE_UID, 2**32 - 2))
def test_ids_that_may_be_one_user_s_subordinate_ones_are_left_out_together(uid: int, other: int) -> None:
    assert key_of(uid, 1) == key_of(other, 2)
