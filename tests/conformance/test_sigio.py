"""The same program on the device and on what the kernel itself sends SIGIO for: a FIFO, a terminal, a socket.

What agrees is one test for all of them; what cannot agree is a test that says so. docs/sigio.md has it as a table.
"""

from __future__ import annotations

import errno
import os
import signal

import pytest

from tests.support.mounted import LIMIT_S, state_of, wait_until
from tests.support.sigio import (
    BAND,
    GROUP,
    POLL_IN,
    PROCESS,
    REALTIME,
    SI_KERNEL,
    SI_SIGIO,
    SIGIO,
    THREAD,
    NewPuppet,
    Puppet,
    PuppetError,
    Source,
    as_root,
)

pytestmark = pytest.mark.mount

ALICE, BOB = 1001, 1002


def is_device(source: Source) -> bool:
    return source.name in ("device", "exact")


def sees_o_async(source: Source) -> bool:
    """The kernel's own sources do, and the device where there are kprobe events."""
    return source.name != "device"


def subscribed(source: Source, puppet: Puppet, *, number: int = REALTIME, owner: int | None = None) -> int:
    """Have `puppet` open `source` and ask for its signal, with a handler."""
    fd = source.give(puppet)
    puppet.ask("handle", number or SIGIO)
    puppet.subscribe(fd, number=number, owner=owner)
    return fd


def told_once(source: Source, *, got: Puppet, others: tuple[Puppet, ...] = ()) -> None:
    """One stimulus signals `got` exactly once, and none of `others`. The next one is told apart by waiting for it."""
    source.stimulate()
    got.next()
    source.stimulate()
    got.next()
    assert got.so_far() == []
    for other in others:
        assert other.so_far() == []


# --- what the program is told -----------------------------------------------------------------------------------------


def test_plain_sigio(source: Source, puppet: Puppet) -> None:
    fd = subscribed(source, puppet, number=0)
    source.stimulate()
    got = puppet.next()
    assert (got.number, got.pid) == (SIGIO, puppet.pid)
    if is_device(source):
        assert (got.code, got.fd, got.band) == (SI_SIGIO, fd, BAND), "says more than the kernel does"
    else:
        assert got.code == SI_KERNEL


@pytest.mark.parametrize("number", [SIGIO, int(signal.SIGUSR1), REALTIME, int(signal.SIGRTMAX)])
def test_a_signal_of_one_s_own_says_which_descriptor_and_why(number: int, source: Source, puppet: Puppet) -> None:
    fd = subscribed(source, puppet, number=number)
    source.stimulate()
    got = puppet.next()
    assert (got.number, got.fd, got.band) == (number, fd, BAND)
    assert got.code == (SI_SIGIO if is_device(source) else POLL_IN)


@pytest.mark.parametrize(("number", "count"), [(SIGIO, 1), (REALTIME, 3)])
def test_real_time_signals_are_queued_and_others_are_not(
    number: int, count: int, source: Source, puppet: Puppet
) -> None:
    puppet.ask("block", number)
    subscribed(source, puppet, number=number)
    for _ in range(3):
        source.stimulate()
    signals = puppet.number("signalfd", number)
    for _ in range(count):
        puppet.ask("readsignalfd", signals)
    assert puppet.number("take", number) == 0


def test_a_signal_for_sigwaitinfo(source: Source, puppet: Puppet) -> None:
    puppet.ask("block", REALTIME)
    fd = source.give(puppet)
    puppet.subscribe(fd, number=REALTIME)
    puppet.tell("wait", REALTIME)
    wait_until(lambda: state_of(puppet.pid) == "S", "the puppet asleep")
    source.stimulate()
    number, _, told_fd, band = map(int, puppet.reply().split())
    assert (number, told_fd, band) == (REALTIME, fd, BAND)


@pytest.mark.parametrize("number", [SIGIO, REALTIME])
def test_a_thread_that_waits_gets_the_process_s_signal(number: int, source: Source, puppet: Puppet) -> None:
    puppet.ask("block", number)
    tid = puppet.number("waitthread", number)
    fd = source.give(puppet)
    puppet.subscribe(fd, number=number)
    source.stimulate()
    assert puppet.next().tid == tid


def test_a_signal_for_signalfd(source: Source, puppet: Puppet) -> None:
    puppet.ask("block", REALTIME)
    signals = puppet.number("signalfd", REALTIME)
    fd = source.give(puppet)
    puppet.subscribe(fd, number=REALTIME)
    source.stimulate()
    number, _, told_fd, band = map(int, puppet.ask("readsignalfd", signals).split())
    assert (number, told_fd, band) == (REALTIME, fd, BAND)


