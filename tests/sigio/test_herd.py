"""How many SIGIO watchers one notification signals, and in which turn; and poll beside SIGIO."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.record import Record
from tests.support.mounted import (
    LIMIT_S,
    READABLE,
    Blocking,
    SwaplessProc,
    many_opened,
    notifications,
    opened,
    revents,
    wait_for_watchers,
    wait_until,
)
from tests.support.server import Server
from tests.support.sigio import (
    GUARD_STEP_S,
    REALTIME,
    NewPuppet,
    Puppet,
    Witness,
    notify_once,
    notifying,
    serving,
)

pytestmark = pytest.mark.mount

WATCHERS = 40
AT_ONCE = 40 // 16 + 1


@pytest.fixture
def herd_server(tmp_path: Path, swapless: SwaplessProc) -> Iterator[Server]:
    """With herd control, unlike the servers of the other tests."""
    with serving(tmp_path, "--proc", str(swapless.path)) as running:
        yield running


def notify_at_once(server: Server, swapless: SwaplessProc) -> None:
    """One notification, without waiting for any guard time."""
    before = notifications(server)
    swapless.tighten()
    wait_until(lambda: notifications(server) == before + 1, "a notification")


def test_one_notification_signals_a_sixteenth_and_one_and_everybody_has_a_turn(
    herd_server: Server, swapless: SwaplessProc, puppet: Puppet
) -> None:
    """Their guard time of 8 s is longer than all of this takes, or the round would begin anew."""
    fds = [puppet.watch(herd_server.device, number=REALTIME) for _ in range(WATCHERS)]
    told: list[int] = []
    started_s = time.monotonic()
    while len(told) < WATCHERS:
        notify_at_once(herd_server, swapless)
        for _ in range(min(AT_ONCE, WATCHERS - len(told))):
            told.append(puppet.next().fd)
        assert puppet.so_far() == []
    if time.monotonic() - started_s < GUARD_STEP_S * WATCHERS:
        assert told == fds


def test_the_guard_time_is_200_ms_for_each_open_file(
    swapless_server: Server, swapless: SwaplessProc, puppet: Puppet
) -> None:
    with many_opened(swapless_server.device, 4):
        puppet.watch(swapless_server.device, number=REALTIME)
        swapless_server.simulate(seconds=LIMIT_S)
        puppet.next()
        first_s = time.monotonic()
        puppet.next()
        assert time.monotonic() - first_s > GUARD_STEP_S * 5 - GUARD_STEP_S


def test_who_polls_and_who_is_signalled_share_a_notification(
    herd_server: Server, swapless: SwaplessProc, puppet: Puppet
) -> None:
    with opened(herd_server.device) as fd:
        puppet.watch(herd_server.device, number=REALTIME)
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(herd_server, 1)
        notify_at_once(herd_server, swapless)
        assert poller.result() == READABLE
        assert puppet.next().number == REALTIME


def test_a_signalled_program_finds_its_file_readable(
    swapless_server: Server, swapless: SwaplessProc, puppet: Puppet
) -> None:
    fd = puppet.watch(swapless_server.device, number=REALTIME)
    notify_once(swapless_server, swapless)
    assert puppet.next().fd == fd
    assert puppet.number("poll", fd, 0) & select.POLLIN
    assert Record.parse(puppet.ask("read", fd)).pressure == 1
    assert puppet.number("poll", fd, 0) == 0


def test_a_program_asleep_in_poll_is_told_once(swapless_server: Server, swapless: SwaplessProc, puppet: Puppet) -> None:
    """By poll in any case; also by SIGIO, unless its poll was answered before its turn to be signalled came."""
    puppet.ask("block", REALTIME)
    # A guard time of 6 s.
    with many_opened(swapless_server.device, 30):
        fd = puppet.watch(swapless_server.device, number=REALTIME)
        puppet.tell("poll", fd, int(LIMIT_S * 1000))
        wait_for_watchers(swapless_server, 1)
        notify_at_once(swapless_server, swapless)
        assert int(puppet.reply()) & select.POLLIN
        assert Record.parse(puppet.ask("read", fd)).pressure == 1
        assert puppet.number("poll", fd, 0) == 0
        assert puppet.number("take", REALTIME) <= 1


def test_a_zone_s_device_signals_for_its_zone_only(server: Server, puppet: Puppet, witness: Witness) -> None:
    zone, other, *_ = server.zones
    puppet.watch(server.mount / "zones" / zone, number=REALTIME)
    server.simulate(other, LIMIT_S)
    wait_until(lambda: notifications(server) >= 3, "notifications")
    server.simulate(other, 0)
    assert puppet.so_far() == []
    server.simulate(zone, LIMIT_S)
    assert puppet.next().number == REALTIME
    del witness


def test_a_file_subscribed_under_pressure_is_told_by_the_next_notification(
    swapless_server: Server, swapless: SwaplessProc, puppet: Puppet
) -> None:
    notify_at_once(swapless_server, swapless)
    puppet.watch(swapless_server.device, number=REALTIME)
    notify_at_once(swapless_server, swapless)
    assert puppet.next().number == REALTIME
    assert puppet.so_far() == []


def test_an_owner_set_long_after_the_open_among_many_files(
    server: Server, new_puppet: NewPuppet, witness: Witness
) -> None:
    """Files without an owner are looked at again in turn, a part of them at each notification."""
    puppet = new_puppet()
    with many_opened(server.device, 150) as fds:
        fd = puppet.number("open", server.device)
        witness.sees_notifications(2)
        puppet.ask("handle", REALTIME)
        puppet.subscribe(fd, number=REALTIME)
        with notifying(server):
            assert puppet.next().fd == fd
        assert all(os.fstat(each) for each in fds)
