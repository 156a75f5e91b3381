"""read on the device: blocking and not, in pieces, and what a record outlives."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from memnotify_cuse.record import KEYS, Record
from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    READABLE,
    Blocking,
    Machine,
    error_of,
    many_opened,
    notifications,
    opened,
    read_record,
    revents,
    wait_for_watchers,
    wait_until,
    watchers,
    zone_of,
)
from tests.support.server import Lines, Server
from tests.support.transport import Transport

pytestmark = pytest.mark.mount


def set_nonblocking(fd: int, on: bool) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK if on else flags & ~os.O_NONBLOCK)


def announced(fd: int) -> None:
    """Take the POLLIN answers that there are."""
    assert revents(fd, LIMIT_S) == READABLE
    wait_until(lambda: revents(fd) == 0, "the last answer")


def test_a_blocked_read_gets_one_whole_record(server: Server) -> None:
    with opened(server.device) as fd:
        reader = Blocking(lambda: os.read(fd, 4096))
        wait_for_watchers(server, 1)
        server.simulate(seconds=LONG_S)
        line = reader.result()
    assert line.endswith(b"\n")
    assert [pair.split("=")[0] for pair in line.decode().split()] == [*KEYS, "level"]
    record = Record.parse(line)
    assert (record.pressure, record.reason) == (1, "simulated")
    assert zone_of(record) in server.zones


def test_a_read_under_pressure_does_not_block(server: Server) -> None:
    server.simulate(seconds=LONG_S)
    with opened(server.device) as fd:
        assert read_record(fd).pressure == 1


def test_blocked_reads_are_served_one_notification_after_the_other(server: Server) -> None:
    with opened(server.device) as fd:
        server.simulate(seconds=LONG_S)
        times = [Blocking(lambda: read_record(fd)).result().time_ns for _ in range(3)]
    assert times == sorted(set(times))


def test_o_nonblock_at_open_gets_eagain(server: Server) -> None:
    with opened(server.device, os.O_NONBLOCK) as fd:
        with pytest.raises(BlockingIOError) as refused:
            os.read(fd, 4096)
        assert refused.value.errno == errno.EAGAIN
        server.simulate(seconds=LONG_S)
        assert read_record(fd).pressure == 1


def test_o_nonblock_set_later_gets_eagain_and_cleared_again_blocks(server: Server) -> None:
    with opened(server.device) as fd:
        set_nonblocking(fd, True)
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
        set_nonblocking(fd, False)
        reader = Blocking(lambda: read_record(fd))
        wait_for_watchers(server, 1)
        assert not reader.returned
        server.simulate(seconds=LONG_S)
        assert reader.result().pressure == 1


def test_reads_of_one_byte_make_a_byte_stream(server: Server) -> None:
    server.simulate(seconds=LONG_S)
    with opened(server.device) as fd:
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(fd, 1)
            assert len(byte) == 1
            line += byte
    assert Record.parse(line).pressure == 1


def test_a_read_of_no_bytes_returns_at_once_in_whatever_state(server: Server) -> None:
    """The patch's own sample program issues one before each poll."""
    with opened(server.device) as fd:
        assert os.read(fd, 0) == b""
        server.simulate(seconds=LONG_S)
        assert os.read(fd, 0) == b""
        assert revents(fd) == READABLE
        assert os.read(fd, 0) == b""
        assert len(os.read(fd, 1)) == 1
        assert os.read(fd, 0) == b""
        os.read(fd, 4096)
        assert os.read(fd, 0) == b""


def test_a_half_read_record_keeps_the_file_readable(server: Server) -> None:
    with many_opened(server.device, 20) as (fd, *_):
        server.simulate(seconds=LONG_S)
        announced(fd)
        first = os.read(fd, 10)
        assert revents(fd) == READABLE
        server.simulate(seconds=0)
        assert revents(fd) == READABLE
        Record.parse(first + os.read(fd, 4096))
        assert revents(fd) == 0


def test_a_read_after_pollin_never_blocks_even_after_the_pressure(server: Server) -> None:
    with many_opened(server.device, 20) as (fd, *_):
        server.simulate(seconds=LONG_S)
        announced(fd)
        server.simulate(seconds=0)
        assert Blocking(lambda: read_record(fd)).result().pressure == 1
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)


def test_a_new_record_replaces_an_unread_one(server: Server) -> None:
    first, second, *_ = server.zones
    with opened(server.device, os.O_NONBLOCK) as fd:
        server.simulate(first, LONG_S)
        announced(fd)
        server.simulate(first, 0)
        server.simulate(second, LONG_S)
        announced(fd)
        server.simulate(second, 0)
        assert zone_of(read_record(fd)) == second
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)


def test_a_new_record_queues_behind_a_half_read_one(server: Server) -> None:
    first, second, *_ = server.zones
    with opened(server.device, os.O_NONBLOCK) as fd, select.epoll() as epoll:
        server.simulate(first, LONG_S)
        assert revents(fd) == READABLE
        line = os.read(fd, 10)
        server.simulate(first, 0)
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        assert epoll.poll(0) == [(fd, select.EPOLLIN)]
        server.simulate(second, LONG_S)
        assert epoll.poll(LIMIT_S) == [(fd, select.EPOLLIN)]
        server.simulate(second, 0)
        line += os.read(fd, 4096)
    assert [zone_of(Record.parse(each)) for each in line.decode().splitlines()] == [first, second]


