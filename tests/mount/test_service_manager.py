"""A service manager that keeps the descriptors, as systemd does, and starts the service again with them.

There is no systemd here: the guest tier has one. What it does with descriptors is done by the test.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    READABLE,
    Blocking,
    calm_proc,
    error_of,
    facts,
    opened,
    revents,
    wait_for_watchers,
    wait_until,
)
from tests.support.server import Server, unmount
from tests.support.sigio import as_root

pytestmark = [pytest.mark.mount, as_root]

LAUNCH = """
import fcntl, os, sys
fds = [int(word) for word in sys.argv[1].split(",") if word]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
# Nothing but those may hold a connection.
os.closerange(3, 100)
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.executable, [sys.executable, "-m", "memnotify_cuse", "serve", *sys.argv[3:]])
"""


class Manager:
    """Has a socket for what the service says, and keeps what it stores."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)
        self.stored: dict[str, int] = {}
        self.said: list[str] = []

    def listen(self) -> list[str]:
        """Take in what the service has said: all of it so far."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            except BlockingIOError:
                return self.said
            lines = dict(line.split("=", 1) for line in data.decode().split("\n"))
            self.said += data.decode().split("\n")
            if "FDSTORE" in lines:
                (self.stored[lines["FDNAME"]],) = fds
            if "FDSTOREREMOVE" in lines:
                os.close(self.stored.pop(lines["FDNAME"]))

    def start(self, *options: str, log: Path) -> subprocess.Popen[bytes]:
        """Start the service, with what it has stored."""
        self.said.clear()
        fds = ",".join(map(str, self.stored.values()))
        argv = [sys.executable, "-c", LAUNCH, fds, ":".join(self.stored), *options]
        with log.open("ab") as stderr:
            process = subprocess.Popen(
                argv,
                pass_fds=list(self.stored.values()),
                env=os.environ | {"NOTIFY_SOCKET": self.address},
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )
        wait_until(lambda: "READY=1" in self.listen() or process.poll() is not None, "READY=1")
        assert process.poll() is None, log.read_text()
        return process

    def close(self) -> None:
        self.listen()
        for fd in self.stored.values():
            os.close(fd)
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


@contextmanager
def killed(manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose first process was killed, after the manager has got all that there is to keep."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    server = Server(tmp_path, "--proc", str(calm_proc(tmp_path).path), node=tmp_path / "node")
    try:
        wait_until(lambda: manager.listen() and "memnotify-state" in manager.stored, "what is kept")
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        for path in (server.device, server.mount):
            unmount(path)


def options(server: Server, tmp_path: Path) -> list[str]:
    return ["--mount", str(server.mount), "--device", str(server.device), "--proc", str(tmp_path / "proc")]


def kill(server: Server) -> None:
    server.process.kill()
    server.process.wait()


def test_the_next_service_goes_on_and_no_program_notices(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    with killed(manager, tmp_path, monkeypatch) as server, opened(server.device) as fd:
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        before = facts(server)
        kill(server)
        process = manager.start(*options(server, tmp_path), log=log)
        try:
            assert facts(server)["open_files"] == "1"
            assert facts(server)["restarts"] == str(int(before["restarts"]) + 1)
            server.simulate(seconds=LONG_S)
            assert poller.result() == READABLE
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0, log.read_text()
        manager.listen()
        assert manager.stored == {}, "nothing is kept of a service that was stopped"
        assert not server.mount.exists()
        assert not server.device.exists()


@pytest.mark.parametrize("change", ["options", "without the state", "without the lock"])
def test_what_cannot_be_gone_on_with_is_ended_and_made_anew(
    change: str, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    with killed(manager, tmp_path, monkeypatch) as server, opened(server.device) as old:
        kill(server)
        more = ["--sigio", "off"] if change == "options" else []
        if change != "options":
            os.close(manager.stored.pop(f"memnotify-{change.rpartition(' ')[2]}"))
        process = manager.start(*options(server, tmp_path), *more, log=log)
        try:
            assert "the device is made anew" in log.read_text()
            wait_until(lambda: revents(old) & select.POLLERR, "the end of the old device")
            with opened(server.device) as new:
                server.simulate(seconds=LONG_S)
                assert revents(new, LIMIT_S) == READABLE
            assert error_of(lambda: os.read(old, 1)) != ""
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0, log.read_text()
        assert not server.mount.exists()
