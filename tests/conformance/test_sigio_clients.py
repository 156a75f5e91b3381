"""Clients that move, stop, end or hide, one notification at a time; what others do harms nobody."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.support.hungfile import HungFile
from tests.support.mounted import LIMIT_S, Machine, many_opened, open_files, opened, state_of, wait_until
from tests.support.server import Server
from tests.support.sigio import (
    REALTIME,
    SIGIO,
    THREAD,
    NewPuppet,
    Puppet,
    Witness,
    as_root,
    notify_once,
    notify_until_told,
    notifying,
    pass_descriptor,
)
from tests.support.stage import TELLS_ALL, Setup

pytestmark = pytest.mark.mount

MANY = 10_000
ROUNDS = 40


@pytest.fixture
def needs() -> Setup:
    return TELLS_ALL


def test_ten_thousand_descriptors_of_which_one_moves(server: Server, machine: Machine, puppet: Puppet) -> None:
    puppet.ask("nofile", MANY + 10)
    fd = puppet.watch(server.device, number=REALTIME)
    puppet.ask("fill", MANY)
    notify_once(server, machine)
    assert puppet.next().fd == fd
    for before, after in ((fd, MANY + 5), (MANY + 5, MANY // 2), (MANY // 2, fd)):
        puppet.ask("dup2", before, after)
        puppet.ask("close", before)
        for _ in range(2):
            notify_once(server, machine)
            assert puppet.next().fd == after


def test_a_descriptor_that_was_passed_on_and_its_sender_ended(
    server: Server, machine: Machine, new_puppet: NewPuppet, open_directory: Path
) -> None:
    """SCM_RIGHTS: neither a descendant of who opened the file, nor the same number."""
    sender, receiver = new_puppet(), new_puppet()
    with opened(server.device) as ours:
        sender_fd = pass_descriptor(ours, sender, open_directory / "socket")
        receiver.number("open", "/dev/null")
        receiver_fd = pass_descriptor(ours, receiver, open_directory / "socket")
    sender.ask("handle", REALTIME)
    receiver.ask("handle", REALTIME)
    sender.subscribe(sender_fd, number=REALTIME)
    assert {got.fd for got in notify_until_told(server, machine, sender)} == {sender_fd}
    assert receiver.so_far() == []
    receiver.ask("setown", receiver_fd, receiver.pid)
    assert {got.fd for got in notify_until_told(server, machine, receiver)} == {receiver_fd}
    # A signal of the notifications before may have been on its way.
    sender.so_far()
    assert {got.fd for got in notify_until_told(server, machine, receiver)} == {receiver_fd}
    assert sender.so_far() == []
    sender.close()
    assert {got.fd for got in notify_until_told(server, machine, receiver)} == {receiver_fd}


def test_the_descriptor_of_an_owner_that_got_the_file_later(
    server: Server, machine: Machine, new_puppet: NewPuppet, open_directory: Path
) -> None:
    """An owner that has no descriptor of the file is told the holder's, and its own once it has one."""
    holder, owner = new_puppet(), new_puppet()
    owner.ask("handle", REALTIME)
    with opened(server.device) as ours:
        holder_fd = pass_descriptor(ours, holder, open_directory / "socket")
        holder.subscribe(holder_fd, number=REALTIME, owner=owner.pid)
        notify_once(server, machine)
        owner.next()
        for _ in range(5):
            owner.number("open", "/dev/null")
        owner_fd = pass_descriptor(ours, owner, open_directory / "socket")
    # Looked for again now and then, not at each notification.
    told: list[int] = []
    while owner_fd not in told:
        assert len(told) < 20
        notify_once(server, machine)
        told.append(owner.next().fd)
    assert set(told) <= {holder_fd, owner_fd}


def test_the_descriptor_of_a_thread_s_process(
    server: Server, machine: Machine, new_puppet: NewPuppet, open_directory: Path
) -> None:
    holder, owner = new_puppet(), new_puppet()
    owner.ask("handle", REALTIME)
    tid = owner.number("thread", 0)
    for _ in range(5):
        owner.number("open", "/dev/null")
    with opened(server.device) as ours:
        holder_fd = pass_descriptor(ours, holder, open_directory / "socket")
        owner_fd = pass_descriptor(ours, owner, open_directory / "socket")
    holder.ask("setsig", holder_fd, REALTIME)
    holder.ask("setownex", holder_fd, THREAD, tid)
    got = notify_until_told(server, machine, owner)[0]
    assert (got.tid, got.fd) == (tid, owner_fd)


def test_a_stopped_client_holds_up_nobody_and_is_told_when_it_goes_on(
    server: Server, machine: Machine, new_puppet: NewPuppet
) -> None:
    stopped, other = new_puppet(), new_puppet()
    for each in (stopped, other):
        each.watch(server.device, number=REALTIME)
    stopped.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state_of(stopped.pid) == "T", "the puppet stopped")
    for _ in range(2):
        notify_once(server, machine)
        other.next()
    stopped.process.send_signal(signal.SIGCONT)
    assert [stopped.next().number for _ in range(2)] == [REALTIME] * 2


def test_clients_that_end_during_notifications(server: Server, new_puppet: NewPuppet, witness: Witness) -> None:
    server.simulate(seconds=LIMIT_S)
    for number in range(ROUNDS):
        client = new_puppet()
        client.watch(server.device, number=REALTIME)
        if number % 4 == 0:
            client.next()
        client.tell("exit", 0)
        assert client.process.wait(LIMIT_S) == 0
    witness.sees_notifications()
    wait_until(lambda: open_files(server) == 1, "only the witness's file open")


