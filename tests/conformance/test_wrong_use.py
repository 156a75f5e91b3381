"""What may not be done to the device, and what it answers."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.device.policy import Policy
from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    NOBODY,
    READABLE,
    error_of,
    notifications,
    open_files,
    opened,
    revents,
    wait_until,
)
from tests.support.programs import Programs
from tests.support.server import Lines, Server
from tests.support.sigio import as_root
from tests.support.stage import NO_SIGIO, Setup
from tests.support.transport import Transport

pytestmark = pytest.mark.mount

UNKNOWN_REQUEST = 0x4D00
"""_IO('M', 0): no driver's that could be meant."""


@pytest.fixture(autouse=True)
def goes_on(server: Server) -> Iterator[None]:
    """After each of these the server serves."""
    yield
    server.simulate(seconds=0)
    wait_until(lambda: open_files(server) == 0, "all files closed")
    with opened(server.device) as fd:
        assert revents(fd) == 0
    assert server.status().count("status=0") == len(server.zones)


def error_of_open(path: Path, flags: int) -> str:
    """The name of the error that open(2) ends with, "" if it succeeds."""
    return error_of(lambda: os.close(os.open(path, flags)))


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND])
def test_it_cannot_be_opened_for_writing(flags: int, server: Server) -> None:
    assert error_of_open(server.device, flags) == "EACCES"


def test_it_cannot_be_truncated(server: Server, transport: Transport) -> None:
    assert error_of_open(server.device, os.O_RDONLY | os.O_TRUNC) == transport.open_truncates
    assert error_of(lambda: os.truncate(server.device, 0)) == transport.truncate
    with opened(server.device) as fd:
        assert error_of(lambda: os.ftruncate(fd, 0)) in ("EINVAL", "EBADF")


def test_it_takes_no_write(server: Server) -> None:
    told = notifications(server)
    with opened(server.device) as fd:
        assert error_of(lambda: os.write(fd, b"all 1\n")) == "EBADF"
    assert notifications(server) == told


def test_it_is_no_folder(server: Server) -> None:
    assert error_of(lambda: os.stat(server.device / "x")) == "ENOTDIR"
    assert error_of(lambda: os.listdir(server.device)) == "ENOTDIR"


def test_it_has_no_ioctl(server: Server, transport: Transport) -> None:
    with opened(server.device) as fd:
        for request in (termios.TCGETS, termios.TIOCGWINSZ, UNKNOWN_REQUEST):
            assert error_of(lambda request=request: fcntl.ioctl(fd, request, bytes(64))) == "ENOTTY"  # type: ignore[misc]
        waiting = array.array("i", [-1])
        assert error_of(lambda: fcntl.ioctl(fd, termios.FIONREAD, waiting)) == transport.fionread
        assert waiting[0] == (-1 if transport.fionread else 0)


def test_it_cannot_be_mapped_for_sharing(server: Server, programs: Programs) -> None:
    done = subprocess.run([programs("map"), server.device, "shared"], capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.stdout, done.returncode) == ("ENODEV\n", 0)


def test_a_private_mapping_of_it_holds_nothing(server: Server, programs: Programs) -> None:
    """The kernel allows it, depending on its version; there is no page to be had behind it."""
    argv = [str(programs("map")), str(server.device), "private"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.stdout == "ENODEV\n" or done.returncode == -signal.SIGBUS


OPEN_AS_NOBODY = """
import os, sys
os.setgroups([])
os.setgid({nobody})
os.setuid({nobody})
fd = os.open(sys.argv[1], os.O_RDONLY)
print("opened", flush=True)
sys.stdin.read()
"""


class TestBound:
    @pytest.fixture
    def needs(self) -> Setup:
        return NO_SIGIO

    @as_root
    @pytest.mark.usefixtures("room_for_descriptors")
    def test_one_user_s_open_files_are_bounded_and_others_can_still_open(self, server: Server) -> None:
        bound = Policy().max_open_per_user
        fds: list[int] = []
        try:
            for _ in range(bound):
                fds.append(os.open(server.device, os.O_RDONLY | os.O_CLOEXEC))
            assert error_of_open(server.device, os.O_RDONLY) == "EMFILE"
            assert open_files(server) == bound
            with subprocess.Popen(
                [sys.executable, "-c", OPEN_AS_NOBODY.format(nobody=NOBODY), server.device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as process:
                assert Lines(process).next() == "opened"
                assert open_files(server) == bound + 1
            assert process.returncode == 0
            os.close(fds.pop())
            wait_until(lambda: open_files(server) < bound, "a file closed")
            fds.append(os.open(server.device, os.O_RDONLY | os.O_CLOEXEC))
            server.simulate(seconds=LONG_S)
            assert revents(fds[-1]) == READABLE
        finally:
            for fd in fds:
                os.close(fd)
