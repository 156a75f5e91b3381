"""The server is killed under programs that wait for it: none of them notices, and all are told of what comes then."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.device.policy import Policy
from memnotify_cuse.keeper.statefile import PRESSURE_BYTES, STATE_BYTES
from memnotify_cuse.record import Record
from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    READABLE,
    Blocking,
    Machine,
    complaints,
    error_of,
    facts,
    many_opened,
    notifications,
    open_files,
    opened,
    read_record,
    revents,
    wait_for_watchers,
    wait_until,
    watchdog,
    zone_of,
)
from tests.support.server import Lines, Server
from tests.support.sigio import NewPuppet, as_root
from tests.support.stage import Stages
from tests.support.takeover import REPLACED, replace, server_pid, wait_for_another, zone_line
from tests.support.transport import Transport
from tests.support.uring import Ring, uring_problem

pytestmark = [pytest.mark.mount, as_root]


@pytest.fixture
def mortal(stages: Stages, transport: Transport, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, which ends well and has nothing to complain of but having been replaced."""
    # Others look into it.
    for folder in (tmp_path, *tmp_path.parents):
        if os.stat(folder).st_uid == os.getuid() and folder != Path("/"):
            os.chmod(folder, 0o755)
    machine = Machine(tmp_path)
    with (
        stages.server(transport, tmp_path, "--log-level", "info", "--no-herd-control", *machine.options) as server,
        watchdog(server),
    ):
        yield server
        assert server.stop() == 0, server.log
        expected = (*REPLACED, "begins anew: ")
        assert [line for line in complaints(server) if not any(word in line for word in expected)] == []
        assert not server.device.exists()
        assert not server.mount.exists()


def test_whoever_sleeps_is_told_by_the_next_server(mortal: Server) -> None:
    with (
        opened(mortal.device) as polled,
        opened(mortal.device) as read,
        opened(mortal.device) as edge,
        select.epoll() as epoll,
    ):
        epoll.register(edge, select.EPOLLIN | select.EPOLLET)
        poller = Blocking(lambda: revents(polled, LIMIT_S))
        waiting = Blocking(lambda: epoll.poll(LIMIT_S))
        reader = Blocking(lambda: os.read(read, 4096))
        wait_for_watchers(mortal, 3)
        replace(mortal)
        assert facts(mortal)["restarts"] == "1"
        assert open_files(mortal) == 3
        wait_for_watchers(mortal, 3)
        assert not any(each.returned for each in (poller, waiting, reader)), "nobody was told of the end"
        mortal.simulate(seconds=LONG_S)
        assert poller.result() == READABLE
        assert waiting.result() == [(edge, select.EPOLLIN)]
        assert reader.result().endswith(b"\n")
        assert read_record(polled).reason == "simulated"


def test_who_polls_through_io_uring_is_told_by_the_next_server(mortal: Server) -> None:
    if problem := uring_problem():
        pytest.skip(problem)
    with opened(mortal.device) as fd, Ring() as ring:
        for _ in range(2):
            poller = Blocking(lambda: ring.poll(fd, READABLE))
            wait_for_watchers(mortal, 1)
            replace(mortal)
            wait_for_watchers(mortal, 1)
            assert not poller.returned, "nobody was told of the end"
            mortal.simulate(seconds=LONG_S)
            assert poller.result() == READABLE
            assert read_record(fd).reason == "simulated"
            mortal.simulate(seconds=0)
            wait_until(lambda: "status=1" not in mortal.status(), "the end of the simulation")


def test_an_owner_gets_the_signal_of_the_next_server(mortal: Server, new_puppet: NewPuppet) -> None:
    puppet = new_puppet()
    puppet.watch(mortal.device)
    replace(mortal)
    mortal.simulate(seconds=LONG_S)
    assert puppet.next().pid == puppet.pid


