"""The log: onto what stderr can be, full or closed, alone and in a real server. A test that waits for ever fails."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from memnotify_cuse.logstream import BURST_LINES, LINES_PER_S, LONGEST_LINE_BYTES, LogHandler
from tests.support.mounted import LIMIT_S, NOBODY, calm_proc, error_of, opened, read_record, wait_until
from tests.support.server import unmount

REFUSAL = "memnotify: WARNING: simulate: expected: "

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Log:
    """A logger of its own on `fd`."""

    def __init__(self, fd: int) -> None:
        self.handler = LogHandler(fd)
        self.handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))

    def __del__(self) -> None:
        self.handler.close()

    def say(self, message: object, *values: object) -> None:
        record = logging.LogRecord("test", logging.WARNING, __file__, 1, message, values, None)
        self.handler.emit(record)


def fill(fd: int) -> None:
    """Write to a pipe until no more goes in, by a description of our own: it stays as it is for others."""
    other = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(other, b"." * size)
    os.close(other)


def drained(fd: int) -> str:
    """All that is in a pipe, but for what `fill` wrote."""
    os.set_blocking(fd, False)
    pieces = []
    with suppress(BlockingIOError):
        while piece := os.read(fd, 65536):
            pieces.append(piece)
    return b"".join(pieces).decode().lstrip(".")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


def test_a_full_pipe_is_not_waited_for_and_what_was_dropped_is_told_later(pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    log = Log(write_end)
    log.say("before")
    fill(write_end)
    for number in range(5):
        log.say("lost %d", number)
    assert drained(read_end).rstrip(".") == "WARNING: before\n"
    log.say("after")
    log.say("and once more")
    assert drained(read_end) == (
        "memnotify: WARNING: 5 log lines could not be written\nWARNING: after\nWARNING: and once more\n"
    )


def test_others_who_write_to_the_same_pipe_still_wait_for_room(pipe: tuple[int, int]) -> None:
    """The flag that keeps us from waiting counts for everybody who shares an open file."""
    Log(pipe[1]).say("anything")
    assert os.get_blocking(pipe[1])


def test_a_pipe_that_nobody_reads_any_more_costs_a_line_each(pipe: tuple[int, int]) -> None:
    _, write_end = pipe
    read_end, other_end = os.pipe()
    log = Log(other_end)
    os.close(read_end)
    log.say("lost")
    os.dup2(write_end, other_end)
    os.close(other_end)


def test_a_rate_is_kept_and_what_was_too_much_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients can provoke some lines, and must not fill a disk."""
    now_s = [1000.0]
    monkeypatch.setattr("memnotify_cuse.logstream.time.monotonic", lambda: now_s[0])
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    log = Log(fd)
    for number in range(3 * BURST_LINES):
        log.say("%d", number)
    lines = path.read_text().splitlines()
    assert lines == [f"WARNING: {number}" for number in range(BURST_LINES)]
    now_s[0] += 1.0
    for number in range(3 * LINES_PER_S):
        log.say("later %d", number)
    lines = path.read_text().splitlines()[BURST_LINES:]
    assert lines[0] == f"memnotify: WARNING: {2 * BURST_LINES} log lines could not be written"
    assert lines[1:] == [f"WARNING: later {number}" for number in range(LINES_PER_S)]
    now_s[0] += 1000.0
    for _ in range(3 * BURST_LINES):
        log.say("much later")
    assert path.read_text().count("much later") == BURST_LINES
    os.close(fd)


def test_a_closed_descriptor_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    os.close(write_end)
    log = Log(write_end)
    log.say("lost")
    log.handler.write("lost as well")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["stream", "datagram"])
def test_a_full_socket_is_not_waited_for(kind: socket.SocketKind) -> None:
    """As the journal gives one to a service."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        log = Log(ours.fileno())
        log.say("before")
        assert theirs.recv(4096) == b"WARNING: before\n"
        ours.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while True:
                sent += ours.send(b"." * 512)
        ours.setblocking(True)
        log.say("lost")
        while sent > 0:
            sent -= len(theirs.recv(512))
        log.say("after")
        theirs.setblocking(False)
        said = b""
        while b"after\n" not in said:
            said += theirs.recv(4096)
        assert said == b"memnotify: WARNING: 1 log lines could not be written\nWARNING: after\n"
        assert ours.getblocking()


def test_a_socket_without_a_reader_does_not_end_the_process() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        log = Log(ours.fileno())
        theirs.close()
        log.say("lost")


def test_a_regular_file_gets_every_line_behind_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("of the last run\n")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    log = Log(fd)
    log.say("one")
    log.handler.write("as it is")
    log.say("two")
    os.close(fd)
    assert path.read_text() == "of the last run\nWARNING: one\nas it is\nWARNING: two\n"


def test_a_line_is_never_longer_than_a_pipe_takes_in_one_piece(pipe: tuple[int, int]) -> None:
    Log(pipe[1]).say("x" * 3 * LONGEST_LINE_BYTES)
    said = drained(pipe[0])
    assert len(said) == LONGEST_LINE_BYTES
    assert said.endswith("x\n")


def test_what_is_no_text_and_what_cannot_be_formatted_costs_a_line_at_most(pipe: tuple[int, int]) -> None:
    log = Log(pipe[1])
    log.say("not %d", "a number")
    log.say("\udcff")
    assert drained(pipe[0]) == "memnotify: WARNING: 1 log lines could not be written\nWARNING: ?\n"


ANOTHER_S_PIPE = f"""
import logging, os, sys
from memnotify_cuse import logstream
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
logstream.log_to_stderr("info")
for number in range(5):
    logging.getLogger().warning("%d", number)
