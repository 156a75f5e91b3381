"""The devices beside the plain one, and what everybody is told when the server ends. They are in the mount alone."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.board import NOTIFY_INTERVAL_NS
from memnotify_cuse.record import Record
from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    READABLE,
    Blocking,
    Machine,
    opened,
    revents,
    wait_for_watchers,
    wait_until,
    watchdog,
)
from tests.support.server import Server
from tests.support.stage import Stages
from tests.support.takeover import replace
from tests.support.transport import Transport

pytestmark = pytest.mark.mount


def read_records(fd: int) -> list[Record]:
    return list(map(Record.parse, os.read(fd, 65536).splitlines()))


def test_the_first_read_of_state_says_how_each_zone_is(server: Server) -> None:
    with opened(server.mount / "state") as fd:
        assert revents(fd) == READABLE
        records = read_records(fd)
        assert {f"node{each.node}-{each.zone}" for each in records} == set(server.zones)
        assert {each.pressure for each in records} == {0}
        assert revents(fd) == 0


def test_state_tells_the_beginning_a_rise_and_the_end(server: Server) -> None:
    zone = server.zones[0]
    with opened(server.mount / "state") as fd:
        read_records(fd)
        for seconds, level, told in (
            (LONG_S, "low", (1, "simulated", "low")),
            (LONG_S, "critical", (1, "simulated", "critical")),
            (0, "low", (0, "ended", "low")),
        ):
            poller = Blocking(lambda: revents(fd, LIMIT_S))
            wait_for_watchers(server, 1)
            server.simulate(zone, seconds, level)
            assert poller.result() == READABLE
            (record,) = read_records(fd)
            assert (record.pressure, record.reason, record.level) == told
            assert revents(fd) == 0


def test_a_blocked_read_of_state_gets_what_changes(server: Server) -> None:
    with opened(server.mount / "state") as fd:
        read_records(fd)
        reader = Blocking(lambda: read_records(fd))
        wait_for_watchers(server, 1)
        server.simulate(server.zones[0], LONG_S)
        (record,) = reader.result()
        assert record.pressure == 1


@pytest.mark.parametrize("level", ["medium", "critical"])
def test_a_device_from_a_level_up_tells_nothing_below_it(level: str, server: Server) -> None:
    with opened(server.mount / "levels" / level, os.O_NONBLOCK) as fd:
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        server.simulate(seconds=LONG_S, level="low")
        with opened(server.device) as plain:
            assert revents(plain, LIMIT_S) == READABLE
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
        server.simulate(seconds=LONG_S, level="critical")
        assert poller.result() == READABLE
        (record,) = read_records(fd)
        assert record.level == "critical"


def test_while_it_is_critical_a_program_that_waits_again_is_told_sooner_than_every_200_ms(server: Server) -> None:
    with opened(server.device) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN)

        def told_s() -> float:
            assert poll.poll(LIMIT_S * 1000)
            assert read_records(fd)[0].level == "critical"
            return time.monotonic()

        server.simulate(seconds=LIMIT_S, level="critical")
        wait_until(lambda: -(told_s() - told_s()) < NOTIFY_INTERVAL_NS / 2e9, "two notifications in short order")


def test_the_mount_lists_the_devices(server: Server) -> None:
    assert {"state", "levels", "zones"} <= set(os.listdir(server.mount))
    assert sorted(os.listdir(server.mount / "levels")) == ["critical", "medium"]
    with pytest.raises(PermissionError):
        os.open(server.mount / "state", os.O_WRONLY)


@pytest.fixture
def mortal(stages: Stages, transport: Transport, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, which may end."""
    machine = Machine(tmp_path)
    with stages.server(transport, tmp_path, *machine.options) as server, watchdog(server):
        yield server


def test_who_waits_is_told_that_the_device_ends(mortal: Server) -> None:
    """With POLLIN as well (`tests/transport/test_endpoint.py`), if it gets to run before the connection goes."""
    with opened(mortal.device) as fd, select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        edges = Blocking(lambda: epoll.poll(LIMIT_S))
        wait_for_watchers(mortal, 1)
        assert mortal.stop() == 0
        assert poller.result() & select.POLLERR
        ((_, events),) = edges.result()
        assert events & select.EPOLLERR
        with pytest.raises(OSError, match=r"not connected|No such device|aborted"):
            os.read(fd, 4096)


def test_state_goes_on_over_a_takeover(mortal: Server) -> None:
    with opened(mortal.mount / "state") as fd:
        read_records(fd)
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(mortal, 1)
        replace(mortal, signal.SIGKILL)
        assert not poller.returned
        mortal.simulate(mortal.zones[0], LONG_S)
        assert poller.result() == READABLE
        assert any(record.pressure for record in read_records(fd))
