"""No room for another process, which is how a machine that is short of memory answers fork."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuzz.processes import family
from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    READABLE,
    Blocking,
    calm_proc,
    facts,
    opened,
    revents,
    wait_for_watchers,
    wait_until,
    watchdog,
)
from tests.support.server import Server
from tests.support.takeover import server_pid

PIDS = Path("/sys/fs/cgroup/pids")

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a control group"),
    pytest.mark.skipif(not PIDS.is_dir(), reason=f"no control groups for processes at {PIDS}"),
]


@contextmanager
def no_other_process_than(server: Server) -> Iterator[Path]:
    """The server's processes can start no other one until the file that is given says `max`."""
    group = PIDS / f"memnotify-test-{server.process.pid}"
    group.mkdir()
    most = group / "pids.max"
    try:
        for pid in family(server.process.pid):
            (group / "cgroup.procs").write_text(str(pid))
        most.write_text("1")
        yield most
    finally:
        most.write_text("max")
        for left in (group / "cgroup.procs").read_text().split():
            (PIDS / "cgroup.procs").write_text(left)
        group.rmdir()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    proc = str(calm_proc(tmp_path).path)
    with Server(tmp_path, "--proc", proc, node=tmp_path / "node") as server, watchdog(server):
        yield server


def test_a_dead_server_is_replaced_as_soon_as_there_is_room_for_a_process(server: Server) -> None:
    with opened(server.device) as fd:
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        with no_other_process_than(server) as most:
            os.kill(server_pid(server), signal.SIGKILL)
            wait_until(lambda: "no process for another server" in server.log, "a complaint")
            # Asked for while there is no server: it is not forgotten, and does no harm.
            os.kill(server.process.pid, signal.SIGHUP)
            most.write_text("max")
            server.simulate(seconds=LONG_S)
            assert poller.result() == READABLE
        wait_until(lambda: facts(server)["restarts"] == "2", "the reload")
    assert server.log.count("no process for another server") == 1
    assert server.stop() == 0


def test_a_server_that_cannot_be_replaced_yet_can_be_stopped(server: Server) -> None:
    with opened(server.device) as fd:
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        with no_other_process_than(server):
            os.kill(server_pid(server), signal.SIGKILL)
            wait_until(lambda: "no process for another server" in server.log, "a complaint")
            assert server.stop() == 0
        poller.result()
    assert not server.device.exists()


def test_a_reload_for_which_there_is_no_process_leaves_the_server_at_work(server: Server) -> None:
    before = server_pid(server)
    with no_other_process_than(server):
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: "no process to try the new code" in server.log, "a complaint")
        server.simulate(seconds=LONG_S)
        with opened(server.device) as fd:
            assert revents(fd, LIMIT_S) == READABLE
    assert server_pid(server) == before
    assert server.stop() == 0
