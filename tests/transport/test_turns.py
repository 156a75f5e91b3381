"""Users take turns, however many items one of them has queued."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.transport.turns import Turns


def taken(turns: Turns[str]) -> list[str]:
    return [turns.take()[1] for _ in range(turns.count)]


def test_who_comes_behind_thousands_of_another_user_is_next_but_one() -> None:
    turns: Turns[str] = Turns()
    for key in range(5000):
        turns.put(1, key, "flood")
    turns.put(2, 9000, "honest")
    assert [turns.take()[1] for _ in range(3)] == ["flood", "honest", "flood"]


def test_a_user_s_own_items_are_first_in_first_out() -> None:
    turns: Turns[str] = Turns()
    for key, (user, item) in enumerate([(1, "a"), (1, "b"), (2, "x"), (1, "c"), (2, "y"), (3, "p")]):
        turns.put(user, key, item)
    assert taken(turns) == ["a", "x", "p", "b", "y", "c"]


def test_what_is_taken_back_has_no_turn() -> None:
    turns: Turns[str] = Turns()
    turns.put(1, 10, "a")
    turns.put(1, 11, "b")
    turns.put(2, 12, "x")
    assert turns.remove(10) == "a"
    assert turns.remove(12) == "x"
    assert turns.remove(12) is None
    assert turns.next() == (11, "b")
    assert taken(turns) == ["b"]
    with pytest.raises(LookupError):
        turns.take()


def test_a_key_that_comes_again_takes_the_place_of_the_first() -> None:
    turns: Turns[str] = Turns()
    turns.put(1, 10, "a")
    turns.put(2, 10, "b")
    assert (turns.count, taken(turns)) == (1, ["b"])


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_nothing_is_lost_or_served_twice(puts: list[tuple[int, bool]]) -> None:
    turns: Turns[int] = Turns()
    kept = set()
    for key, (user, stays) in enumerate(puts):
        turns.put(user, key, key)
        if stays:
            kept.add(key)
        else:
            assert turns.remove(key) == key
    assert turns.count == len(kept)
    assert {turns.take()[0] for _ in range(turns.count)} == kept
