"""Each way to wait, and one notification: a program that does not read is told of it once or twice, and never not."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.mounted import (
    LIMIT_S,
    Blocking,
    Machine,
    many_opened,
    notifications,
    opened,
    revents,
    wait_for_watchers,
    wait_until,
)
from tests.support.server import Lines, Server
from tests.support.uring import uring_problem
from tests.support.ways import NESTED, WAYS, Wait, by_poll

pytestmark = pytest.mark.mount

FILES = 20
"""With so many open files nobody is told of pressure that lasts for the next 4 s."""
MORE_S = 0.05
"""How long a program waits for more. It asks at the beginning of that, and there is no other notification."""
PROJECT = Path(__file__).parents[2]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[[int], Wait]:
    return WAYS[str(request.param)]


@contextmanager
def file_with_long_guard_time(server: Server) -> Iterator[int]:
    with many_opened(server.device, FILES) as (fd, *_):
        yield fd


def and_more(wait: Wait) -> int:
    """How often a program is told that has been told once, and goes on waiting."""
    told = 0
    while wait(MORE_S):
        told += 1
        assert told < 100, "it spins"
    return told


def test_who_waits_is_told_of_one_notification_once_or_twice(
    way: Callable[[int], Wait], server: Server, machine: Machine
) -> None:
    with file_with_long_guard_time(server) as fd:
        wait = way(fd)
        first = Blocking(lambda: wait(LIMIT_S))
        wait_for_watchers(server, 1)
        machine.tighten()
        assert first.result() == 1
        assert and_more(wait) <= 1


@pytest.mark.parametrize("name", [name for name in WAYS if name not in NESTED])
def test_who_begins_to_wait_under_pressure_is_told_of_it_once_or_twice(
    name: str, server: Server, machine: Machine
) -> None:
    with file_with_long_guard_time(server) as fd:
        before = notifications(server)
        machine.tighten()
        wait_until(lambda: notifications(server) > before, "the notification")
        wait = WAYS[name](fd)
        assert wait(LIMIT_S) == 1
        assert and_more(wait) <= 1


@pytest.mark.parametrize("name", NESTED)
def test_who_begins_to_wait_under_pressure_through_two_descriptors_is_told_by_the_next_notification(
    name: str, server: Server
) -> None:
    """Setting that up takes up to four questions, before the one of which the program gets the answer."""
    with opened(server.device) as fd:
        server.simulate(seconds=LIMIT_S)
        wait = WAYS[name](fd)
        wait_until(lambda: wait(LIMIT_S) == 1, "an event")


def test_each_of_three_notifications_is_told(way: Callable[[int], Wait], server: Server) -> None:
    with opened(server.device) as fd:
        wait = way(fd)
        for _ in range(3):
            first = Blocking(lambda: wait(LIMIT_S))
            wait_for_watchers(server, 1)
            server.simulate(seconds=LIMIT_S)
            assert first.result() == 1
            server.simulate(seconds=0)
            assert and_more(wait) <= 1


def test_who_polls_without_waiting_is_told_once_or_twice(server: Server, machine: Machine) -> None:
    with file_with_long_guard_time(server) as fd:
        before = notifications(server)
        machine.tighten()
        wait_until(lambda: notifications(server) > before, "the notification")
        assert sum(revents(fd) != 0 for _ in range(100)) in (1, 2)


def test_of_two_threads_that_share_an_open_file_one_is_told(server: Server, machine: Machine) -> None:
    """Or both."""
    with file_with_long_guard_time(server) as fd, select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        poll = by_poll(fd)
        threads = [Blocking(lambda: poll(LIMIT_S)), Blocking(lambda: len(epoll.poll(LIMIT_S)))]
        wait_for_watchers(server, 1)
        machine.tighten()
        wait_until(lambda: any(thread.returned for thread in threads), "one of them told")
        # So that the other one ends, too.
        machine.fill_up()
        assert [thread.result() for thread in threads] == [1, 1]


SHARING = """
import select, sys
poll = select.poll()
poll.register(int(sys.argv[1]), select.POLLIN)
print("ready", flush=True)
print("told", poll.poll(), flush=True)
"""


def test_of_two_processes_that_share_an_open_file_one_is_told(server: Server, machine: Machine) -> None:
    """Or both."""
    with file_with_long_guard_time(server) as fd, ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", SHARING, str(fd)], stdout=subprocess.PIPE, pass_fds=[fd])
            )
            for _ in range(2)
        ]
        lines = [Lines(process) for process in processes]
        assert [each.next() for each in lines] == ["ready", "ready"]
        wait_for_watchers(server, 1)
        machine.tighten()
        wait_until(lambda: any(each.waiting(0) for each in lines), "one of them told")
        for process in processes:
            process.kill()


POLLING_BY_IO_URING = """
import os, select, sys
from tests.support.uring import Ring
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
with Ring() as ring:
    while True:
        print("told", ring.poll(fd, select.POLLIN), flush=True)
"""


def test_io_uring_is_told_of_each_of_three_notifications_once_or_twice(server: Server) -> None:
    if problem := uring_problem():
        pytest.skip(problem)
    command = [sys.executable, "-c", POLLING_BY_IO_URING, str(server.device)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT) as process:
        try:
            wait_for_watchers(server, 1)
            lines = Lines(process)
            for _ in range(3):
                server.simulate(seconds=LIMIT_S)
                assert lines.next() == f"told {select.POLLIN}"
                server.simulate(seconds=0)
                more = 0
                while lines.waiting(MORE_S):
                    assert lines.next() == f"told {select.POLLIN}"
                    more += 1
                assert more <= 1
        finally:
            process.kill()
