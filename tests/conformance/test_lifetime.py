"""What programs see of the server's start and end, and of two servers side by side."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    READABLE,
    Blocking,
    Machine,
    complaints,
    error_of,
    facts,
    opened,
    read_record,
    revents,
    unexpected,
    wait_for_watchers,
    wait_until,
)
from tests.support.server import Server
from tests.support.sigio import as_root
from tests.support.stage import Stages
from tests.support.transport import Transport

pytestmark = pytest.mark.mount

GONE = ("ECONNABORTED", "ENOTCONN", "ENODEV")
"""What a read that waits ends with, by the version of the kernel."""


def refused(transport: Transport, device: Path, directory: Path) -> str:
    """The one line with which a start is refused; exit code 2, and nothing left."""
    mount = directory / "refused"
    machine = Machine(directory)
    options = ["--node", transport.name, "--device", str(device), "--mount", str(mount), *machine.options]
    argv = [sys.executable, "-m", "memnotify_cuse", "serve", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = unexpected(done.stderr)
    assert line.startswith("memnotify: ")
    assert not mount.exists()
    return line


@as_root
def test_the_server_says_what_it_serves(server: Server, transport: Transport) -> None:
    assert f"ready: device={server.device} mount={server.mount} node={transport.name}\n" in server.log
    assert facts(server)["node"] == transport.name


@as_root
def test_two_servers_side_by_side_and_the_end_of_one(
    server: Server, stages: Stages, transport: Transport, tmp_path: Path
) -> None:
    machine = Machine(tmp_path)
    with stages.server(transport, tmp_path, *machine.options) as other:
        with opened(server.device) as ours, opened(other.device) as polled, opened(other.device) as read:
            poller = Blocking(lambda: revents(polled, LIMIT_S))
            wait_for_watchers(other, 1)
            server.simulate(seconds=LONG_S)
            assert revents(ours) == READABLE
            assert read_record(ours).pressure == 1
            assert not poller.returned
            server.simulate(seconds=0)
            other.simulate(seconds=LONG_S)
            assert poller.result() == READABLE
            assert read_record(polled).pressure == 1
            other.simulate(seconds=0)
            assert revents(ours) == 0

            poller = Blocking(lambda: revents(polled, LIMIT_S))
            reader = Blocking(lambda: os.read(read, 4096))
            wait_for_watchers(other, 2)
            assert other.stop() == 0
            assert poller.result() & select.POLLERR
            assert error_of(reader.result) in GONE
            assert revents(ours) == 0
        assert not complaints(other)
        assert not other.device.exists()
        assert not other.mount.exists()


@as_root
def test_programs_get_an_error_at_once_when_the_server_is_killed_and_the_next_one_serves_again(
    stages: Stages, transport: Transport, tmp_path: Path
) -> None:
    machine = Machine(tmp_path)
    node = transport.node(tmp_path)
    with (
        stages.server(transport, tmp_path, *machine.options, node=node) as killed,
        opened(node) as polled,
        opened(node) as read,
        select.epoll() as epoll,
    ):
        epoll.register(polled, select.EPOLLIN | select.EPOLLET)
        poller = Blocking(lambda: revents(polled, LIMIT_S))
        waiting = Blocking(lambda: epoll.poll(LIMIT_S))
        reader = Blocking(lambda: os.read(read, 4096))
        wait_for_watchers(killed, 2)
        killed.process.kill()
        assert poller.result() & select.POLLERR
        ((_, events),) = waiting.result()
        assert events & select.EPOLLERR
        assert error_of(reader.result) in GONE
        killed.process.wait(LIMIT_S)
        assert revents(polled) & select.POLLERR
        assert error_of(lambda: os.read(read, 4096)) in GONE
        wait_until(lambda: error_of(lambda: os.open(node, os.O_RDONLY)) == transport.open_when_dead, "no device")

        with stages.server(transport, tmp_path, *machine.options, node=node) as server:
            with opened(node) as fd:
                server.simulate(seconds=LONG_S)
                assert revents(fd) == READABLE
                assert read_record(fd).pressure == 1
            # Who holds a file of the one that was killed is not served by the new one.
            assert revents(polled) & select.POLLERR
            assert all("that a killed server left behind" in line for line in complaints(server))
            assert server.stop() == 0
    assert not node.exists()


@as_root
def test_a_second_server_on_the_same_device_is_refused_and_the_first_goes_on(
    server: Server, transport: Transport, tmp_path: Path
) -> None:
    assert refused(transport, server.device, tmp_path) == (
        f"memnotify: {server.device}: memnotify is already serving there"
    )
    server.simulate(seconds=LONG_S)
    with opened(server.device) as fd:
        assert read_record(fd).pressure == 1


@as_root
def test_a_path_that_is_taken_is_refused_and_left_alone(transport: Transport, tmp_path: Path) -> None:
    node = transport.node(tmp_path)
    node.write_text("precious")
    try:
        assert str(node) in refused(transport, node, tmp_path)
        assert node.read_text() == "precious"
    finally:
        node.unlink()
