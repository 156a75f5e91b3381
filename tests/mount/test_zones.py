"""The devices of the zones, which are in the mount alone."""

from __future__ import annotations

import os
import select
from contextlib import ExitStack

import pytest

from tests.support.mounted import LIMIT_S, LONG_S, opened, read_record, revents, zone_of
from tests.support.server import Server

pytestmark = pytest.mark.mount


def test_they_have_the_attributes_of_read_only_files(server: Server) -> None:
    for path in (server.mount / "zones").iterdir():
        assert path.stat().st_mode & 0o7777 == 0o444
        with opened(path) as fd:
            assert os.fstat(fd).st_mode & 0o7777 == 0o444


def test_under_pressure_everywhere_the_device_of_a_zone_tells_of_that_zone(server: Server) -> None:
    with ExitStack() as stack, select.epoll() as epoll:
        zones = {stack.enter_context(opened(server.mount / "zones" / zone)): zone for zone in server.zones}
        for fd in zones:
            epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        server.simulate(seconds=LONG_S)
        told: dict[int, str] = {}
        while told.keys() != zones.keys():
            events = epoll.poll(LIMIT_S)
            assert events
            told.update((fd, zone_of(read_record(fd))) for fd, _ in events)
    assert told == zones


def test_every_populated_zone_has_a_device(server: Server) -> None:
    names = sorted(path.name for path in (server.mount / "zones").iterdir())
    assert names == ["node0-DMA", "node0-DMA32", "node0-Normal", "node1-Normal"]


def test_the_device_of_an_ignored_zone_stays_silent(server: Server) -> None:
    with opened(server.mount / "zones" / "node0-DMA", os.O_NONBLOCK) as fd:
        server.simulate(seconds=LONG_S)
        assert revents(fd) == 0
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
