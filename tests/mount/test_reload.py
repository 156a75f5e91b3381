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
from memnotify_cuse.keeper.statefile import LAYOUT
from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    READABLE,
    Blocking,
    Machine,
    calm_proc,
    complaints,
    facts,
    notifications,
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
from tests.support.takeover import replace, server_pid, zone_line

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


def test_the_code_that_takes_over_goes_on_with_pressure_and_simulations(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with serving(tmp_path, *machine.options, node=tmp_path / "node") as server, opened(server.device) as fd:
        machine.tighten()
        assert read_record(fd).pressure == 1
        server.simulate("node0-Normal", LONG_S)
        wait_until(lambda: notifications(server) > 2, "a repetition")
        before, told = zone_line(server, machine.ZONE), notifications(server)
        assert before["status"] == "1"
        done = reload(server)
        assert done.returncode == 0, done.stderr
        assert zone_line(server, machine.ZONE) == before
        assert zone_line(server, "node0-Normal").items() >= {"status": "1", "raised": "1"}.items()
        assert notifications(server) >= told
        server.simulate(seconds=0)
        machine.make_room()
        wait_until(lambda: "status=1" not in server.status(), "the end of both")


def test_without_a_node_of_its_own_the_device_in_the_mount_lives_on(tmp_path: Path, proc: str) -> None:
    with Server(tmp_path, "--log-level", "info", "--proc", proc, "--node", "none") as server, watchdog(server):
        assert server.device == server.mount / "mem_notify"
        with opened(server.device) as fd:
            for _ in range(2):
                poller = Blocking(lambda: revents(fd, LIMIT_S))
                wait_for_watchers(server, 1)
                replace(server)
                done = reload(server)
                assert done.returncode == 0, done.stderr
                wait_for_watchers(server, 1)
                server.simulate(seconds=LONG_S)
                assert poller.result() == READABLE
                assert read_record(fd).pressure == 1
                server.simulate(seconds=0)
                wait_until(lambda: revents(fd) == 0, "the end of the simulation")
        assert facts(server)["node"] == "none"
        assert server.stop() == 0
    assert not server.mount.exists()


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


def refuses_to_reload(server: Server, fd: int, complaint: str) -> None:
    """A reload ends with `complaint`, and the server that was there goes on."""
    before = facts(server)
    os.kill(server.process.pid, signal.SIGHUP)
    wait_until(lambda: complaint in server.log, "a complaint")
    assert facts(server)["server_pid"] == before["server_pid"]
    server.simulate(seconds=LONG_S)
    assert revents(fd, LIMIT_S) == READABLE


def test_newer_code_is_used(tmp_path: Path, proc: str) -> None:
    with breakable(tmp_path, proc) as (server, copy):
        init = copy / "__init__.py"
        init.write_text(init.read_text().replace(memnotify_cuse.__version__, "99.9"))
        done = reload(server)
        assert f"version {memnotify_cuse.__version__} -> 99.9" in done.stdout, (done, server.log)
        assert facts(server)["version"] == "99.9"
        assert server.stop() == 0


@pytest.mark.parametrize("broken", ["cli/main.py", "keeper/keeper.py", "daemon.py", "keeper/setup.py"])
def test_code_that_does_not_start_is_not_used(broken: str, tmp_path: Path, proc: str) -> None:
    with breakable(tmp_path, proc) as (server, copy), opened(server.device) as fd:
        (copy / broken).write_text("this is no Python\n")
        refuses_to_reload(server, fd, "the new code does not start")
        assert server.stop() == 0


def test_code_that_cannot_go_on_with_the_state_is_not_used(tmp_path: Path, proc: str) -> None:
    with breakable(tmp_path, proc) as (server, copy), opened(server.device) as fd:
        statefile = copy / "keeper" / "statefile.py"
        now, next_one = f"LAYOUT: Final = {LAYOUT}\n", f"LAYOUT: Final = {LAYOUT + 1}\n"
        assert now in statefile.read_text()
        statefile.write_text(statefile.read_text().replace(now, next_one))
        refuses_to_reload(server, fd, "the new code cannot take over from this version")
        assert server.stop() == 0


def test_a_server_of_newer_code_that_dies_at_its_start_leaves_the_old_one_at_work(tmp_path: Path, proc: str) -> None:
    with breakable(tmp_path, proc) as (server, copy), opened(server.device) as fd:
        daemon = copy / "daemon.py"
        daemon.write_text(daemon.read_text() + "\ndef serve(*_): raise RuntimeError('a mistake of ours')\n")
        refuses_to_reload(server, fd, "the new server did not start (ended with 70); the old one goes on")
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
import os, pty, signal, subprocess, sys
outlives = sys.argv.pop(1) == "nohup"
pid, terminal = pty.fork()
if not pid:
    if outlives:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.execv(sys.executable, [sys.executable, "-m", "memnotify_cuse", *sys.argv[1:]])
print(pid, flush=True)
while b"ready: " not in (said := os.read(terminal, 4096)):
    pass
print("ready", flush=True)
sys.stdin.readline()
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@contextmanager
def in_a_terminal(tmp_path: Path, proc: str, how: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server that was started in a terminal, and its process; a line of input closes the terminal."""
    argv = [how, "serve", "--mount", str(tmp_path / "mount"), "--device", str(tmp_path / "node"), "--proc", proc]
    with subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as terminal:
        assert terminal.stdin is not None
        assert terminal.stdout is not None
        pid = int(terminal.stdout.readline())
        assert terminal.stdout.readline() == "ready\n"
        terminal.stdin.write("\n")
        terminal.stdin.flush()
        yield terminal, pid


def test_a_terminal_that_is_closed_ends_the_server_that_was_started_in_it(tmp_path: Path, proc: str) -> None:
    with in_a_terminal(tmp_path, proc, "plain") as (terminal, _):
        assert terminal.stdout is not None
        assert terminal.stdout.readline() == "0\n"
    assert not (tmp_path / "mount").exists()
    assert not (tmp_path / "node").exists()


def test_a_server_that_is_to_outlive_its_terminal_does(tmp_path: Path, proc: str) -> None:
    with in_a_terminal(tmp_path, proc, "nohup") as (terminal, pid):
        assert terminal.stdout is not None
        # The hangup has it reload, as any SIGHUP.
        mount = tmp_path / "mount"
        wait_until(lambda: "restarts=1 " in (mount / "server").read_text(), "the next server")
        with opened(tmp_path / "node") as fd:
            (mount / "simulate").write_text("all 600\n")
            assert revents(fd, LIMIT_S) == READABLE
        os.kill(pid, signal.SIGTERM)
        assert terminal.stdout.readline() == "0\n"


def test_a_replaced_server_can_be_asked_for_a_trace(tmp_path: Path) -> None:
    """The trace instance is the keeper's, and each server gets it."""
    with Server(tmp_path, "--log-level", "info", node=tmp_path / "node") as server, watchdog(server):
        before = facts(server)["wakeup"]
        replace(server)
        assert facts(server)["wakeup"] == before
        assert server.stop() == 0