def test_a_subscriber_of_mode_strict_stays_one(
    stages: Stages, transport: Transport, tmp_path: Path, new_puppet: NewPuppet
) -> None:
    machine = Machine(tmp_path)
    options = ("--log-level", "info", "--no-herd-control", "--sigio", "strict", *machine.options)
    with stages.server(transport, tmp_path, *options) as server, watchdog(server):
        puppet = new_puppet()
        puppet.watch(server.device)
        replace(server)
        server.simulate(seconds=LONG_S)
        assert puppet.next().pid == puppet.pid
        puppet.close()
        assert server.stop() == 0, server.log


def test_a_program_that_asks_while_there_is_no_server_waits_for_the_next_one(mortal: Server) -> None:
    """Its question is with the kernel, or was received by the server that is gone, and is asked again."""
    with opened(mortal.device) as fd:
        for _ in range(5):
            before = server_pid(mortal)
            asked = [Blocking(lambda: revents(fd)) for _ in range(4)]
            os.kill(before, signal.SIGKILL)
            asked += [Blocking(lambda: revents(fd)) for _ in range(4)]
            later = Blocking(lambda: error_of(lambda: os.close(os.open(mortal.device, os.O_RDONLY | os.O_NONBLOCK))))
            assert [each.result() for each in asked] == [0] * 8
            assert later.result() == ""
            wait_for_another(mortal, before)
            wait_until(lambda: open_files(mortal) == 1, "the file that was opened meanwhile closed")
            # Fewer in a row than are taken for a crash loop.
            if int(facts(mortal)["restarts"]) == 4:
                break


def test_signals_end_those_that_wait_for_a_dead_server(mortal: Server) -> None:
    """A reader that the server before has held: the next one is asked to let it go."""
    with subprocess.Popen(["cat", str(mortal.device)], stdout=subprocess.DEVNULL) as reader:
        wait_for_watchers(mortal, 1)
        os.kill(server_pid(mortal), signal.SIGKILL)
        reader.kill()
        assert reader.wait(LIMIT_S) == -signal.SIGKILL
    wait_until(lambda: open_files(mortal) == 0, "its file closed")


def test_what_was_told_before_is_not_told_again_and_what_is_left_is_still_there(mortal: Server) -> None:
    with opened(mortal.device, os.O_NONBLOCK) as fd, opened(mortal.device) as half:
        mortal.simulate(seconds=LONG_S)
        assert revents(half, LIMIT_S) == READABLE
        start = os.read(half, 10)
        assert revents(fd, LIMIT_S) == READABLE
        record = read_record(fd)
        mortal.simulate(seconds=0)
        wait_until(lambda: "status=1" not in mortal.status(), "the end of the simulation")
        replace(mortal)
        assert revents(fd) == 0
        assert error_of(lambda: os.read(fd, 4096)) == "EAGAIN"
        rest = Record.parse(start + os.read(half, 4096))
        # On a slow machine there may be another notification between the two.
        assert rest.time_ns <= record.time_ns
        assert (rest.node, rest.zone) == (record.node, record.zone)


def test_memory_that_becomes_tight_between_two_servers_is_told_of_by_the_next(
    stages: Stages, transport: Transport, tmp_path: Path
) -> None:
    machine = Machine(tmp_path)
    options = ("--log-level", "info", "--no-herd-control", *machine.options)
    with stages.server(transport, tmp_path, *options) as server, watchdog(server), opened(server.device) as fd:
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        # It cannot look any more.
        os.kill(before := server_pid(server), signal.SIGSTOP)
        machine.tighten()
        os.kill(before, signal.SIGKILL)
        assert poller.result() == READABLE
        assert read_record(fd).reason != "simulated"
        machine.make_room()
        assert server.stop() == 0