print("done", flush=True)
sys.stdin.readline()
logging.getLogger().warning("after")
"""


@as_root
def test_a_full_pipe_of_another_user_is_not_waited_for(pipe: tuple[int, int]) -> None:
    """It cannot be opened once more; that of `sudo memnotify` is such a one."""
    read_end, write_end = pipe
    fill(write_end)
    command = [sys.executable, "-c", ANOTHER_S_PIPE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=write_end, text=True
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "done\n"
        assert drained(read_end) == ""
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(LIMIT_S) == 0
    said = drained(read_end)
    assert said == "memnotify: WARNING: 5 log lines could not be written\nmemnotify: WARNING: after\n"


def provoke(mount: Path) -> None:
    """One line in the server's log."""
    fd = os.open(mount / "simulate", os.O_WRONLY)
    try:
        assert error_of(lambda: os.write(fd, b"junk\n")) == "EINVAL"
    finally:
        os.close(fd)


def run_server(
    tmp_path: Path, start: Callable[[list[str]], subprocess.Popen[bytes]]
) -> tuple[int, subprocess.Popen[bytes]]:
    """A server is started, tells a reader, is asked for a line by junk in `simulate`, and stopped; its exit code."""
    mount = tmp_path / "mount"
    argv = [
        sys.executable,
        "-m",
        "memnotify_cuse",
        "serve",
        "--device",
        "",
        "--mount",
        str(mount),
        "--log-level",
        "info",
    ]
    process = start([*argv, "--proc", str(calm_proc(tmp_path).path)])
    try:
        wait_until(lambda: (mount / "server").exists() or process.poll() is not None, "a server that answers")
        assert process.poll() is None
        for _ in range(3):
            provoke(mount)
        (mount / "simulate").write_text("all 600\n")
        with opened(mount / "mem_notify") as fd:
            assert read_record(fd).pressure == 1
        process.terminate()
        code = process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait(LIMIT_S)
        unmount(mount)
    assert not mount.exists()
    return code, process


@pytest.mark.mount
def test_a_server_whose_stderr_nobody_reads_serves_and_stops(tmp_path: Path, pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    fill(write_end)
    code, _ = run_server(tmp_path, lambda argv: subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=write_end))
    assert code == 0
    assert drained(read_end) == ""
    # It is the starter's, who may go on writing there.
    assert not fcntl.fcntl(write_end, fcntl.F_GETFL) & os.O_NONBLOCK


@pytest.mark.mount
def test_a_server_tells_later_how_many_lines_were_lost(tmp_path: Path, pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    fill(write_end)

    def start(argv: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=write_end)
        wait_until(lambda: (tmp_path / "mount" / "server").exists() or process.poll() is not None, "an answer")
        provoke(tmp_path / "mount")
        assert drained(read_end) == ""
        os.set_blocking(read_end, True)
        return process

    code, _ = run_server(tmp_path, start)
    assert code == 0
    said = drained(read_end)
    counted = [line for line in said.splitlines() if line.endswith("log lines could not be written")]
    assert len(counted) == 1
    assert said.count(REFUSAL) == 3


@pytest.mark.mount
def test_a_server_without_a_stderr_serves_and_stops(tmp_path: Path) -> None:
    """Whatever it opens first must not be taken for one."""

    def start(argv: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *argv])

    assert run_server(tmp_path, start)[0] == 0


@pytest.mark.mount
def test_a_server_logs_to_a_socket(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        code, _ = run_server(
            tmp_path, lambda argv: subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=theirs.fileno())
        )
        theirs.close()
        said = b""
        while piece := ours.recv(4096):
            said += piece
    assert code == 0
    assert b"ready: " in said
    assert said.decode().count(REFUSAL) == 3
