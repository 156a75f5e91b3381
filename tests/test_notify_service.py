"""What the service manager is told, onto a socket like its own."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.notify_service import notify_service, watchdog_s
from tests.support.mounted import calm_proc, wait_until
from tests.support.server import Server
from tests.support.takeover import replace


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    address = str(tmp_path / "notify")
    if request.param == "abstract":
        address = f"@memnotify-test{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(address.replace("@", "\0", 1))
        ours.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield ours


KEPT = {"memnotify-facts", "memnotify-fuse", "memnotify-lock", "memnotify-state"}


class Told:
    """What a manager has been told by now; of descriptors, what they are."""

    def __init__(self, manager: socket.socket) -> None:
        self._manager = manager
        self.lines: list[str] = []
        self.stored: dict[str, str] = {}

    def look(self) -> list[str]:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._manager, 4096, 4)
            except BlockingIOError:
                return self.lines
            lines = data.decode().split("\n")
            for fd in fds:
                (name,) = (line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME="))
                self.stored[name] = os.readlink(f"/proc/self/fd/{fd}")
                os.close(fd)
            self.lines += lines


def test_what_is_said_arrives_with_its_descriptors(manager: socket.socket) -> None:
    assert notify_service("READY=1") is None
    assert notify_service("FDSTORE=1\nFDNAME=null", (os.open(os.devnull, os.O_RDONLY),)) is None
    told = Told(manager)
    assert told.look() == ["READY=1", "FDSTORE=1", "FDNAME=null"]
    assert told.stored == {"null": "/dev/null"}


def test_a_manager_that_does_not_read_is_not_waited_for(manager: socket.socket) -> None:
    complaints = [notify_service(f"STATUS={number} {'x' * 1000}") for number in range(10_000)]
    assert re.match("the service manager could not be told STATUS=.*", complaints[-1] or "")


@pytest.mark.parametrize("address", [None, "", "/does/not/exist"])
def test_without_a_manager_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert (notify_service("READY=1") is None) == (not address)


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("10000000", None, 10.0), ("10000000", "1", None), (None, None, None), ("x", None, None)],
)
def test_whether_a_manager_wants_to_hear_that_we_live(
    usec: str | None, pid: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert watchdog_s() == seconds


@pytest.mark.mount
def test_a_server_tells_its_manager_what_it_is_and_has_it_keep_what_the_next_one_needs(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    told = Told(manager)
    with Server(tmp_path, "--proc", str(calm_proc(tmp_path).path)) as server:
        wait_until(lambda: "READY=1" in told.look(), "READY=1")
        wait_until(lambda: told.look() and told.stored.keys() >= KEPT, "what is kept")
        assert told.stored["memnotify-fuse"] == "/dev/fuse"
        assert not any(line.startswith("FDSTOREREMOVE") for line in told.lines)
        wait_until(lambda: "WATCHDOG=1" in told.look(), "a sign of life")
        wait_until(lambda: any(line.startswith("STATUS=") for line in told.look()), "a status")
        replace(server)
        assert server.stop() == 0
        wait_until(lambda: "STOPPING=1" in told.look(), "STOPPING=1")
        assert told.lines.count("FDSTOREREMOVE=1") == len(told.stored)