def test_a_blocked_signal_comes_when_it_is_unblocked(source: Source, puppet: Puppet) -> None:
    puppet.ask("block", SIGIO)
    subscribed(source, puppet, number=0)
    signals = puppet.number("signalfd", SIGIO)
    source.stimulate()
    assert puppet.number("poll", signals, int(LIMIT_S * 1000)) == 1
    assert puppet.so_far() == []
    puppet.ask("unblock", SIGIO)
    assert puppet.next().number == SIGIO


def test_an_ignored_signal_does_nothing(source: Source, puppet: Puppet, new_puppet: NewPuppet) -> None:
    witness = new_puppet()
    puppet.ask("ignore", SIGIO)
    puppet.subscribe(source.give(puppet))
    subscribed(source, witness)
    told_once(source, got=witness, others=(puppet,))


# --- whom it is sent to -----------------------------------------------------------------------------------------------


def test_a_notification_signals_the_owner_exactly_once(source: Source, puppet: Puppet) -> None:
    subscribed(source, puppet)
    for _ in range(3):
        told_once(source, got=puppet)


def test_nobody_without_an_owner(source: Source, puppet: Puppet, new_puppet: NewPuppet) -> None:
    witness = new_puppet()
    subscribed(source, witness)
    fd = source.give(puppet)
    puppet.ask("handle", SIGIO)
    puppet.ask("async", fd, 1)
    if source.name == "pty":
        source.stimulate()
        assert puppet.next().number == SIGIO, "a terminal makes who sets O_ASYNC its owner"
    else:
        told_once(source, got=witness, others=(puppet,))


def test_another_process(source: Source, puppet: Puppet, new_puppet: NewPuppet) -> None:
    other = new_puppet()
    other.ask("handle", REALTIME)
    fd = subscribed(source, puppet, owner=other.pid)
    source.stimulate()
    assert other.next().fd == fd
    assert puppet.so_far() == []


def test_a_process_group(source: Source, new_puppet: NewPuppet) -> None:
    members = [new_puppet() for _ in range(3)]
    leader = members[0]
    for member in members:
        member.ask("setpgid", leader.pid)
        member.ask("handle", REALTIME)
    outsider = new_puppet()
    outsider.ask("handle", REALTIME)
    subscribed(source, leader, owner=-leader.pid)
    for _ in range(2):
        source.stimulate()
        assert {member.next().pid for member in members} == {member.pid for member in members}
    assert outsider.so_far() == []
    assert all(member.so_far() == [] for member in members)


@pytest.mark.parametrize("number", [0, REALTIME])
def test_a_thread(number: int, source: Source, puppet: Puppet) -> None:
    threads = [puppet.number("thread", 0) for _ in range(3)]
    puppet.ask("handle", number or SIGIO)
    fd = source.give(puppet)
    if number:
        puppet.ask("setsig", fd, number)
    puppet.ask("async", fd, 1)
    for tid in (threads[1], threads[2], puppet.pid):
        puppet.ask("setownex", fd, THREAD, tid)
        source.stimulate()
        assert puppet.next().tid == tid


@pytest.mark.parametrize("kind", [PROCESS, GROUP])
def test_the_kinds_of_f_setown_ex(kind: int, source: Source, puppet: Puppet) -> None:
    puppet.ask("setpgid", 0)
    puppet.ask("handle", REALTIME)
    fd = source.give(puppet)
    puppet.ask("setsig", fd, REALTIME)
    puppet.ask("setownex", fd, kind, puppet.pid)
    puppet.ask("async", fd, 1)
    source.stimulate()
    assert puppet.next().pid == puppet.pid


def test_no_owner_ends_it(source: Source, puppet: Puppet, new_puppet: NewPuppet) -> None:
    witness = new_puppet()
    subscribed(source, witness)
    fd = subscribed(source, puppet)
    source.stimulate()
    assert (puppet.next().pid, witness.next().pid) == (puppet.pid, witness.pid)
    puppet.ask("setown", fd, 0)
    told_once(source, got=witness, others=(puppet,))


def test_a_new_owner_is_told_from_the_next_notification_on(
    source: Source, puppet: Puppet, new_puppet: NewPuppet
) -> None:
    other = new_puppet()
    other.ask("handle", REALTIME)
    fd = subscribed(source, puppet)
    told_once(source, got=puppet, others=(other,))
    puppet.ask("setown", fd, other.pid)
    told_once(source, got=other, others=(puppet,))
    puppet.ask("setown", fd, puppet.pid)
    told_once(source, got=puppet, others=(other,))


