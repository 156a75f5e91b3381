"""From an owner to a signal: real processes, and the owner of a pipe, which the kernel keeps as it does a device's."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from memnotify_cuse.fasync import deliver
from memnotify_cuse.fasync.attention import Attention, make_page
from memnotify_cuse.fasync.deliver import BAND, Delivery, NoOwnerError, Sent
from memnotify_cuse.fasync.look import Looker, by_device
from memnotify_cuse.keeper.children import fork
from memnotify_cuse.kernel import fileowner
from memnotify_cuse.kernel.capabilities import become_user
from memnotify_cuse.kernel.fileowner import FileOwner
from tests.support.mounted import LIMIT_S, state_of, wait_until
from tests.support.sigio import GROUP, REALTIME, SI_SIGIO, SIGIO, THREAD, Got, NewPuppet, Puppet, as_root

ALICE, BOB, ROOT = 1001, 1002, 0
F_SETOWN_EX, F_SETSIG = 15, 10
DESCRIPTOR = 77

ENDS_A_THREAD = """
import signal, sys, threading
got = []
signal.signal(signal.SIGIO, lambda *_: got.append(1))
thread = threading.Thread(target=sys.stdin.readline)
thread.start()
print(thread.native_id, flush=True)
thread.join()
sys.stdin.readline()
sys.exit(len(got))
"""


class Sender:
    """Signals the owner of a pipe; the file is Alice's."""

    def __init__(self) -> None:
        self._ends = os.pipe()
        self.fd = self._ends[0]
        page = make_page()
        self.attention = Attention(page)
        os.close(page)
        self.looker = Looker(set(), by_device(set()), self.attention)

    def close(self) -> None:
        self.attention.close()
        for fd in self._ends:
            os.close(fd)

    def own(self, kind: int, number: int, *, signal_number: int = 0, uid: int | None = None) -> None:
        """Have user `uid` (None: this one) set the owner."""

        def set_owner() -> int:
            if uid is not None:
                become_user(uid, uid)
            fcntl.fcntl(self.fd, F_SETOWN_EX, struct.pack("=ii", kind, number))
            return 0

        child = fork("set-owner", set_owner)
        assert child.reap(LIMIT_S)
        assert child.code == 0
        fcntl.fcntl(self.fd, F_SETSIG, signal_number)

    def send(self, *, spare: bool = True, after_pid: int = 0, most: int = 32, opener_uid: int = ALICE) -> Sent:
        return Delivery(self.looker, self.fd, DESCRIPTOR, opener_uid, spare).send(after_pid=after_pid, most=most)


PROCESS = 1


@pytest.fixture
def sender() -> Iterator[Sender]:
    each = Sender()
    yield each
    each.close()


@pytest.fixture
def alice(puppet: Puppet) -> Puppet:
    """A program of Alice's that handles its signals, and can become another user's, as by exec of a set-uid program."""
    become(puppet, ALICE)
    puppet.ask("handle", SIGIO)
    puppet.ask("handle", REALTIME)
    return puppet


def become(puppet: Puppet, uid: int) -> None:
    """Change the real and saved user; the effective one stays, so that this can be done again."""
    puppet.ask("setresuid", uid, ROOT, uid)


def test_the_owner_is_signalled_and_told_why(sender: Sender, puppet: Puppet) -> None:
    puppet.ask("handle", SIGIO)
    sender.own(PROCESS, puppet.pid)
    assert sender.send() == Sent(1, 0)
    assert puppet.next() == Got(SIGIO, SI_SIGIO, DESCRIPTOR, BAND, puppet.pid, puppet.pid)


def test_the_signal_of_f_setsig(sender: Sender, puppet: Puppet) -> None:
    puppet.ask("handle", REALTIME)
    sender.own(PROCESS, puppet.pid, signal_number=REALTIME)
    assert sender.send() == Sent(1, 0)
    assert puppet.next().number == REALTIME


def test_a_full_queue_of_real_time_signals_makes_it_a_plain_sigio(sender: Sender, alice: Puppet) -> None:
    """As the kernel does it, send_sigio_to_task()."""
    alice.ask("sigpending", 0)
    sender.own(PROCESS, alice.pid, signal_number=REALTIME)
    assert sender.send() == Sent(1, 0)
    assert alice.next().number == SIGIO


