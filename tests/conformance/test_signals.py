"""Signals to programs that are blocked in a read of the device, and many of them at once."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from memnotify_cuse.record import Record
from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    READABLE,
    Blocking,
    open_files,
    opened,
    revents,
    state_of,
    wait_for_watchers,
    wait_until,
)
from tests.support.programs import Programs
from tests.support.server import Lines, Server

pytestmark = pytest.mark.mount

READERS = 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_s_default_action_ends_a_blocked_reader(number: signal.Signals, server: Server) -> None:
    with subprocess.Popen(["cat", server.device], stdout=subprocess.DEVNULL) as process:
        wait_for_watchers(server, 1)
        process.send_signal(number)
        assert process.wait(LIMIT_S) == -number
    wait_until(lambda: open_files(server) == 0, "the file closed")


def test_a_stopped_reader_goes_on_when_it_is_continued(server: Server) -> None:
    with subprocess.Popen(["head", "-n1", server.device], stdout=subprocess.PIPE) as process:
        wait_for_watchers(server, 1)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state_of(process.pid) == "T", "the reader stopped")
        process.send_signal(signal.SIGCONT)
        server.simulate(seconds=LONG_S)
        assert Record.parse(Lines(process).next()).pressure == 1


def test_a_handler_without_sa_restart_sees_eintr_and_the_next_read_is_served(
    server: Server, programs: Programs
) -> None:
    with subprocess.Popen([programs("handler"), server.device], stdout=subprocess.PIPE) as process:
        lines = Lines(process)
        assert lines.next() == "reading"
        wait_for_watchers(server, 1)
        process.send_signal(signal.SIGUSR1)
        assert lines.next() == "EINTR handled=1"
        server.simulate(seconds=LONG_S)
        assert Record.parse(lines.next()).pressure == 1
    assert process.returncode == 0


@pytest.mark.parametrize("first", [0, 1])
def test_two_processes_blocked_on_one_open_file_can_both_be_killed(
    first: int, server: Server, programs: Programs
) -> None:
    """Without FOPEN_STREAM the second would sleep on the file position's lock, where no signal reaches it."""
    with subprocess.Popen([programs("shared"), server.device, "fork"], stdout=subprocess.PIPE) as process:
        lines = Lines(process)
        both = [int(lines.next()) for _ in range(2)]
        wait_until(lambda: [state_of(pid) for pid in both] == ["S", "S"], "both blocked")
        wait_for_watchers(server, 1)
        os.kill(both[first], signal.SIGKILL)
        wait_until(lambda: state_of(both[first]) in ("Z", ""), "the one dead")
        assert state_of(both[1 - first]) == "S"
        os.kill(both[1 - first], signal.SIGKILL)
        wait_until(lambda: state_of(both[1 - first]) in ("Z", ""), "the other one dead")
        process.wait(LIMIT_S)
    wait_until(lambda: open_files(server) == 0, "the file closed")


def test_the_reader_that_is_left_of_two_is_served(server: Server, programs: Programs) -> None:
    with subprocess.Popen([programs("shared"), server.device, "fork"], stdout=subprocess.PIPE) as process:
        lines = Lines(process)
        both = [int(lines.next()) for _ in range(2)]
        wait_until(lambda: [state_of(pid) for pid in both] == ["S", "S"], "both blocked")
        child = next(pid for pid in both if pid != process.pid)
        os.kill(child, signal.SIGKILL)
        server.simulate(seconds=LONG_S)
        assert lines.next().startswith("got 1")
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_threads_blocked_on_one_open_file_can_be_killed(
    number: signal.Signals, server: Server, programs: Programs
) -> None:
    with subprocess.Popen([programs("shared"), server.device, "threads"], stdout=subprocess.PIPE) as process:
        lines = Lines(process)
        both = [int(lines.next()) for _ in range(2)]
        wait_until(lambda: [state_of(thread) for thread in both] == ["S", "S"], "both blocked")
        wait_for_watchers(server, 1)
        process.send_signal(number)
        assert process.wait(LIMIT_S) == -number
    wait_until(lambda: open_files(server) == 0, "the file closed")


def test_200_blocked_readers_keep_nobody_from_being_served_and_can_be_killed(
    server: Server, programs: Programs
) -> None:
    argv = [str(programs("many")), str(server.device), str(READERS)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process, opened(server.device, os.O_NONBLOCK) as fd:
        lines = Lines(process)
        readers = [int(lines.next()) for _ in range(READERS)]
        wait_for_watchers(server, READERS)
        assert "status=0" in server.status()
        assert revents(fd) == 0
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
        for number, reader in enumerate(readers):
            os.kill(reader, signal.SIGKILL if number % 2 else signal.SIGTERM)
        ends = [lines.next() for _ in range(READERS)]
        wait_until(lambda: open_files(server) == 1, "their files closed")
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        server.simulate(seconds=LONG_S)
        assert poller.result() == READABLE
    assert process.returncode == 0
    assert (ends.count("signal 9"), ends.count("signal 15")) == (READERS // 2, READERS // 2)


def test_several_blocked_readers_are_all_told_in_the_end(server: Server, programs: Programs) -> None:
    with subprocess.Popen([programs("many"), server.device, "8"], stdout=subprocess.PIPE) as process:
        lines = Lines(process)
        for _ in range(8):
            lines.next()
        wait_for_watchers(server, 8)
        server.simulate(seconds=LONG_S)
        assert [lines.next() for _ in range(8)] == ["exit 0"] * 8