def test_a_new_signal_is_sent_from_the_next_notification_on(source: Source, puppet: Puppet) -> None:
    fd = subscribed(source, puppet)
    for number in (REALTIME + 1, SIGIO, int(signal.SIGUSR2), REALTIME):
        puppet.ask("handle", number)
        puppet.ask("setsig", fd, number)
        source.stimulate()
        assert puppet.next().number == number


def test_an_owner_that_has_ended(source: Source, puppet: Puppet, new_puppet: NewPuppet) -> None:
    witness, owner = new_puppet(), new_puppet()
    fd = subscribed(source, puppet, owner=owner.pid)
    subscribed(source, witness)
    owner.tell("exit", 0)
    owner.process.wait(LIMIT_S)
    told_once(source, got=witness, others=(puppet,))
    # By the next notification, or still by the last one.
    puppet.ask("setown", fd, puppet.pid)
    source.stimulate()
    puppet.next()


# --- permission: sigio_perm() -----------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize(
    ("setter", "target", "allowed"),
    [
        ((ALICE, ALICE, ALICE), (ALICE, ALICE, ALICE), True),
        ((ALICE, ALICE, ALICE), (BOB, BOB, BOB), False),
        ((ALICE, ALICE, ALICE), (0, 0, 0), False),
        ((0, 0, 0), (ALICE, ALICE, ALICE), True),
        # Of the one who asks, the real and the effective user count; of the one who is asked, the real and the saved.
        ((ALICE, BOB, BOB), (BOB, BOB, BOB), True),
        ((BOB, ALICE, ALICE), (BOB, BOB, BOB), True),
        ((ALICE, ALICE, BOB), (BOB, BOB, BOB), False),
        ((ALICE, ALICE, ALICE), (ALICE, BOB, BOB), True),
        ((ALICE, ALICE, ALICE), (BOB, BOB, ALICE), True),
        ((ALICE, ALICE, ALICE), (BOB, ALICE, BOB), False),
        ((ALICE, 0, 0), (BOB, BOB, BOB), True),
        ((0, ALICE, ALICE), (BOB, BOB, BOB), False),
    ],
)
def test_who_may_have_whom_signalled(
    setter: tuple[int, int, int],
    target: tuple[int, int, int],
    allowed: bool,
    source: Source,
    puppet: Puppet,
    new_puppet: NewPuppet,
) -> None:
    witness, other = new_puppet(), new_puppet()
    other.ask("handle", REALTIME)
    other.ask("setresuid", *target)
    fd = source.give(puppet)
    puppet.ask("setresuid", *setter)
    puppet.subscribe(fd, number=REALTIME, owner=other.pid)
    if allowed:
        told_once(source, got=other)
    else:
        subscribed(source, witness)
        told_once(source, got=witness, others=(other,))


@as_root
def test_those_of_a_group_who_may_be_signalled_are(source: Source, puppet: Puppet, new_puppet: NewPuppet) -> None:
    alice, bob = new_puppet(), new_puppet()
    for member, uid in ((alice, ALICE), (bob, BOB)):
        member.ask("setpgid", alice.pid)
        member.ask("handle", REALTIME)
        member.ask("setresuid", uid, uid, uid)
    fd = source.give(puppet)
    puppet.ask("setresuid", ALICE, ALICE, ALICE)
    puppet.subscribe(fd, number=REALTIME, owner=-alice.pid)
    told_once(source, got=alice, others=(bob,))


# --- how long it lasts ------------------------------------------------------------------------------------------------


def test_close_ends_it(source: Source, puppet: Puppet, new_puppet: NewPuppet) -> None:
    witness = new_puppet()
    subscribed(source, witness)
    fd = subscribed(source, puppet)
    source.stimulate()
    assert (puppet.next().fd, witness.next().pid) == (fd, witness.pid)
    puppet.ask("close", fd)
    told_once(source, got=witness, others=(puppet,))


def test_a_duplicate_keeps_it_and_one_file_signals_once(source: Source, puppet: Puppet) -> None:
    fd = subscribed(source, puppet)
    copies = [puppet.number("dup", fd) for _ in range(5)]
    told_once(source, got=puppet)
    puppet.ask("close", fd)
    for copy in copies[:-1]:
        puppet.ask("close", copy)
    told_once(source, got=puppet)


