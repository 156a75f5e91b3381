"""Whose turn it is: users one after the other, and users of whom one may have many as one."""

from __future__ import annotations

from typing import NamedTuple

from memnotify_cuse.accounts import FIRST_SUBORDINATE_UID
from memnotify_cuse.fasync.turns import UNKNOWN, Turns, key_of

ALICE, BOB, SUB = 1001, 1002, FIRST_SUBORDINATE_UID


class Job(NamedTuple):
    user: int
    number: int


def jobs(user: int, count: int) -> list[Job]:
    return [Job(user, number) for number in range(count)]


def order(turns: Turns[Job], most: int) -> list[Job]:
    """All jobs in the order in which they are taken, `most` at a time."""
    taken: list[Job] = []
    while (key := turns.next_key(lambda _key: True)) is not None:
        taken += turns.take(key, lambda: most)
    return taken


def test_users_take_turns() -> None:
    turns: Turns[Job] = Turns()
    turns.put(jobs(ALICE, 5))
    turns.put(jobs(BOB, 3))
    assert [job.user for job in order(turns, 2)] == [ALICE, ALICE, BOB, BOB, ALICE, ALICE, BOB, ALICE]
    assert not turns


def test_subordinate_ids_share_the_turns_of_one_user() -> None:
    """One user may have 65,536 of them."""
    turns: Turns[Job] = Turns()
    for uid in range(SUB, SUB + 100):
        turns.put(jobs(uid, 2))
    turns.put(jobs(ALICE, 2))
    taken = [job.user for job in order(turns, 1)]
    assert [taken.index(ALICE), taken.index(ALICE, 2)] == [1, 3]
    others = [user for user in taken if user != ALICE]
    assert others == [*range(SUB, SUB + 100)] * 2, "and turns among each other"


def test_threads_of_nobody_known_share_them_as_well() -> None:
    assert {key_of(-tid) for tid in range(2, 100)} == {UNKNOWN}
    assert key_of(0) == 0


def test_who_may_not_have_a_turn_is_passed_over_and_keeps_its_place() -> None:
    turns: Turns[Job] = Turns()
    for user in (ALICE, BOB):
        turns.put(jobs(user, 1))
    assert turns.next_key(lambda key: key != ALICE) == BOB
    assert turns.next_key(lambda key: False) is None
    assert turns.next_key(lambda key: True) == ALICE


def test_what_is_put_back_comes_first() -> None:
    turns: Turns[Job] = Turns()
    turns.put(jobs(ALICE, 6))
    taken = turns.take(ALICE, lambda: 4)
    turns.put_back(taken[1:])
    assert [job.number for job in order(turns, 10)] == [1, 2, 3, 4, 5]
