"""serve --sigio auto where the kernel has kprobe events: O_ASYNC counts as it would for the kernel's own sources.

What agrees with those is in `test_sigio`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from pathlib import Path

import pytest

from memnotify_cuse.kernel.kprobes import EVENTS_FILE, event_name
from memnotify_cuse.kernel.tracefs import find_tracefs, instance_name
from tests.support.mounted import LIMIT_S, Machine, facts, opened, watchdog
from tests.support.server import Server
from tests.support.sigio import (
    REALTIME,
    SIGIO,
    NewPuppet,
    Puppet,
    PuppetError,
    Witness,
    needs_kprobes,
    notify_once,
    notifying,
    pass_descriptor,
)
from tests.support.stage import EXACT, Setup, Stages
from tests.support.takeover import replace
from tests.support.transport import Transport

pytestmark = pytest.mark.mount


@pytest.fixture
def needs() -> Setup:
    needs_kprobes()
    return EXACT


def is_left_alone(puppet: Puppet, witness: Witness) -> bool:
    """Whether it gets no signal by notifications of which others are told."""
    witness.sees_notifications(1)
    puppet.so_far()
    witness.sees_notifications()
    return puppet.so_far() == []


def kprobe_events() -> str:
    tracefs = find_tracefs()
    assert tracefs is not None
    return (tracefs / EVENTS_FILE).read_text()


def test_it_is_said_that_o_async_is_seen(server: Server) -> None:
    assert (facts(server)["sigio"], facts(server)["o_async"]) == ("auto", "kprobe")


def test_set_cleared_and_set_again(server: Server, puppet: Puppet, witness: Witness) -> None:
    fd = puppet.watch(server.device)
    for _ in range(3):
        with notifying(server):
            assert puppet.next().fd == fd
        puppet.ask("async", fd, 0)
        assert is_left_alone(puppet, witness)
        puppet.ask("async", fd, 1)


def test_an_owner_alone_is_signalled(server: Server, puppet: Puppet) -> None:
    """Claws Mail's call of F_SETFL has been mistyped since 2008."""
    fd = puppet.number("open", server.device)
    puppet.ask("setown", fd, puppet.pid)
    puppet.ask("handle", SIGIO)
    with notifying(server):
        assert puppet.next().fd == fd


def test_an_owner_alone_that_would_die_is_spared(server: Server, puppet: Puppet, witness: Witness) -> None:
    puppet.ask("setown", puppet.number("open", server.device), puppet.pid)
    witness.sees_notifications()
    puppet.ask("pid")


def test_other_flags_do_not_clear_what_was_never_set(server: Server, puppet: Puppet) -> None:
    fd = puppet.number("open", server.device)
    puppet.ask("handle", SIGIO)
    puppet.ask("setown", fd, puppet.pid)
    puppet.ask("async", fd, 0)
    with notifying(server):
        assert puppet.next().fd == fd


def test_a_program_that_asked_for_it_dies_as_it_would(server: Server, puppet: Puppet) -> None:
    puppet.subscribe(puppet.number("open", server.device))
    with notifying(server):
        assert puppet.process.wait(LIMIT_S) == -SIGIO


def test_a_program_that_clears_o_async_may_take_its_handler_away(server: Server, puppet: Puppet) -> None:
    """The kernel sends nothing once F_SETFL has returned: no signal that was decided on before may come after."""
    fd = puppet.number("open", server.device)
    puppet.ask("setown", fd, puppet.pid)
    with notifying(server):
        for _ in range(20):
            puppet.ask("handle", SIGIO)
            puppet.ask("async", fd, 1)
            puppet.next()
            puppet.ask("async", fd, 0)
            puppet.ask("default", SIGIO)
    puppet.ask("pid")


def test_by_another_process_that_shares_the_file(
    server: Server, new_puppet: NewPuppet, witness: Witness, open_directory: Path
) -> None:
    one, other = new_puppet(), new_puppet()
    for _ in range(7):
        other.number("open", "/dev/null")
    with opened(server.device) as ours:
        fds = [pass_descriptor(ours, each, open_directory / "socket") for each in (one, other)]
    one.ask("handle", SIGIO)
    one.ask("setown", fds[0], one.pid)
    other.ask("async", fds[1], 1)
    with notifying(server):
        assert one.next().fd == fds[0]
    other.ask("async", fds[1], 0)
    assert is_left_alone(one, witness)
    other.ask("async", fds[1], 1)
    with notifying(server):
        assert one.next().fd == fds[0]


def test_by_a_child_and_through_a_duplicate(server: Server, puppet: Puppet, witness: Witness) -> None:
    fd = puppet.watch(server.device)
    copy = puppet.number("dup", fd)
    puppet.ask("async", copy, 0)
    assert is_left_alone(puppet, witness)
    puppet.ask("async", copy, 1)
    puppet.ask("close", fd)
    with notifying(server):
        assert puppet.next().number == SIGIO


def test_by_a_program_of_32_bits(server: Server, puppet: Puppet, witness: Witness) -> None:
    fd = puppet.watch(server.device)
    try:
        puppet.ask("async32", fd, 0)
    except PuppetError as error:
        pytest.skip(f"no system calls of 32 bits here: {error}")
    assert is_left_alone(puppet, witness)
    puppet.ask("async32", fd, 1)
    with notifying(server):
        assert puppet.next().fd == fd


