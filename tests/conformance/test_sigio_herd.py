"""How many SIGIO watchers one notification signals, and in which turn; and poll beside SIGIO."""

from __future__ import annotations

import os
import select
import time

import pytest

from memnotify_cuse.record import Record
from tests.support.mounted import (
    LIMIT_S,
    READABLE,
    Blocking,
    Machine,
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
)

pytestmark = pytest.mark.mount

WATCHERS = 40
AT_ONCE = 40 // 16 + 1


def notify_at_once(server: Server, machine: Machine) -> None:
    """One notification, without waiting for any guard time."""
    before = notifications(server)
    machine.tighten()
    wait_until(lambda: notifications(server) == before + 1, "a notification")


def test_one_notification_signals_a_sixteenth_and_one_and_everybody_has_a_turn(
    server: Server, machine: Machine, puppet: Puppet
) -> None:
    """Where all of this takes longer than their guard time, 8 s, the round begins anew."""
    fds = [puppet.watch(server.device, number=REALTIME) for _ in range(WATCHERS)]
    told: list[int] = []
    started_s = time.monotonic()
    while len(told) < WATCHERS:
        notify_at_once(server, machine)
        for _ in range(min(AT_ONCE, WATCHERS - len(told))):
            told.append(puppet.next().fd)
        others = puppet.so_far()
        in_time = time.monotonic() - started_s < GUARD_STEP_S * WATCHERS
        assert len(others) < AT_ONCE
        assert not (others and in_time)
    assert told == fds or not in_time


def test_the_guard_time_is_200_ms_for_each_open_file(server: Server, machine: Machine, puppet: Puppet) -> None:
    with many_opened(server.device, 4):
        puppet.watch(server.device, number=REALTIME)
        server.simulate(seconds=LIMIT_S)
        puppet.next()
        first_s = time.monotonic()
        puppet.next()
        assert time.monotonic() - first_s > GUARD_STEP_S * 5 - GUARD_STEP_S


def test_who_polls_and_who_is_signalled_share_a_notification(server: Server, machine: Machine, puppet: Puppet) -> None:
    with opened(server.device) as fd:
        puppet.watch(server.device, number=REALTIME)
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        notify_at_once(server, machine)
        assert poller.result() == READABLE
        assert puppet.next().number == REALTIME


def test_a_signalled_program_finds_its_file_readable(server: Server, machine: Machine, puppet: Puppet) -> None:
    fd = puppet.watch(server.device, number=REALTIME)
    notify_once(server, machine)
    assert puppet.next().fd == fd
    assert puppet.number("poll", fd, 0) & select.POLLIN
    assert Record.parse(puppet.ask("read", fd)).pressure == 1
    assert puppet.number("poll", fd, 0) == 0


def test_a_program_asleep_in_poll_is_told_once(server: Server, machine: Machine, puppet: Puppet) -> None:
    """By poll in any case; also by SIGIO, unless its poll was answered before its turn to be signalled came."""
    puppet.ask("block", REALTIME)
    # A guard time of 6 s.
    with many_opened(server.device, 30):
        fd = puppet.watch(server.device, number=REALTIME)
        puppet.tell("poll", fd, int(LIMIT_S * 1000))
        wait_for_watchers(server, 1)
        notify_at_once(server, machine)
        assert int(puppet.reply()) & select.POLLIN
        assert Record.parse(puppet.ask("read", fd)).pressure == 1
        assert puppet.number("poll", fd, 0) == 0
        assert puppet.number("take", REALTIME) <= 1


def test_a_zone_s_device_signals_for_its_zone_only(server: Server, puppet: Puppet, witness: Witness) -> None:
    zone, other, *_ = server.zones
    puppet.watch(server.mount / "zones" / zone, number=REALTIME)
    before = notifications(server)
    server.simulate(other, LIMIT_S)
    wait_until(lambda: notifications(server) >= before + 3, "notifications")
    server.simulate(other, 0)
    assert puppet.so_far() == []
    server.simulate(zone, LIMIT_S)
    assert puppet.next().number == REALTIME
    del witness


def test_a_file_subscribed_under_pressure_is_told_by_the_next_notification(
    server: Server, machine: Machine, puppet: Puppet
) -> None:
    notify_at_once(server, machine)
    puppet.watch(server.device, number=REALTIME)
    notify_at_once(server, machine)
    assert puppet.next().number == REALTIME
    assert puppet.so_far() == []


def test_an_owner_set_long_after_the_open_among_many_files(
    server: Server, new_puppet: NewPuppet, witness: Witness
) -> None:
    """Files without an owner are looked at again in turn, a part of them at each notification."""
    puppet = new_puppet()
    with many_opened(server.device, 150) as fds:
        fd = puppet.number("open", server.device)
        # At each notification those without an owner are looked at first, so that one is enough.
        witness.sees_notifications(1)
        puppet.ask("handle", REALTIME)
        puppet.subscribe(fd, number=REALTIME)
        with notifying(server):
            assert puppet.next().fd == fd
        assert all(os.fstat(each) for each in fds)
