"""Herd control: how many of those asleep one notification wakes, and which. One notification, however long it takes."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.support.mounted import (
    LIMIT_S,
    READABLE,
    Blocking,
    Machine,
    many_opened,
    notifications,
    revents,
    wait_for_watchers,
    wait_until,
)
from tests.support.server import Server
from tests.support.stage import NO_SIGIO, TELLS_ALL, Setup

pytestmark = pytest.mark.mount

SLEEPERS = 40
ONE_NOTIFICATION_WAKES = 40 // 16 + 1
# How long to look that nobody else is woken.
SETTLE_S = 0.3


@contextmanager
def asleep(server: Server, count: int) -> Iterator[list[Blocking[int]]]:
    """`count` threads asleep in poll, each on an open file of its own, that took their places in this order."""
    with many_opened(server.device, count) as fds:
        sleepers: list[Blocking[int]] = []
        for number, fd in enumerate(fds, 1):
            sleepers.append(Blocking(lambda fd=fd: revents(fd, LIMIT_S)))  # type: ignore[misc]
            wait_for_watchers(server, number)
        yield sleepers
        server.simulate(seconds=LIMIT_S)
        for sleeper in sleepers:
            assert sleeper.result() == READABLE


def woken(sleepers: list[Blocking[int]]) -> list[int]:
    return [number for number, sleeper in enumerate(sleepers) if sleeper.returned]


def stays_so() -> None:
    time.sleep(SETTLE_S)


def test_one_notification_wakes_a_sixteenth_and_one_first_in_first_out(server: Server, machine: Machine) -> None:
    before = notifications(server)
    with asleep(server, SLEEPERS) as sleepers:
        for number in (1, 2):
            machine.tighten()
            count = number * ONE_NOTIFICATION_WAKES
            wait_until(lambda count=count: len(woken(sleepers)) >= count, f"{count} woken")  # type: ignore[misc]
            stays_so()
            assert woken(sleepers) == list(range(count))
            assert notifications(server) == before + number


class TestWithoutHerdControl:
    @pytest.fixture
    def needs(self) -> Setup:
        return replace(TELLS_ALL, calm=True)

    def test_one_notification_wakes_all(self, server: Server, machine: Machine) -> None:
        before = notifications(server)
        with asleep(server, SLEEPERS) as sleepers:
            machine.tighten()
            wait_until(lambda: len(woken(sleepers)) == SLEEPERS, "all woken")
            assert notifications(server) == before + 1


class TestManyWatchers:
    @pytest.fixture
    def needs(self) -> Setup:
        return NO_SIGIO

    @pytest.mark.usefixtures("room_for_descriptors")
    def test_one_notification_wakes_at_most_a_hundred(self, server: Server, machine: Machine) -> None:
        with many_opened(server.device, 1700) as fds, select.epoll() as epoll:
            for fd in fds:
                epoll.register(fd, select.EPOLLIN | select.EPOLLET)
            wait_for_watchers(server, len(fds))
            before = notifications(server)
            machine.tighten()
            told: set[int] = set()
            while len(told) < 100:
                events = epoll.poll(LIMIT_S)
                assert events
                told.update(fd for fd, _ in events)
            assert epoll.poll(SETTLE_S) == []
            assert told == set(fds[:100])
            assert notifications(server) == before + 1


def test_a_zone_s_notification_does_not_count_the_watchers_of_another_zone(server: Server) -> None:
    zone, other, *_ = server.zones
    zones = server.mount / "zones"
    with many_opened(zones / other, 32) as others, many_opened(server.device, 1) as (fd,), select.epoll() as epoll:
        for each in [*others, fd]:
            epoll.register(each, select.EPOLLIN | select.EPOLLET)
        wait_for_watchers(server, 33)
        server.simulate(zone, LIMIT_S)
        assert epoll.poll(LIMIT_S) == [(fd, select.EPOLLIN)]