def test_a_file_on_its_way_through_a_socket_signals_its_owner(
    server: Server, machine: Machine, puppet: Puppet, open_directory: Path
) -> None:
    """Nobody holds it, but the kernel has it, and all is known of it."""
    puppet.ask("handle", REALTIME)
    fd = puppet.watch(server.device, number=REALTIME)
    notify_once(server, machine)
    puppet.next()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(open_directory / "socket"))
        listening.listen()
        connected = puppet.number("connect", open_directory / "socket")
        by, _ = listening.accept()
    with by:
        puppet.ask("pass", connected, fd)
        puppet.ask("close", fd)
        notify_once(server, machine)
        assert puppet.next().number == REALTIME


def test_a_closed_file_s_pointer_is_another_file_s(server: Server, puppet: Puppet, witness: Witness) -> None:
    """What was set on the one does not count for the other, which the kernel gives the same place soon."""
    puppet.ask("handle", SIGIO)
    for _ in range(50):
        puppet.ask("close", puppet.watch(server.device))
    fds = [puppet.number("open", server.device) for _ in range(10)]
    for fd in fds:
        puppet.ask("async", fd, 1)
    assert is_left_alone(puppet, witness), "none of them has an owner"
    puppet.ask("setown", fds[3], puppet.pid)
    with notifying(server):
        assert {puppet.next().fd for _ in range(3)} == {fds[3]}


def test_o_async_of_other_files_does_not_matter(server: Server, puppet: Puppet, witness: Witness) -> None:
    fd = puppet.watch(server.device)
    null = puppet.number("open", "/dev/null")
    puppet.ask("async", null, 1)
    puppet.ask("async", null, 0)
    with notifying(server):
        assert puppet.next().fd == fd
    puppet.ask("async", fd, 0)
    puppet.ask("async", null, 1)
    assert is_left_alone(puppet, witness)


def test_calls_that_are_lost_leave_it_as_with_an_owner_alone(server: Server, puppet: Puppet) -> None:
    """Some program calls fcntl faster than the calls are read."""
    fd = puppet.watch(server.device)
    loop = os.fork()
    if not loop:
        null = os.open("/dev/null", os.O_RDONLY)
        while True:
            fcntl.fcntl(null, fcntl.F_SETFL, 0)
    try:
        with notifying(server):
            for _ in range(5):
                assert puppet.next().fd == fd
    finally:
        os.kill(loop, signal.SIGKILL)
        os.waitpid(loop, 0)


def test_the_next_server_goes_on(
    stages: Stages, transport: Transport, tmp_path: Path, new_puppet: NewPuppet, needs: Setup
) -> None:
    """It does not know what was set, until it is set again."""
    machine = Machine(tmp_path)
    options = ("--log-level", "info", *needs.options, *machine.options)
    with stages.server(transport, tmp_path, *options) as server, watchdog(server):
        puppet, other = new_puppet(), new_puppet()
        fd, other_fd = (each.watch(server.device) for each in (puppet, other))
        for _ in range(2):
            with notifying(server):
                assert (puppet.next().fd, other.next().fd) == (fd, other_fd)
            replace(server)
        assert facts(server)["o_async"] == "kprobe"
        other.ask("async", other_fd, 1)
        other.ask("async", other_fd, 0)
        with notifying(server):
            assert puppet.next().fd == fd
            other.so_far()
            for _ in range(3):
                assert puppet.next().fd == fd
        assert other.so_far() == []
        puppet.close()
        other.close()
        assert server.stop() == 0, server.log


def test_two_servers_do_not_disturb_each_other(
    stages: Stages, transport: Transport, tmp_path: Path, server: Server, puppet: Puppet, witness: Witness
) -> None:
    machine = Machine(tmp_path)
    with stages.server(transport, tmp_path, "--log-level", "info", *EXACT.options, *machine.options) as second:
        one, two = (event_name(each.process.pid) for each in (server, second))
        assert all(name in kprobe_events() for name in (one, two))
        fd, other = puppet.watch(server.device), puppet.watch(second.device)
        puppet.ask("async", other, 0)
        puppet.ask("handle", REALTIME)
        puppet.ask("setsig", fd, REALTIME)
        with notifying(server), notifying(second):
            for _ in range(3):
                assert (got := puppet.next()).number == REALTIME, got
        puppet.ask("close", other)
        assert second.stop() == 0, second.log
    assert one in kprobe_events()
    assert two not in kprobe_events()
    puppet.ask("async", fd, 0)
    puppet.so_far()
    assert is_left_alone(puppet, witness)


def test_what_a_killed_server_leaves_is_removed_by_the_next(
    stages: Stages, transport: Transport, tmp_path: Path, needs: Setup
) -> None:
    tracefs = find_tracefs()
    assert tracefs is not None
    for directory in (tmp_path / "one", tmp_path / "two"):
        directory.mkdir()
    machine = Machine(tmp_path)
    options = (*needs.options, *machine.options)
    killed = stages.server(transport, tmp_path / "one", *options)
    name = event_name(killed.process.pid)
    killed.kill()
    assert name in kprobe_events()
    with stages.server(transport, tmp_path / "two", *options) as server:
        assert facts(server)["o_async"] == "kprobe"
        assert name not in kprobe_events()
        name = event_name(server.process.pid)
        assert server.stop() == 0
    assert name not in kprobe_events()
    instances = [path.name for path in (tracefs / "instances").iterdir()]
    assert not {instance_name(pid, "kprobe") for pid in (killed.process.pid, server.process.pid)} & set(instances)
