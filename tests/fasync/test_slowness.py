"""Users whom helpers had to wait for: who is slow, and for how long."""

from __future__ import annotations

import pytest

from memnotify_cuse.fasync.slowness import BURST_S, MOST_S, NS, SHARE, Slowness

ALICE, BOB = 1001, 1002


def test_who_takes_more_than_a_burst_is_slow_until_it_has_made_up_for_it() -> None:
    slowness = Slowness()
    assert not slowness.note(ALICE, BURST_S, 0)
    assert slowness.note(ALICE, 0.05, 0)
    assert slowness.is_slow(ALICE, 0)
    assert not slowness.is_slow(BOB, 0)
    made_up_ns = int(0.05 / SHARE * NS)
    assert slowness.is_slow(ALICE, made_up_ns - NS // 100)
    assert not slowness.is_slow(ALICE, made_up_ns + NS // 100)


def test_it_is_told_once_that_somebody_is_slow() -> None:
    slowness = Slowness()
    assert [slowness.note(ALICE, 0.15, number * NS // 10) for number in range(4)] == [True, False, False, False]
    assert slowness.note(ALICE, 1.0, 1000 * NS), "and again when it had made up for it"


@pytest.mark.parametrize("every_s", [0.2, 1.0])
def test_small_waits_count_together(every_s: float) -> None:
    """Whoever has helpers wait for a larger part of the time than its share becomes slow."""
    slowness = Slowness()
    waits = [slowness.note(ALICE, 2 * SHARE * every_s, int(number * every_s * NS)) for number in range(100)]
    assert any(waits)
    waits = [slowness.note(BOB, 0.9 * SHARE * every_s, int(number * every_s * NS)) for number in range(100)]
    assert not any(waits)


def test_no_more_than_a_minute_has_to_be_made_up_for() -> None:
    slowness = Slowness()
    for _ in range(1000):
        slowness.note(ALICE, 0.2, 0)
    assert not slowness.is_slow(ALICE, int(MOST_S / SHARE * NS))
