"""Which limits a program is told of: that of its own cgroup and of all that it lies in, as they are at present."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.cgroups import MIB, Cgroup
from tests.support.listeners import Listener, filled, listed, listening, wait_for_limit, wait_for_listeners
from tests.support.mounted import wait_until
from tests.support.programs import Programs
from tests.support.server import Lines, Server

pytestmark = pytest.mark.mount

SMALL = 64 * MIB
LARGE = 512 * MIB
SHORT_MIB = 60
"""What leaves too little of the small limit."""


def test_the_record_says_how_much_is_left_of_the_limit(server: Server, cgroup: Cgroup, programs: Programs) -> None:
    cgroup.limit(SMALL)
    with listening(server, cgroup) as listener, filled(programs, cgroup, SHORT_MIB):
        record = listener.next_of(cgroup)
    assert (record.node, record.pressure, record.reserve_pages) == (-1, 1, 0)
    assert 0 < record.free_pages * 4096 < SMALL // 2
    assert 0 < record.reclaim_target_kb * 1024 < SMALL


def test_pressure_ends_when_there_is_room_again(server: Server, cgroup: Cgroup, programs: Programs) -> None:
    cgroup.limit(SMALL)
    with listening(server, cgroup) as listener:
        for _ in range(2):
            with filled(programs, cgroup, SHORT_MIB):
                listener.next_of(cgroup)
            wait_until(lambda: listed(server)[cgroup.zone]["status"] == "0", "no pressure")


def test_the_limit_of_a_parent_is_told_of_where_it_is_the_tighter_one(
    server: Server, cgroup: Cgroup, programs: Programs
) -> None:
    """The memory is taken in another child of it."""
    cgroup.limit(SMALL)
    inner, beside = cgroup.child("inner"), cgroup.child("beside")
    inner.limit(LARGE)
    with listening(server, inner) as listener, filled(programs, beside, SHORT_MIB):
        assert listener.next_of(cgroup).pressure == 1
        assert listed(server)[inner.zone]["raised"] == "0"
        assert beside.zone not in listed(server)


def test_the_limit_of_a_grandparent_is_told_of_through_one_without_a_limit(
    server: Server, cgroup: Cgroup, programs: Programs
) -> None:
    cgroup.limit(SMALL)
    middle = cgroup.child("middle")
    inner = middle.child("inner")
    with listening(server, inner) as listener, filled(programs, inner, SHORT_MIB):
        assert listener.next_of(cgroup).pressure == 1
        assert set(listed(server)) & {cgroup.zone, middle.zone, inner.zone} == {cgroup.zone}


def test_the_inner_limit_is_told_of_where_it_is_the_tighter_one(
    server: Server, cgroup: Cgroup, programs: Programs
) -> None:
    cgroup.limit(LARGE)
    inner = cgroup.child("inner")
    inner.limit(SMALL)
    with listening(server, inner) as listener, filled(programs, inner, SHORT_MIB):
        assert listener.next_of(inner).pressure == 1
        assert listed(server)[cgroup.zone]["raised"] == "0"


def test_a_limit_that_is_set_while_a_program_waits_is_told_of(
    server: Server, cgroup: Cgroup, programs: Programs
) -> None:
    with listening(server, cgroup) as listener:
        assert cgroup.zone not in listed(server)
        cgroup.limit(SMALL)
        wait_for_limit(server, cgroup, SMALL)
        with filled(programs, cgroup, SHORT_MIB):
            listener.next_of(cgroup)


def test_a_limit_that_is_lowered_while_a_program_waits_is_told_of(
    server: Server, cgroup: Cgroup, programs: Programs
) -> None:
    cgroup.limit(LARGE)
    with listening(server, cgroup) as listener:
        wait_for_limit(server, cgroup, LARGE)
        cgroup.limit(SMALL)
        wait_for_limit(server, cgroup, SMALL)
        with filled(programs, cgroup, SHORT_MIB):
            listener.next_of(cgroup)


def test_a_limit_that_is_raised_ends_the_pressure(server: Server, cgroup: Cgroup, programs: Programs) -> None:
    cgroup.limit(SMALL)
    with listening(server, cgroup) as listener, filled(programs, cgroup, SHORT_MIB):
        listener.next_of(cgroup)
        cgroup.limit(LARGE)
        wait_for_limit(server, cgroup, LARGE)
        wait_until(lambda: listed(server)[cgroup.zone]["status"] == "0", "no pressure")


@pytest.mark.parametrize("short", [False, True], ids=["at-rest", "under-pressure"])
def test_a_limit_that_is_removed_is_not_told_of_any_more(
    short: bool, server: Server, cgroup: Cgroup, programs: Programs
) -> None:
    cgroup.limit(SMALL)
    with listening(server, cgroup) as listener:
        wait_for_limit(server, cgroup, SMALL)
        if short:
            with filled(programs, cgroup, SHORT_MIB):
                listener.next_of(cgroup)
                cgroup.limit(None)
                wait_for_limit(server, cgroup, None)
        else:
            cgroup.limit(None)
            wait_for_limit(server, cgroup, None)
        removed_ns = time.monotonic_ns()
        with filled(programs, cgroup, 2 * SMALL // MIB):
            server.simulate(seconds=60)
            said = [record for record in listener.up_to_simulated() if record.zone == cgroup.zone]
            assert all(record.time_ns < removed_ns for record in said)


def test_memory_high_is_a_limit_too(server: Server, cgroup: Cgroup, programs: Programs) -> None:
    if not cgroup.unified:
        pytest.skip("memory.high is of cgroup v2, and the memory controller is v1's here")
    cgroup.limit(LARGE)
    cgroup.throttle(SMALL)
    with listening(server, cgroup) as listener, filled(programs, cgroup, SHORT_MIB):
        record = listener.next_of(cgroup)
        assert record.free_pages * 4096 < SMALL // 2
        assert listed(server)[cgroup.zone]["limit_kb"] == str(SMALL // 1024)


def test_a_program_that_is_moved_is_told_of_the_limit_where_it_is_now(
    server: Server, cgroup: Cgroup, other: Cgroup, programs: Programs
) -> None:
    cgroup.limit(LARGE)
    other.limit(SMALL)
    with cgroup.running("cat", server.device) as cat:
        listener = Listener(Lines(cat))
        wait_for_listeners(server, cgroup)
        other.move(cat.pid)
        wait_for_listeners(server, other)
        assert cgroup.zone not in listed(server)
        with filled(programs, other, SHORT_MIB):
            listener.next_of(other)


def test_a_program_that_is_moved_is_not_told_of_the_limit_where_it_was(
    server: Server, cgroup: Cgroup, other: Cgroup, programs: Programs
) -> None:
    cgroup.limit(SMALL)
    with cgroup.running("cat", server.device) as cat, listening(server, cgroup) as stays:
        listener = Listener(Lines(cat))
        wait_for_listeners(server, cgroup, 2)
        other.move(cat.pid)
        wait_for_listeners(server, cgroup, 1)
        with filled(programs, cgroup, SHORT_MIB):
            stays.next_of(cgroup)
            server.simulate(seconds=60)
            assert cgroup.zone not in [record.zone for record in listener.up_to_simulated()]


@pytest.mark.parametrize("seen", [False, True], ids=["at-once", "later"])
def test_a_cgroup_that_is_made_again_under_its_name_has_the_limit_that_it_has_now(
    seen: bool, server: Server, cgroup: Cgroup, other: Cgroup, programs: Programs
) -> None:
    """Whether the server has seen in between that it was gone, or not."""
    cgroup.limit(LARGE)
    with cgroup.running("cat", server.device) as cat:
        listener = Listener(Lines(cat))
        wait_for_listeners(server, cgroup)
        other.move(cat.pid)
        cgroup.remove()
        if seen:
            wait_until(lambda: cgroup.zone not in listed(server), "the server knows that it is gone")
        cgroup.make()
        cgroup.limit(SMALL)
        cgroup.move(cat.pid)
        wait_for_limit(server, cgroup, SMALL)
        with filled(programs, cgroup, SHORT_MIB):
            listener.next_of(cgroup)


OPEN_AND_PASS_ON = "exec 3< $0; cat <&3 & echo $! >&2; {then}"
"""The shell opens the device, and a child of it reads."""


@contextmanager
def passed_on(server: Server, opener: Cgroup, reader: Cgroup, then: str) -> Iterator[Listener]:
    """A program in `reader` that reads what a shell in `opener` has opened; the shell does `then`."""
    script = OPEN_AND_PASS_ON.format(then=then)
    with opener.running("sh", "-c", script, server.device, stderr=-1) as shell:
        assert shell.stderr is not None
        reader.move(int(shell.stderr.readline()))
        yield Listener(Lines(shell))


@pytest.mark.parametrize("then", ["wait", ":"], ids=["opener-there", "opener-gone"])
def test_a_descriptor_that_is_passed_to_another_cgroup_stays_its_opener_s(
    then: str, server: Server, cgroup: Cgroup, other: Cgroup, programs: Programs
) -> None:
    cgroup.limit(SMALL)
    other.limit(SMALL)
    with passed_on(server, cgroup, other, then) as listener:
        wait_for_listeners(server, cgroup)
        with filled(programs, cgroup, SHORT_MIB):
            listener.next_of(cgroup)
        assert other.zone not in listed(server)
