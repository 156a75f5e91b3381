"""Signals that come while the server cleans up: it finishes what it began, and its exit code stays 0."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounted import LIMIT_S, Blocking, calm_proc, complaints, opened, revents, wait_for_watchers
from tests.support.server import Server

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can show the device outside the mount"),
]
INSTANCES = Path("/sys/kernel/tracing/instances")
TERM, INT = signal.SIGTERM, signal.SIGINT


def left_behind(server: Server) -> list[str]:
    """What there still is of a server that has ended."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    paths = [server.device, server.mount, *INSTANCES.glob(f"memnotify-*{server.process.pid}")]
    return [mount for mount in mounts if mount in (str(server.device), str(server.mount))] + [
        str(path) for path in paths if path.exists()
    ]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    proc = str(calm_proc(tmp_path).path)
    with Server(tmp_path, "--proc", proc, "--log-level", "info", node=tmp_path / "node") as running:
        yield running


def ends_well(server: Server, send: Callable[[], None]) -> None:
    """The server, with a program asleep on its device, ends by the signals that `send` sends, and leaves nothing."""
    with opened(server.device) as fd:
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        send()
        assert server.process.wait(LIMIT_S) == 0
        poller.result()
    assert left_behind(server) == []
    assert not complaints(server)


@pytest.mark.parametrize(
    "numbers", list(itertools.product((TERM, INT), repeat=2)), ids=lambda pair: "-".join(each.name for each in pair)
)
def test_two_signals_at_once(server: Server, numbers: tuple[signal.Signals, signal.Signals]) -> None:
    """As Ctrl-C under make: the terminal sends one, make passes on another."""

    def send() -> None:
        for number in numbers:
            server.process.send_signal(number)

    ends_well(server, send)


@pytest.mark.parametrize("pause_s", [0.0, 0.0005, 0.01])
def test_signals_until_it_is_gone(server: Server, pause_s: float) -> None:
    def send() -> None:
        for number in itertools.cycle((TERM, INT)):
            if server.process.poll() is not None:
                return
            server.process.send_signal(number)
            time.sleep(pause_s)

    ends_well(server, send)