def test_a_child_keeps_it_when_its_parent_has_ended(source: Source, puppet: Puppet) -> None:
    fd = subscribed(source, puppet)
    child = puppet.number("fork")
    puppet.ask("setown", fd, child)
    puppet.tell("exit", 0)
    puppet.process.wait(LIMIT_S)
    try:
        for _ in range(2):
            source.stimulate()
            got = puppet.next()
            assert (got.pid, got.fd) == (child, fd)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_that_shares_the_file_changes_nothing(source: Source, puppet: Puppet) -> None:
    subscribed(source, puppet)
    child = puppet.number("fork")
    try:
        told_once(source, got=puppet)
    finally:
        os.kill(child, signal.SIGKILL)
    told_once(source, got=puppet)


def test_a_program_keeps_it_over_exec(source: Source, puppet: Puppet) -> None:
    """What is caught is not any more after exec, but what is blocked is."""
    puppet.ask("block", REALTIME)
    fd = subscribed(source, puppet)
    puppet.ask("exec")
    signals = puppet.number("signalfd", REALTIME)
    source.stimulate()
    number, _, told_fd, _ = map(int, puppet.ask("readsignalfd", signals).split())
    assert (number, told_fd) == (REALTIME, fd)


# --- where they differ ------------------------------------------------------------------------------------------------


def test_a_process_by_the_id_of_one_of_its_threads(source: Source, puppet: Puppet, new_puppet: NewPuppet) -> None:
    """F_SETOWN with gettid() means the thread's process to the kernel, but it tells nobody who asks for the owner.

    Linux, fs/fcntl.c: send_sigio() looks for a thread, f_getown_ex() for a process.
    """
    tid = puppet.number("thread", 0)
    subscribed(source, puppet, owner=tid)
    if is_device(source):
        witness = new_puppet()
        subscribed(source, witness)
        told_once(source, got=witness, others=(puppet,))
    else:
        source.stimulate()
        assert puppet.next().pid == puppet.pid


def test_default_disposition(source: Source, puppet: Puppet, new_puppet: NewPuppet) -> None:
    """A program that would die of SIGIO is spared by the device where that cannot see whether it wanted it."""
    witness = new_puppet()
    subscribed(source, witness)
    puppet.subscribe(source.give(puppet))
    told_once(source, got=witness)
    if sees_o_async(source):
        assert puppet.process.wait(LIMIT_S) == -SIGIO
    else:
        puppet.ask("pid")


def test_o_async_can_be_seen(source: Source, puppet: Puppet) -> None:
    fd = subscribed(source, puppet)
    assert puppet.number("getasync", fd) == (0 if is_device(source) else 1)


def test_o_async_cleared(source: Source, puppet: Puppet, new_puppet: NewPuppet) -> None:
    witness = new_puppet()
    subscribed(source, witness)
    fd = subscribed(source, puppet)
    puppet.ask("async", fd, 0)
    if sees_o_async(source):
        told_once(source, got=witness, others=(puppet,))
    else:
        told_once(source, got=puppet)


def test_fioasync(source: Source, puppet: Puppet) -> None:
    fd = source.give(puppet)
    puppet.ask("handle", SIGIO)
    puppet.ask("setown", fd, puppet.pid)
    if is_device(source):
        with pytest.raises(PuppetError, match=errno.errorcode[errno.ENOTTY]):
            puppet.ask("fioasync", fd, 1)
    else:
        puppet.ask("fioasync", fd, 1)
    source.stimulate()
    assert puppet.next().number == SIGIO


def test_a_descriptor_that_moved(source: Source, puppet: Puppet) -> None:
    """The kernel goes on naming the descriptor that O_ASYNC was set on, and so does the device where it sees that; else
    it names one that the program has.
    """
    fd = subscribed(source, puppet)
    source.stimulate()
    assert puppet.next().fd == fd
    puppet.ask("dup2", fd, 77)
    puppet.ask("close", fd)
    source.stimulate()
    assert puppet.next().fd == (fd if sees_o_async(source) else 77)


def test_the_descriptor_of_the_process_that_is_signalled(source: Source, puppet: Puppet) -> None:
    """The number is the one in the process that is signalled, where it has the file."""
    fd = subscribed(source, puppet)
    child = puppet.number("fork")
    puppet.ask("setown", fd, child)
    puppet.ask("dup2", fd, 88)
    puppet.ask("close", fd)
    try:
        source.stimulate()
        got = puppet.next()
        assert (got.pid, got.fd) == (child, fd)
    finally:
        os.kill(child, signal.SIGKILL)