SEEKS: dict[str, Callable[[int], object]] = {
    "lseek": lambda fd: os.lseek(fd, 0, os.SEEK_SET),
    "lseek-end": lambda fd: os.lseek(fd, 0, os.SEEK_END),
    "pread": lambda fd: os.pread(fd, 10, 0),
    "preadv": lambda fd: os.preadv(fd, [bytearray(10)], 5),
}


@pytest.mark.parametrize("seek", SEEKS)
def test_the_device_has_no_position(seek: str, server: Server, transport: Transport) -> None:
    with opened(server.device, os.O_NONBLOCK) as fd:
        assert error_of(lambda: SEEKS[seek](fd)) == transport.seek_errors[seek]
        server.simulate(seconds=LONG_S)
        # Whatever that came to, the stream begins where it began.
        assert read_record(fd).pressure == 1


def test_the_device_is_no_terminal(server: Server) -> None:
    with server.device.open() as file:
        assert not file.isatty()
        with pytest.raises(termios.error):
            termios.tcgetattr(file)


def test_a_python_file_object_iterates_over_records(server: Server) -> None:
    server.simulate(seconds=LONG_S)
    with server.device.open() as file:
        assert Record.parse(Blocking(file.readline).result()).pressure == 1


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "busybox"])
def test_the_shell_s_read_gets_a_line(shell: str, server: Server) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    script = 'read line < "$1" && echo "$line"'
    argv = [*([shell, "sh"] if shell == "busybox" else [shell]), "-c", script, "sh", str(server.device)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        wait_for_watchers(server, 1)
        server.simulate(seconds=LONG_S)
        assert Record.parse(Lines(process).next()).pressure == 1
    assert process.returncode == 0


@pytest.mark.parametrize(
    "argv",
    [["cat"], ["head", "-n", "1"], ["dd", "status=none", "bs=4096", "count=1"], ["perl", "-pe", ""]],
    ids=lambda argv: argv[0],
)
def test_other_programs_read_it(argv: list[str], server: Server) -> None:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"no {argv[0]}")
    device = server.device.open("rb", buffering=0)
    with device, subprocess.Popen(argv, stdin=device, stdout=subprocess.PIPE) as process:
        wait_for_watchers(server, 1)
        server.simulate(seconds=LONG_S)
        assert process.stdout
        # Perl holds its output back until the end; that it reads on is what counts.
        if argv[0] == "perl":
            wait_until(lambda: watchers(server), "perl reading on")
        else:
            assert Record.parse(Lines(process).next()).pressure == 1
        process.terminate()


def test_duplicated_descriptors_share_one_queue(server: Server) -> None:
    with many_opened(server.device, 20) as (fd, *_):
        server.simulate(seconds=LONG_S)
        twin = os.dup(fd)
        try:
            begun = os.read(fd, 10)
            assert revents(twin) == READABLE
            Record.parse(begun + os.read(twin, 4096))
            assert revents(fd) == 0
        finally:
            os.close(twin)
        assert revents(fd) == 0


def test_closing_a_duplicate_leaves_a_blocked_read_alone(server: Server) -> None:
    with opened(server.device) as fd:
        reader = Blocking(lambda: read_record(fd))
        wait_for_watchers(server, 1)
        os.close(os.dup(fd))
        server.simulate(seconds=LONG_S)
        assert reader.result().pressure == 1


def test_each_open_file_gets_the_record(server: Server) -> None:
    with many_opened(server.device, 3) as fds:
        server.simulate(seconds=LONG_S)
        assert [read_record(fd).pressure for fd in fds] == [1, 1, 1]


def test_of_two_reads_blocked_on_one_file_a_notification_serves_one(server: Server, machine: Machine) -> None:
    with opened(server.device) as fd:
        readers = [Blocking(lambda: read_record(fd)) for _ in range(2)]
        wait_for_watchers(server, 1)
        before = notifications(server)
        machine.tighten()
        wait_until(lambda: any(reader.returned for reader in readers), "one of them served")
        assert notifications(server) == before + 1
        # The other one's turn comes with a later notification.
        server.simulate(seconds=LONG_S)
        assert all(reader.result().pressure == 1 for reader in readers)


def test_the_attributes_are_those_of_a_read_only_file(server: Server, transport: Transport) -> None:
    with opened(server.device) as fd:
        for status in (server.device.stat(), os.fstat(fd)):
            assert transport.is_file_type(status.st_mode)
            assert (status.st_mode & 0o7777, status.st_size, status.st_uid) == (0o444, 0, os.geteuid())


def test_a_file_opened_through_a_link_is_the_device(server: Server, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(server.device)
    server.simulate(seconds=LONG_S)
    with opened(link) as fd:
        assert read_record(fd).pressure == 1
