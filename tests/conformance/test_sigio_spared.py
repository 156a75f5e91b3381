"""In mode `owner` a program that would die of the signal is never sent it. docs/sigio.md says why."""

from __future__ import annotations

import signal

import pytest

from tests.support.mounted import LIMIT_S, state_of, wait_until
from tests.support.server import Server
from tests.support.sigio import GROUP, PROCESS, REALTIME, SIGIO, THREAD, NewPuppet, Puppet, Witness, notifying
from tests.support.stage import TELLS_ALL, Setup

pytestmark = pytest.mark.mount


@pytest.fixture
def needs() -> Setup:
    return TELLS_ALL


def is_spared(puppet: Puppet) -> bool:
    """Whether it is alive after all that was sent to it."""
    got = puppet.so_far()
    assert got == []
    return puppet.alive


@pytest.mark.parametrize("number", [0, SIGIO, int(signal.SIGUSR1), int(signal.SIGTERM), REALTIME])
def test_the_default_disposition(number: int, server: Server, puppet: Puppet, witness: Witness) -> None:
    fd = puppet.number("open", server.device)
    puppet.subscribe(fd, number=number)
    witness.sees_notifications()
    assert is_spared(puppet)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP])
def test_signals_that_end_or_stop_any_program(
    number: signal.Signals, server: Server, puppet: Puppet, witness: Witness
) -> None:
    puppet.subscribe(puppet.number("open", server.device), number=number)
    witness.sees_notifications()
    assert is_spared(puppet)


def test_those_of_a_group_that_would_die(server: Server, new_puppet: NewPuppet) -> None:
    deaf, handles = new_puppet(), new_puppet()
    deaf.ask("setpgid", 0)
    handles.ask("setpgid", deaf.pid)
    handles.watch(server.device, owner=-deaf.pid)
    server.simulate(seconds=LIMIT_S)
    for _ in range(3):
        assert handles.next().pid == handles.pid
    server.simulate(seconds=0)
    assert is_spared(deaf)


def test_a_handler_that_comes_later_is_told_and_one_that_goes_is_not(
    server: Server, puppet: Puppet, witness: Witness
) -> None:
    fd = puppet.number("open", server.device)
    puppet.subscribe(fd)
    witness.sees_notifications()
    assert is_spared(puppet)
    puppet.ask("handle", SIGIO)
    server.simulate(seconds=LIMIT_S)
    assert puppet.next().number == SIGIO
    server.simulate(seconds=0)
    # Nothing may be on its way at the moment when the handler goes: that would be as deadly as it ever was.
    puppet.ask("setown", fd, 0)
    witness.sees_notifications()
    puppet.ask("default", SIGIO)
    puppet.so_far()
    puppet.ask("setown", fd, puppet.pid)
    witness.sees_notifications()
    assert is_spared(puppet)


def test_exec_resets_the_handler(server: Server, puppet: Puppet, witness: Witness) -> None:
    fd = puppet.watch(server.device)
    server.simulate(seconds=LIMIT_S)
    puppet.next()
    server.simulate(seconds=0)
    puppet.ask("setown", fd, 0)
    witness.sees_notifications()
    puppet.ask("exec")
    puppet.so_far()
    puppet.ask("setown", fd, puppet.pid)
    witness.sees_notifications()
    assert is_spared(puppet)


@pytest.mark.parametrize("number", [0, REALTIME])
def test_blocked_in_one_thread_and_open_in_another(
    number: int, server: Server, puppet: Puppet, witness: Witness
) -> None:
    """A signal to the process is any thread's that does not block it."""
    puppet.number("thread", 0)
    puppet.ask("block", number or SIGIO)
    puppet.subscribe(puppet.number("open", server.device), number=number)
    witness.sees_notifications()
    assert is_spared(puppet)


def test_blocked_in_the_thread_that_is_the_owner_is_enough(server: Server, puppet: Puppet) -> None:
    puppet.number("thread", 0)
    puppet.ask("block", SIGIO)
    fd = puppet.number("open", server.device)
    signals = puppet.number("signalfd", SIGIO)
    puppet.ask("setownex", fd, THREAD, puppet.pid)
    server.simulate(seconds=LIMIT_S)
    assert puppet.ask("readsignalfd", signals).split()[0] == str(SIGIO)


def test_a_thread_that_does_not_block_it_as_the_owner(server: Server, puppet: Puppet, witness: Witness) -> None:
    tid = puppet.number("thread", 0)
    puppet.ask("block", SIGIO)
    puppet.ask("setownex", puppet.number("open", server.device), THREAD, tid)
    witness.sees_notifications()
    assert is_spared(puppet)


@pytest.mark.parametrize("kind", [PROCESS, GROUP])
def test_the_fall_back_to_sigio_when_the_queue_is_full(
    kind: int, server: Server, puppet: Puppet, witness: Witness
) -> None:
    """The kernel sends SIGIO when a real-time signal cannot be queued: a program may handle only the one."""
    puppet.ask("setpgid", 0)
    puppet.ask("handle", REALTIME)
    fd = puppet.number("open", server.device)
    puppet.ask("setsig", fd, REALTIME)
    puppet.ask("setownex", fd, kind, puppet.pid)
    puppet.ask("sigpending", 0)
    witness.sees_notifications()
    assert is_spared(puppet)


def test_the_fall_back_reaches_a_program_that_handles_it(server: Server, puppet: Puppet) -> None:
    puppet.ask("handle", SIGIO)
    puppet.watch(server.device, number=REALTIME)
    puppet.ask("sigpending", 0)
    server.simulate(seconds=LIMIT_S)
    assert puppet.next().number == SIGIO


def test_a_library_that_blocks_everything_for_a_moment(server: Server, puppet: Puppet, witness: Witness) -> None:
    """As in fork and posix_spawn: once it has unblocked everything, the signal would still end the program."""
    puppet.subscribe(puppet.number("open", server.device))
    puppet.ask("blockall")
    witness.sees_notifications()
    puppet.ask("unblockall")
    assert is_spared(puppet)


def test_a_program_that_waits_for_it_in_sigwaitinfo(server: Server, puppet: Puppet) -> None:
    """During the wait the signal looks neither blocked nor caught."""
    puppet.subscribe(puppet.number("open", server.device))
    puppet.ask("block", SIGIO)
    puppet.tell("wait", SIGIO)
    wait_until(lambda: state_of(puppet.pid) == "S", "the puppet asleep")
    server.simulate(seconds=LIMIT_S)
    assert puppet.reply().split()[0] == str(SIGIO)


def test_a_program_that_blocks_the_signal_and_waits_for_another(
    server: Server, puppet: Puppet, witness: Witness
) -> None:
    puppet.subscribe(puppet.number("open", server.device))
    puppet.ask("block", SIGIO)
    puppet.ask("block", REALTIME)
    puppet.tell("wait", REALTIME)
    wait_until(lambda: state_of(puppet.pid) == "S", "the puppet asleep")
    witness.sees_notifications()
    puppet.process.send_signal(REALTIME)
    assert puppet.reply().split()[0] == str(REALTIME)
    assert puppet.alive


def test_a_program_that_waits_for_another_signal_is_taken_to_wait_for_this_one(server: Server, puppet: Puppet) -> None:
    """Which signals a thread waits for stands in its memory only, and that is not read: it can be a trap."""
    puppet.subscribe(puppet.number("open", server.device))
    puppet.ask("block", REALTIME)
    puppet.tell("wait", REALTIME)
    wait_until(lambda: state_of(puppet.pid) == "S", "the puppet asleep")
    with notifying(server):
        assert puppet.process.wait(LIMIT_S) == -SIGIO