def test_pressure_lasts_over_a_takeover_and_ends_by_the_threshold(
    stages: Stages, transport: Transport, tmp_path: Path
) -> None:
    """There is no new evidence of it, and no program is told a second time."""
    machine = Machine(tmp_path)
    options = ("--log-level", "info", *machine.options)
    with (
        stages.server(transport, tmp_path, *options) as server,
        watchdog(server),
        opened(server.device, os.O_NONBLOCK) as fd,
    ):
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(server, 1)
        machine.tighten()
        assert poller.result() == READABLE
        assert zone_of(read_record(fd)) == machine.ZONE
        wait_until(lambda: "told 1 program:" in server.log, "it logged")
        before = zone_line(server, machine.ZONE)
        assert (before["status"], before["raised"], notifications(server)) == ("1", "1", 1)
        for _ in range(2):
            replace(server)
            samples = int(facts(server)["samples"])
            wait_until(lambda: int(facts(server)["samples"]) > samples, "a sample")  # noqa: B023
            assert (zone_line(server, machine.ZONE), notifications(server)) == (before, 1)
        # A program that was not told yet is due.
        with opened(server.device, os.O_NONBLOCK) as other:
            assert revents(other) == READABLE
            assert read_record(other).time_ns == int(before["time_ns"])
        machine.make_room()
        wait_until(lambda: zone_line(server, machine.ZONE) == before | {"status": "0"}, "the end")
        assert revents(fd) == 0
        machine.tighten()
        assert revents(fd, LIMIT_S) == READABLE
        assert zone_line(server, machine.ZONE)["raised"] == "2"
        log = [line for line in server.log.splitlines() if f"INFO: {machine.ZONE}: " in line]
        assert ["clear" in line for line in log] == [False, True, False], log
        assert server.stop() == 0


def test_who_was_told_is_not_told_again_by_the_next_server(mortal: Server) -> None:
    """With so many open files the guard time is ten seconds."""
    with many_opened(mortal.device, 51) as fds:
        mortal.simulate(seconds=LONG_S)
        told_s = time.monotonic()
        assert [revents(fd, LIMIT_S) for fd in fds[:50]] == [READABLE] * 50
        for fd in fds[:50]:
            read_record(fd)
        replace(mortal)
        again = [fd for fd in fds[:50] if revents(fd)]
        assert not again or time.monotonic() - told_s > Policy().guard_max_ns / 1e9
        assert revents(fds[50]) == READABLE


def test_a_simulation_goes_on_in_the_next_server(mortal: Server) -> None:
    zone = mortal.zones[-1]
    for restart in range(1, 3):
        mortal.simulate(zone, LONG_S)
        wait_until(lambda: notifications(mortal) > restart, "a repetition")  # noqa: B023
        told = notifications(mortal)
        replace(mortal)
        assert zone_line(mortal, zone).items() >= {"status": "1", "raised": str(restart), "reason": "simulated"}.items()
        assert notifications(mortal) >= told
        with opened(mortal.device) as fd:
            assert zone_of(read_record(fd)) == zone
        wait_until(lambda: notifications(mortal) > told, "the next repetition")  # noqa: B023
        assert sum("status=1" in line for line in mortal.status().splitlines()) == 1
        mortal.simulate(seconds=0)
        wait_until(lambda: "status=1" not in mortal.status(), "the end of the simulation")


def test_a_simulation_that_ends_between_two_servers_is_over(mortal: Server) -> None:
    with opened(mortal.device, os.O_NONBLOCK) as fd:
        mortal.simulate(seconds=2.0)
        before = server_pid(mortal)
        os.kill(before, signal.SIGSTOP)
        end_s = time.monotonic() + 2.0
        while time.monotonic() < end_s:
            time.sleep(0.01)
        os.kill(before, signal.SIGKILL)
        wait_for_another(mortal, before)
        wait_until(lambda: "status=1" not in mortal.status(), "the end of the simulation")
        assert revents(fd) == 0
        mortal.simulate(seconds=LONG_S)
        assert revents(fd, LIMIT_S) == READABLE


def state_file(server: Server) -> Path:
    """The state file, by a descriptor of the keeper's."""
    for path in Path(f"/proc/{server.process.pid}/fd").iterdir():
        if "memfd:memnotify-state" in os.readlink(path):
            return path
    raise AssertionError("the keeper has no state file")