def test_a_client_that_execs_during_notifications(server: Server, puppet: Puppet, witness: Witness) -> None:
    """Each exec takes its handler away until it installs it again.

    It blocks the signal meanwhile, as it would have to with the kernel's own: nobody can look and send in one go.
    """
    fd = puppet.watch(server.device)
    server.simulate(seconds=LIMIT_S)
    for _ in range(ROUNDS):
        puppet.ask("block", SIGIO)
        puppet.ask("exec")
        puppet.ask("setown", fd, puppet.pid)
        puppet.ask("handle", SIGIO)
        puppet.ask("unblock", SIGIO)
    assert puppet.next().fd == fd
    witness.sees_notifications()


def test_a_client_that_closes_and_opens_during_notifications(server: Server, puppet: Puppet, witness: Witness) -> None:
    server.simulate(seconds=LIMIT_S)
    for _ in range(ROUNDS):
        puppet.ask("close", puppet.watch(server.device, number=REALTIME))
    fd = puppet.watch(server.device, number=REALTIME)
    puppet.so_far()
    assert puppet.next().fd == fd
    witness.sees_notifications()


def test_a_descriptor_whose_number_is_another_file_s_by_now(server: Server, machine: Machine, puppet: Puppet) -> None:
    fd = puppet.watch(server.device, number=REALTIME)
    other = puppet.watch(server.device, number=REALTIME + 1)
    notify_once(server, machine)
    assert {(got.number, got.fd) for got in (puppet.next(), puppet.next())} == {(REALTIME, fd), (REALTIME + 1, other)}
    puppet.ask("dup2", fd, 90)
    puppet.ask("dup2", other, fd)
    puppet.ask("close", other)
    notify_once(server, machine)
    assert {(got.number, got.fd) for got in (puppet.next(), puppet.next())} == {(REALTIME, 90), (REALTIME + 1, fd)}


def test_a_file_on_its_way_through_a_socket_is_told_when_it_arrives(
    server: Server, machine: Machine, puppet: Puppet, open_directory: Path
) -> None:
    """While nobody holds it, nobody can be asked who its owner is; the kernel would know."""
    path = open_directory / "socket"
    puppet.ask("handle", REALTIME)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        connected = puppet.number("connect", path)
        by, _ = listening.accept()
    with by:
        with opened(server.device) as ours:
            socket.send_fds(by, [b"x"], [ours])
        notify_once(server, machine)
        fd = puppet.number("receive", connected)
    puppet.subscribe(fd, number=REALTIME)
    assert notify_until_told(server, machine, puppet)[0].fd == fd


def test_a_program_whose_first_thread_has_ended(server: Server, machine: Machine, new_puppet: NewPuppet) -> None:
    """Its descriptors can be reached no more (before Linux 6.9); it gets nothing, and harms nobody."""
    puppet, other = new_puppet(), new_puppet()
    puppet.ask("block", SIGIO)
    puppet.watch(server.device)
    puppet.number("waitthread", SIGIO)
    other.watch(server.device)
    puppet.ask("endthread")
    wait_until(lambda: state_of(puppet.pid) == "Z", "the first thread ended")
    for _ in range(2):
        notify_once(server, machine)
        other.next()


@as_root
def test_a_client_in_a_pid_namespace_of_its_own(server: Server, machine: Machine, puppet: Puppet) -> None:
    """Its own process id is 1 there, and another one for the server."""
    assert puppet.number("newpid") == 1
    fd = puppet.watch(server.device, number=REALTIME, owner=1)
    for _ in range(2):
        notify_once(server, machine)
        got = puppet.next()
        assert (got.pid, got.fd) == (1, fd)
    puppet.ask("setown", fd, -1)
    puppet.ask("setpgid", 0)
    puppet.ask("setown", fd, -1)
    notify_once(server, machine)
    assert puppet.next().pid == 1


@as_root
def test_the_first_process_of_a_pid_namespace_survives_its_default_disposition(
    server: Server, puppet: Puppet, witness: Witness
) -> None:
    assert puppet.number("newpid") == 1
    puppet.subscribe(puppet.number("open", server.device), owner=1)
    witness.sees_notifications()
    assert puppet.so_far() == []


@as_root
def test_a_client_with_a_file_on_a_file_system_that_does_not_answer(
    server: Server, machine: Machine, new_puppet: NewPuppet, open_directory: Path
) -> None:
    """Looking for its descriptor must not wait for somebody else's file system, which any user may have one of."""
    with HungFile(open_directory / "hung") as hung:
        client, other = new_puppet(), new_puppet()
        client.number("open", hung.path)
        fd = client.watch(server.device, number=REALTIME)
        other.watch(server.device, number=REALTIME)
        notify_once(server, machine)
        assert client.next().fd == fd
        other.next()
        assert not hung.asked


def test_many_files_on_their_way_through_sockets(server: Server, puppet: Puppet) -> None:
    """Files that nobody holds cannot be found; that they are looked for must not keep others from being told."""
    fd = puppet.watch(server.device)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(4):
            with many_opened(server.device, 250) as fds:
                socket.send_fds(ours, [b"x"], fds)
        with notifying(server):
            assert puppet.next().fd == fd
    wait_until(lambda: open_files(server) == 1, "only the client's file open")
