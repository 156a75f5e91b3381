"""When a server is started again, and when not: times are made up."""

from __future__ import annotations

import math

import pytest

from memnotify_cuse import daemon
from memnotify_cuse.keeper.lives import DEATHS_S, GRACE_S, MAX_DEATHS, STARTING_S, WATCHDOG_S, Lives
from memnotify_cuse.scanner.choices import REST_S


def test_nothing_is_awaited_of_a_server_that_was_given_nothing_yet() -> None:
    lives = Lives()
    assert lives.left_s(1e9) == math.inf
    assert not lives.hangs(1e9)


def test_a_start_may_take_longer_than_what_comes_after_it() -> None:
    lives = Lives()
    lives.started(100)
    assert lives.left_s(100) == lives.allowed_s == STARTING_S
    lives.heard(101)
    assert lives.allowed_s == WATCHDOG_S
    assert lives.left_s(101) == WATCHDOG_S
    assert lives.left_s(101 + WATCHDOG_S + 1) == 0


def test_a_server_that_is_silent_hangs_after_a_moment_of_grace() -> None:
    """Both may have been stopped, and the keeper goes on first."""
    lives = Lives()
    lives.started(0)
    lives.heard(0)
    assert not lives.hangs(WATCHDOG_S - 0.1)
    assert not lives.hangs(WATCHDOG_S)
    assert lives.left_s(WATCHDOG_S) == GRACE_S
    assert not lives.hangs(WATCHDOG_S + GRACE_S / 2)
    assert lives.hangs(WATCHDOG_S + GRACE_S)


def test_a_word_within_the_grace_is_enough() -> None:
    lives = Lives()
    lives.started(0)
    lives.heard(0)
    assert not lives.hangs(1000)
    lives.heard(1000.5)
    assert lives.left_s(1000.5) == WATCHDOG_S
    assert not lives.hangs(1001.5)


def test_a_crash_loop() -> None:
    lives = Lives()
    for number in range(MAX_DEATHS - 1):
        assert lives.died(number)
    assert not lives.died(MAX_DEATHS)


@pytest.mark.parametrize("apart_s", [DEATHS_S / (MAX_DEATHS - 1) + 0.1, 3600])
def test_deaths_that_are_further_apart_are_none(apart_s: float) -> None:
    lives = Lives()
    assert all(lives.died(number * apart_s) for number in range(20))


def test_servers_are_counted() -> None:
    lives = Lives()
    lives.started(0)
    lives.started(1)
    assert lives.count == 2


def test_what_was_known_already_is_no_sign_of_life() -> None:
    lives = Lives()
    lives.started(0)
    lives.heard(10)
    assert not lives.hangs(10 + WATCHDOG_S)
    lives.heard(10)
    assert lives.hangs(10 + WATCHDOG_S + GRACE_S)


def test_a_server_whose_mount_answers_late_is_heard_of_in_time() -> None:
    """Even if it sees to its heartbeat as late as it may, and waits for the answer of a helper as long as it may."""
    assert daemon.LATEST_ALIVE_S + daemon.ANSWER_S < WATCHDOG_S + GRACE_S
    assert REST_S < daemon.LATEST_ALIVE_S, "at rest it comes with a sample"