def test_one_that_would_die_of_the_plain_sigio_is_spared(sender: Sender, puppet: Puppet) -> None:
    puppet.ask("handle", REALTIME)
    puppet.ask("sigpending", 0)
    sender.own(PROCESS, puppet.pid, signal_number=REALTIME)
    assert sender.send() == Sent(0, 0)
    assert puppet.so_far() == []


def test_no_owner(sender: Sender) -> None:
    with pytest.raises(NoOwnerError):
        sender.send()


def test_an_owner_that_has_ended(sender: Sender, new_puppet: NewPuppet) -> None:
    """The kernel says that there is none, or a number that is no process's any more."""
    puppet = new_puppet()
    sender.own(PROCESS, puppet.pid)
    puppet.close()
    with pytest.raises(NoOwnerError):
        sender.send()


def test_an_owner_that_ends_at_this_moment(
    sender: Sender, new_puppet: NewPuppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    puppet = new_puppet()
    puppet.ask("handle", SIGIO)
    sender.own(PROCESS, puppet.pid)
    just_before_the_signal(monkeypatch, puppet.close)
    assert sender.send() == Sent(0, 0)


def test_an_owner_that_is_exchanged_at_this_moment(
    sender: Sender, new_puppet: NewPuppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is signalled; the file is looked at again."""
    one, other = new_puppet(), new_puppet()
    for puppet in (one, other):
        puppet.ask("handle", SIGIO)
    sender.own(PROCESS, one.pid)
    file_owner, calls = fileowner.file_owner, 0

    def exchange(fd: int) -> FileOwner | None:
        nonlocal calls
        calls += 1
        if calls == 2:
            sender.own(PROCESS, other.pid)
        return file_owner(fd)

    monkeypatch.setattr(deliver, "file_owner", exchange)
    with pytest.raises(NoOwnerError):
        sender.send()
    assert one.so_far() == other.so_far() == []


def test_who_holds_it_up_is_noted(sender: Sender, alice: Puppet) -> None:
    sender.own(PROCESS, alice.pid)
    sender.send()
    assert sender.attention.read()[:2] == (alice.pid, ALICE)


def test_a_user_who_is_left_out_is_not_touched(sender: Sender, alice: Puppet) -> None:
    sender.own(PROCESS, alice.pid)
    sender.looker.left_out = {ALICE}
    assert sender.send() == Sent(0, 0)
    assert alice.so_far() == []


@as_root
class TestPermission:
    """sigio_perm() of fs/fcntl.c."""

    def test_of_the_same_user(self, sender: Sender, alice: Puppet) -> None:
        sender.own(PROCESS, alice.pid, uid=ALICE)
        assert sender.send() == Sent(1, 0)
        alice.next()

    def test_of_another_user(self, sender: Sender, alice: Puppet) -> None:
        sender.own(PROCESS, alice.pid, uid=BOB)
        assert sender.send() == Sent(0, 0)
        assert alice.so_far() == []

    @pytest.mark.parametrize("way", ["pidfd", "status"])
    @pytest.mark.parametrize("kind", [PROCESS, THREAD])
    @pytest.mark.parametrize("threads", ["pidfd", "start time"])
    def test_of_one_who_is_another_user_s_by_the_moment_of_sending(
        self,
        way: str,
        kind: int,
        threads: str,
        sender: Sender,
        alice: Puppet,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It has been looked at by then, and was found to be Alice's."""
        on_a_kernel_without(monkeypatch, credentials=way == "status", threads=threads == "start time")
        sender.own(kind, alice.pid, uid=ALICE)
        assert sender.send() == Sent(1, 0)
        alice.next()
        just_before_the_signal(monkeypatch, lambda: become(alice, BOB))
        assert sender.send() == Sent(0, 0)
        assert alice.so_far() == []

    def test_of_one_who_has_become_root(self, sender: Sender, alice: Puppet, monkeypatch: pytest.MonkeyPatch) -> None:
        """As by exec of a set-uid program: a signal would end it, say."""
        sender.own(PROCESS, alice.pid, uid=ALICE)
        just_before_the_signal(monkeypatch, lambda: alice.ask("setresuid", ROOT, ROOT, ROOT))
        assert sender.send(spare=False) == Sent(0, 0)
        assert alice.so_far() == []

    def test_of_those_of_a_group_who_are_the_user_s(self, sender: Sender, alice: Puppet, new_puppet: NewPuppet) -> None:
        bob = new_puppet()
        become(bob, BOB)
        bob.ask("handle", SIGIO)
        alice.ask("setpgid", 0)
        bob.ask("setpgid", alice.pid)
        sender.own(GROUP, alice.pid, uid=ALICE)
        assert sender.send() == Sent(1, 0)
        assert alice.next().pid == alice.pid
        assert bob.so_far() == []

    def test_root_may_signal_all(self, sender: Sender, alice: Puppet) -> None:
        sender.own(PROCESS, alice.pid)
        assert sender.send(opener_uid=BOB) == Sent(1, 0)


def on_a_kernel_without(monkeypatch: pytest.MonkeyPatch, *, credentials: bool = False, threads: bool = False) -> None:
    """PIDFD_GET_INFO is of Linux 6.13, PIDFD_THREAD of 6.9. An older kernel is only to be had in a guest."""
    if credentials:
        monkeypatch.setattr(deliver, "credentials", lambda _pidfd: None)
    if threads:
        monkeypatch.setattr(deliver, "open_thread", lambda _tid: None)


def just_before_the_signal(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do `act` when all has been looked at, but for what is asked at the moment of sending."""
    send_now = Delivery._send_now

    def act_first(self: Delivery, *arguments: object) -> bool:
        act()
        return send_now(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Delivery, "_send_now", act_first)


@pytest.mark.parametrize("way", ["pidfd", "start time"])
class TestThreads:
    @pytest.fixture(autouse=True)
    def _kernel(self, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
        on_a_kernel_without(monkeypatch, threads=way == "start time")

    def test_the_thread_itself_is_signalled(self, sender: Sender, puppet: Puppet) -> None:
        puppet.ask("handle", SIGIO)
        tids = [puppet.number("thread", 0) for _ in range(3)]
        for tid in (tids[1], puppet.pid, tids[2]):
            sender.own(THREAD, tid)
            assert sender.send() == Sent(1, 0)
            assert puppet.next() == Got(SIGIO, SI_SIGIO, DESCRIPTOR, BAND, puppet.pid, tid)

    def test_one_that_ends_at_this_moment_is_not_and_neither_are_the_others(
        self, sender: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = [sys.executable, "-c", ENDS_A_THREAD]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None

            def end_the_thread() -> None:
                assert child.stdin is not None
                child.stdin.write("end\n")
                child.stdin.flush()
                wait_until(lambda: state_of(tid) == "", "the thread's end")

            tid = int(child.stdout.readline())
            sender.own(THREAD, tid)
            just_before_the_signal(monkeypatch, end_the_thread)
            assert sender.send() == Sent(0, 0)
            with pytest.raises(NoOwnerError):
                sender.send()
            child.communicate("report\n")
            assert child.returncode == 0, "it counts its signals"

    def test_a_thread_that_would_die_is_spared_whatever_others_do(self, sender: Sender, puppet: Puppet) -> None:
        puppet.ask("block", SIGIO)
        tid = puppet.number("thread", SIGIO)
        sender.own(THREAD, tid)
        assert sender.send() == Sent(0, 0)
        sender.own(THREAD, puppet.pid)
        assert sender.send() == Sent(1, 0)
        assert puppet.number("take", SIGIO) == 1


def test_a_later_thread_of_the_same_id_is_not_signalled(
    sender: Sender, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does not give an id again soon, so it is the start time that is another one here."""
    on_a_kernel_without(monkeypatch, threads=True)
    puppet.ask("handle", SIGIO)
    sender.own(THREAD, puppet.pid)
    times = iter([1000, 1001])
    monkeypatch.setattr(deliver, "read_start_time", lambda _tid, _proc: next(times))
    assert sender.send() == Sent(0, 0)
    assert puppet.so_far() == []


class TestWhoWouldDie:
    def test_is_spared(self, sender: Sender, puppet: Puppet) -> None:
        sender.own(PROCESS, puppet.pid)
        assert sender.send() == Sent(0, 0)
        assert puppet.so_far() == []

    def test_is_not_in_mode_strict(self, sender: Sender, puppet: Puppet) -> None:
        """O_ASYNC was set, so the program has asked for it."""
        sender.own(PROCESS, puppet.pid)
        assert sender.send(spare=False) == Sent(1, 0)
        assert puppet.process.wait(LIMIT_S) == -signal.SIGIO

    def test_waits_in_sigwaitinfo_in_one_of_its_threads(self, sender: Sender, puppet: Puppet) -> None:
        puppet.ask("block", SIGIO)
        tid = puppet.number("waitthread", SIGIO)
        sender.own(PROCESS, puppet.pid)
        assert sender.send() == Sent(1, 0)
        assert puppet.next().tid == tid

    def test_is_known_by_any_of_its_threads(self, sender: Sender, puppet: Puppet) -> None:
        puppet.ask("block", SIGIO)
        puppet.number("thread", 0)
        sender.own(PROCESS, puppet.pid)
        assert sender.send() == Sent(1, 0)
        assert puppet.number("take", SIGIO) == 1
        puppet.number("thread", SIGIO)
        assert sender.send() == Sent(0, 0)

    def test_has_so_many_threads_that_they_are_not_looked_at(
        self, sender: Sender, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """5,000 of them would keep others waiting."""
        monkeypatch.setattr(deliver, "MAX_THREADS", 4)
        puppet.ask("block", SIGIO)
        sender.own(PROCESS, puppet.pid)
        for _ in range(3):
            puppet.number("thread", 0)
        assert sender.send() == Sent(1, 0)
        puppet.number("thread", 0)
        assert sender.send() == Sent(0, 0)
        puppet.ask("handle", SIGIO)
        assert sender.send() == Sent(1, 0), "a handler counts for all of them"


class TestGroups:
    @pytest.fixture
    def group(self, new_puppet: NewPuppet) -> list[Puppet]:
        members = sorted((new_puppet() for _ in range(5)), key=lambda puppet: puppet.pid)
        members[0].ask("setpgid", 0)
        for puppet in members:
            puppet.ask("handle", SIGIO)
            puppet.ask("setpgid", members[0].pid)
        return members

    def test_all_members_are_signalled(self, sender: Sender, group: list[Puppet], puppet: Puppet) -> None:
        puppet.ask("handle", SIGIO)
        sender.own(GROUP, group[0].pid)
        assert sender.send() == Sent(5, 0)
        for member in group:
            assert member.next().pid == member.pid
        assert puppet.so_far() == []

    def test_a_slice_at_a_time(self, sender: Sender, group: list[Puppet]) -> None:
        sender.own(GROUP, group[0].pid)
        assert sender.send(most=2) == Sent(2, group[1].pid)
        assert [len(member.so_far()) for member in group] == [1, 1, 0, 0, 0]
        assert sender.send(most=2, after_pid=group[1].pid) == Sent(2, group[3].pid)
        assert sender.send(most=2, after_pid=group[3].pid) == Sent(1, 0)
        assert [len(member.so_far()) for member in group] == [0, 0, 1, 1, 1]

    def test_those_who_would_die_are_left_out(self, sender: Sender, group: list[Puppet]) -> None:
        group[2].ask("default", SIGIO)
        sender.own(GROUP, group[0].pid)
        assert sender.send() == Sent(4, 0)
        assert all(member.alive for member in group)


def test_no_descriptor_is_left_open(sender: Sender, puppet: Puppet, monkeypatch: pytest.MonkeyPatch) -> None:
    puppet.ask("handle", SIGIO)
    before = set(os.listdir("/proc/self/fd"))
    for kind in (PROCESS, THREAD):
        sender.own(kind, puppet.pid)
        sender.send()

    def refuse(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(deliver, "send_sigio", refuse)
    for kind in (PROCESS, THREAD):
        sender.own(kind, puppet.pid)
        assert sender.send() == Sent(0, 0)
    assert set(os.listdir("/proc/self/fd")) == before