def test_what_cannot_be_gone_on_with_is_left_out(mortal: Server) -> None:
    """The server that wrote it may have been taken over."""
    with opened(mortal.device) as fd, state_file(mortal).open("r+b", 0) as state:
        mortal.simulate(seconds=LONG_S)
        wait_until(lambda: notifications(mortal) > 0, "a notification")
        os.kill(before := server_pid(mortal), signal.SIGSTOP)
        for place in range(STATE_BYTES - 2 * PRESSURE_BYTES, STATE_BYTES, PRESSURE_BYTES):
            os.pwrite(state.fileno(), b"\xff" * 200, place + 4)
        os.kill(before, signal.SIGKILL)
        wait_for_another(mortal, before)
        assert "status=1" not in mortal.status()
        assert mortal.log.count("what programs were told of memory begins anew: ") == 1
        mortal.simulate(seconds=LONG_S)
        assert revents(fd, LIMIT_S) == READABLE
        # What the next one leaves is sound again.
        replace(mortal)
        assert "status=1" in mortal.status()
        assert mortal.log.count("begins anew") == 1


def test_a_text_that_is_open_can_be_read_on(mortal: Server) -> None:
    with (
        open(mortal.mount / "status", "rb", buffering=0) as status,
        open(mortal.mount / "simulate", "wb", 0) as command,
    ):
        first = status.read(5)
        replace(mortal)
        assert (first + status.read()).count(b"\n") == mortal.status().count("\n")
        command.write(b"all 600\n")
        with opened(mortal.device) as fd:
            assert revents(fd, LIMIT_S) == READABLE


def test_the_device_of_a_zone_stays_that_of_the_zone(mortal: Server) -> None:
    zones = mortal.zones
    with opened(mortal.mount / "zones" / zones[0]) as one, opened(mortal.mount / "zones" / zones[-1]) as other:
        replace(mortal)
        mortal.simulate(zones[-1], LONG_S)
        assert revents(other, LIMIT_S) == READABLE
        assert revents(one) == 0
        assert os.listdir(mortal.mount / "zones")


ELSEWHERE = """
import os, select, subprocess, sys
device, target = sys.argv[1:]
open(target, "w").close()
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", device, target], check=True)
print("bound", flush=True)
while sys.stdin.readline():
    fd = os.open(target, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    print("asleep", flush=True)
    print(poll.poll(100_000)[0][1], flush=True)
    os.close(fd)
"""


def test_a_device_that_was_bound_into_a_container_lives_on(mortal: Server, tmp_path: Path) -> None:
    argv = ["unshare", "-m", sys.executable, "-c", ELSEWHERE, str(mortal.device), str(tmp_path / "inside")]
    container = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert container.stdin is not None
    try:
        lines = Lines(container)
        assert lines.next() == "bound"
        for _ in range(2):
            replace(mortal)
            container.stdin.write(b"\n")
            container.stdin.flush()
            assert lines.next() == "asleep"
            wait_for_watchers(mortal, 1)
            mortal.simulate(seconds=LONG_S)
            assert int(lines.next()) & select.POLLIN
            mortal.simulate(seconds=0)
            wait_until(lambda: open_files(mortal) == 0, "its file closed")
    finally:
        container.kill()
        container.communicate()


def test_a_server_that_is_stopped_is_replaced(mortal: Server) -> None:
    with opened(mortal.device) as fd:
        poller = Blocking(lambda: revents(fd, LIMIT_S))
        wait_for_watchers(mortal, 1)
        replace(mortal, signal.SIGSTOP)
        assert "the server was silent for 6." in mortal.log
        mortal.simulate(seconds=LONG_S)
        assert poller.result() == READABLE


def test_a_file_that_is_closed_meanwhile_is_forgotten(mortal: Server) -> None:
    fds = [os.open(mortal.device, os.O_RDONLY | os.O_NONBLOCK) for _ in range(20)]
    os.kill(before := server_pid(mortal), signal.SIGKILL)
    for fd in fds[:15]:
        os.close(fd)
    wait_for_another(mortal, before)
    wait_until(lambda: open_files(mortal) == 5, "15 of 20 files closed")
    replace(mortal)
    assert open_files(mortal) == 5
    for fd in fds[15:]:
        os.close(fd)
    wait_until(lambda: open_files(mortal) == 0, "all files closed")
