"""Newer code takes over from a server that runs; and what ends a server for good."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import memnotify_cuse
from memnotify_cuse.keeper.lives import MAX_DEATHS
from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    READABLE,
    Blocking,
    calm_proc,
    complaints,
    error_of,
    facts,
    opened,
    read_record,
    revents,
    serving,
    state_of,
    wait_for_watchers,
    wait_until,
    watchdog,
)
from tests.support.server import Server
from tests.support.takeover import replace, server_pid

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can show the device outside the mount"),
]


@pytest.fixture
def proc(tmp_path: Path) -> str:
    return str(calm_proc(tmp_path).path)


def reload(server: Server) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "memnotify_cuse", "reload", "--mount", str(server.mount)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_the_code_that_is_installed_now_takes_over_and_no_program_notices(tmp_path: Path, proc: str) -> None:
    with serving(tmp_path, "--proc", proc, node=tmp_path / "node") as server, opened(server.device) as fd:
        for number in (1, 2):
            before = facts(server)
            poller = Blocking(lambda: revents(fd, LIMIT_S))
            wait_for_watchers(server, 1)
            done = reload(server)
            assert done.returncode == 0, done.stderr
            after = facts(server)
            assert done.stdout == (
                f"reloaded: version {memnotify_cuse.__version__} -> {memnotify_cuse.__version__}, "
                f"process {after['server_pid']}\n"
            )
            assert after["pid"] == before["pid"] == str(server.process.pid)
            assert (after["restarts"], after["open_files"], after["watchers"]) == (str(number), "1", "1")
            wait_until(lambda: state_of(int(before["server_pid"])) == "", "the old server gone")  # noqa: B023
            server.simulate(seconds=LONG_S)
            assert poller.result() == READABLE
            assert read_record(fd).pressure == 1
            server.simulate(seconds=0)
            wait_until(lambda: revents(fd) == 0, "the end of the simulation")


@contextmanager
def breakable(tmp_path: Path, proc: str) -> Iterator[tuple[Server, Path]]:
    """A server of a copy of the code, and the copy."""
    copy = tmp_path / "code" / "memnotify_cuse"
    shutil.copytree(Path(memnotify_cuse.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PYTHONPATH", str(copy.parent))
        # What `-m` puts first.
        patch.chdir(copy.parent)
        server = stack.enter_context(Server(tmp_path, "--log-level", "info", "--proc", proc, node=tmp_path / "node"))
        stack.enter_context(watchdog(server))
        yield server, copy


def test_newer_code_is_used(tmp_path: Path, proc: str) -> None:
    with breakable(tmp_path, proc) as (server, copy):
        init = copy / "__init__.py"
        init.write_text(init.read_text().replace(memnotify_cuse.__version__, "99.9"))
        done = reload(server)
        assert f"version {memnotify_cuse.__version__} -> 99.9" in done.stdout, (done, server.log)
        assert facts(server)["version"] == "99.9"
        assert server.stop() == 0


def test_code_that_does_not_start_is_not_used(tmp_path: Path, proc: str) -> None:
    with breakable(tmp_path, proc) as (server, copy), opened(server.device) as fd:
        before = facts(server)
        (copy / "cli" / "main.py").write_text("this is no Python\n")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: "the new code does not start" in server.log, "a complaint")
        assert facts(server)["server_pid"] == before["server_pid"]
        server.simulate(seconds=LONG_S)
        assert revents(fd, LIMIT_S) == READABLE
        assert server.stop() == 0


def test_a_server_of_newer_code_that_dies_at_its_start_leaves_the_old_one_at_work(tmp_path: Path, proc: str) -> None:
    with breakable(tmp_path, proc) as (server, copy), opened(server.device) as fd:
        before = facts(server)
        daemon = copy / "daemon.py"
        daemon.write_text(daemon.read_text() + "\nraise RuntimeError('a mistake of ours')\n")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: "the new server did not start; the old one goes on" in server.log, "a complaint")
        assert facts(server)["server_pid"] == before["server_pid"]
        server.simulate(seconds=LONG_S)
        assert revents(fd, LIMIT_S) == READABLE
        assert server.stop() == 0
    assert not server.mount.exists()


def test_a_crash_loop_is_the_end(tmp_path: Path, proc: str) -> None:
    """Programs are better off without a device than with one that hangs."""
    with Server(tmp_path, "--proc", proc, node=tmp_path / "node") as server, opened(server.device) as fd:
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        for _ in range(MAX_DEATHS - 1):
            replace(server)
        os.kill(server_pid(server), signal.SIGKILL)
        assert server.process.wait(LIMIT_S) == 1
        assert poller.result() & select.POLLERR
        *replaced, last = complaints(server)
        assert len(replaced) == MAX_DEATHS - 1
        assert last == "memnotify: ERROR: the server was killed by SIGKILL, the 5th within 10 s; this is the end"
        assert not server.device.exists()
        assert not server.mount.exists()


def test_sigkill_of_the_keeper_lets_go_of_everybody(tmp_path: Path, proc: str) -> None:
    with Server(tmp_path, "--proc", proc, node=tmp_path / "node") as server, opened(server.device) as fd:
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        pid = server_pid(server)
        server.process.kill()
        assert poller.result() & select.POLLERR
        wait_until(lambda: state_of(pid) in ("", "Z", "X"), "the server gone")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE])
def test_a_signal_that_would_end_another_program_changes_nothing(
    number: signal.Signals, tmp_path: Path, proc: str
) -> None:
    with serving(tmp_path, "--proc", proc) as server:
        before = server_pid(server)
        os.kill(server.process.pid, number)
        os.kill(before, number)
        server.simulate(seconds=LONG_S)
        with opened(server.device) as fd:
            assert revents(fd, LIMIT_S) == READABLE
        assert server_pid(server) == before


IN_A_TERMINAL = """
import os, pty, subprocess, sys
pid, terminal = pty.fork()
if not pid:
    os.execv(sys.executable, [sys.executable, "-m", "memnotify_cuse", *sys.argv[1:]])
print(pid, flush=True)
while b"ready: " not in (said := os.read(terminal, 4096)):
    pass
print("ready", flush=True)
sys.stdin.readline()
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_a_terminal_that_is_closed_ends_the_server_that_was_started_in_it(tmp_path: Path, proc: str) -> None:
    mount, node = tmp_path / "mount", tmp_path / "node"
    argv = ["serve", "--mount", str(mount), "--device", str(node), "--proc", proc]
    with subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as terminal:
        assert terminal.stdin is not None
        assert terminal.stdout is not None
        terminal.stdout.readline()
        assert terminal.stdout.readline() == "ready\n"
        with opened(node) as fd:
            terminal.stdin.write("\n")
            terminal.stdin.flush()
            assert terminal.stdout.readline() == "0\n"
            assert error_of(lambda: os.read(fd, 1)) != ""
    assert not mount.exists()
    assert not node.exists()


def test_a_replaced_server_can_be_asked_for_a_trace(tmp_path: Path) -> None:
    """The trace instance is the keeper's, and each server gets it."""
    with Server(tmp_path, "--log-level", "info", node=tmp_path / "node") as server, watchdog(server):
        before = facts(server)["doorbell"]
        replace(server)
        assert facts(server)["doorbell"] == before
        assert server.stop() == 0
