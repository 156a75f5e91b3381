"""What a helper does with each job: real processes that hold a file of a folder, in place of the device's.

Only a server's own helpers are told the number of an open file, so that is made up here: it is the file's inode.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.fasync import helper as helper_module
from memnotify_cuse.fasync import look
from memnotify_cuse.fasync.attention import OURSELVES, Attention, make_page
from memnotify_cuse.fasync.helper import Helper
from memnotify_cuse.fasync.jobs import (
    MARK_COUNT,
    MARK_FIRST,
    MESSAGE_BYTES,
    SEARCH_DESCRIPTORS,
    Job,
    Kind,
    Report,
    Said,
    Status,
    decode_reports,
    encode_job,
)
from memnotify_cuse.fasync.look import Looker, by_device
from memnotify_cuse.keeper.children import Child, fork
from memnotify_cuse.kernel.capabilities import become_user
from memnotify_cuse.kernel.statx import file_id_at
from tests.support.mounted import LIMIT_S, NOBODY, state_of, wait_until
from tests.support.sigio import BAND, REALTIME, SI_SIGIO, SIGIO, NewPuppet, Puppet, as_root

ALICE = 1001
PR_SET_DUMPABLE = 4
CLONE_NEWUSER = 0x10000000


class Bench:
    """A helper, and the file `path` whose number it is told."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "file"
        self.path.touch()
        page = make_page()
        self.attention = Attention(page)
        os.close(page)
        devices = {file_id_at(str(self.path))}
        self.looker = Looker(devices, by_device(devices), self.attention)
        self.helper = Helper(self.looker)
        self.number = self.path.stat().st_ino

    def do(self, kind: Kind, **fields: int) -> list[Report]:
        return list(self.helper.do(Job(kind, id=7, **fields)))  # type: ignore[arg-type]

    def search(self, pid: int, descriptor: int = 0, count: int = SEARCH_DESCRIPTORS) -> list[Report]:
        return self.do(Kind.SEARCH, pid=pid, descriptor=descriptor, count=count)

    def signal(self, pid: int, descriptor: int, **fields: int) -> list[Report]:
        return self.do(Kind.SIGNAL, pid=pid, descriptor=descriptor, **{"number": self.number, **fields})


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    each = Bench(tmp_path)

    def identify(fd: int) -> int | None:
        inode = os.fstat(fd).st_ino
        return inode if inode in {path.stat().st_ino for path in tmp_path.iterdir()} else None

    monkeypatch.setattr(look, "identify", identify)
    yield each
    each.attention.close()


def end(reports: list[Report]) -> Report:
    assert [report.said for report in reports].count(Said.END) == 1
    assert reports[-1].said is Said.END
    assert all(report.id == 7 for report in reports)
    return reports[-1]


class TestAsk:
    def test_a_mount_that_answers(self, bench: Bench, tmp_path: Path) -> None:
        assert list(Helper(bench.looker, str(tmp_path)).do(Job(Kind.ASK, id=7))) == [Report(Said.END, 7)]

    @pytest.mark.parametrize("mount", [None, "denied"])
    def test_one_that_cannot_be_asked(self, mount: str | None, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(_path: str) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "statvfs", denied)
        assert list(Helper(bench.looker, mount).do(Job(Kind.ASK, id=7))) == [Report(Said.END, 7, Status.REFUSED)]

    def test_it_is_nobody_s_fault_if_it_takes_long(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touched: list[int] = []
        monkeypatch.setattr(os, "statvfs", lambda _path: touched.append(bench.attention.read().pid))
        list(Helper(bench.looker, str(tmp_path)).do(Job(Kind.ASK, id=7)))
        assert touched == [OURSELVES]


class TestSearch:
    def test_every_descriptor_of_ours(self, bench: Bench, puppet: Puppet) -> None:
        fds = [puppet.number("open", bench.path), puppet.number("open", "/dev/null"), puppet.number("dup", 0)]
        fds.append(puppet.number("dup", fds[0]))
        reports = bench.search(puppet.pid)
        assert [(each.number, each.pid, each.descriptor) for each in reports[:-1]] == [
            (bench.number, puppet.pid, fds[0]),
            (bench.number, puppet.pid, fds[3]),
        ]
        assert not any(each.owned for each in reports)
        assert end(reports) == Report(Said.END, 7, pid=puppet.pid, uid=os.getuid())

    def test_whether_there_is_an_owner(self, bench: Bench, new_puppet: NewPuppet) -> None:
        holder, owner = new_puppet(), new_puppet()
        fd = holder.number("open", bench.path)
        holder.ask("setown", fd, owner.pid)
        (found, _) = bench.search(holder.pid)
        assert (found.owned, found.owner_pid) == (True, owner.pid)
        holder.ask("setown", fd, -owner.pid)
        holder.ask("setpgid", 0)
        (found, _) = bench.search(holder.pid)
        assert found.owner_pid == 0

    def test_a_thread_stands_for_its_process(self, bench: Bench, puppet: Puppet) -> None:
        fd = puppet.number("open", bench.path)
        tid = puppet.number("thread", 0)
        (found, last) = bench.search(tid)
        assert (found.pid, found.descriptor, last.pid) == (puppet.pid, fd, puppet.pid)

    def test_a_slice_at_a_time(self, bench: Bench, puppet: Puppet) -> None:
        puppet.ask("fill", 700)
        fd = puppet.number("open", bench.path)
        has = sorted(map(int, os.listdir(f"/proc/{puppet.pid}/fd")))
        seen, descriptor, slices = [], 0, 0
        while True:
            reports = bench.search(puppet.pid, descriptor, 256)
            seen += [each.descriptor for each in reports[:-1]]
            descriptor = end(reports).descriptor
            slices += 1
            if not descriptor:
                break
            assert descriptor == has[slices * 256]
        assert seen == [fd]
        assert slices == 3, "256 each"

    def test_a_turn_ends_a_search_which_says_where_it_goes_on(
        self, bench: Bench, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At least one descriptor a turn, however long each of them takes."""
        fds = [puppet.number("open", bench.path) for _ in range(3)]
        has = sorted(map(int, os.listdir(f"/proc/{puppet.pid}/fd")))
        monkeypatch.setattr(helper_module, "TURN_S", 0.0)
        seen, descriptor, looked_at = [], 0, []
        while True:
            bench.helper.begin_turn()
            looked_at.append(descriptor)
            reports = bench.search(puppet.pid, descriptor)
            seen += [each.descriptor for each in reports[:-1]]
            descriptor = end(reports).descriptor
            if not descriptor:
                break
        assert looked_at[1:] == has[1:]
        assert seen == fds

    def test_one_descriptor(self, bench: Bench, puppet: Puppet) -> None:
        fd = puppet.number("open", bench.path)
        puppet.ask("dup", fd)
        assert [each.descriptor for each in bench.search(puppet.pid, fd, 1)[:-1]] == [fd]

    def test_a_process_that_is_gone(self, bench: Bench, new_puppet: NewPuppet) -> None:
        puppet = new_puppet()
        puppet.close()
        assert bench.search(puppet.pid) == [Report(Said.END, 7, Status.GONE)]

    def test_the_helper_itself_has_none_of_interest(self, bench: Bench) -> None:
        """Its duplicates of others' are in its own table."""
        with bench.path.open():
            assert bench.search(os.getpid()) == [Report(Said.END, 7, pid=os.getpid(), uid=os.getuid())]

    @as_root
    def test_a_process_that_it_may_not_look_at(self, bench: Bench, puppet: Puppet) -> None:
        def as_nobody() -> int:
            become_user(NOBODY, NOBODY)
            return 0 if bench.search(puppet.pid) == [Report(Said.END, 7, Status.REFUSED)] else 1

        child = fork("as-nobody", as_nobody)
        assert child.reap(LIMIT_S)
        assert child.code == 0


class TestSend:
    """An owner that is known is signalled with no look at the file."""

    def known(self, bench: Bench, puppet: Puppet) -> dict[str, int]:
        """What a look tells of the owner, as fields of a job."""
        found = next(each for each in bench.do(Kind.SEARCH, pid=puppet.pid, count=100, mark=MARK_FIRST))
        owner = found.known_owner
        assert owner is not None
        assert MARK_FIRST < found.mark < MARK_FIRST + MARK_COUNT
        return {
            **{"pid": owner.pid, "descriptor": owner.descriptor, "identity": owner.identity, "signal": owner.signal},
            **{"owner_uid": owner.uid, "owner_euid": owner.euid},
        }

    def test_the_owner_is_signalled(self, bench: Bench, puppet: Puppet) -> None:
        fd = puppet.watch(bench.path, number=REALTIME)
        known = self.known(bench, puppet)
        last = end(bench.do(Kind.SEND, **known))
        assert (last.status, last.signalled) == (Status.OK, 1)
        got = puppet.next()
        assert (got.number, got.fd, got.code, got.band) == (REALTIME, fd, SI_SIGIO, BAND)

    def test_marking_changes_nothing(self, bench: Bench, puppet: Puppet) -> None:
        puppet.watch(bench.path)
        assert self.known(bench, puppet) == self.known(bench, puppet)

    def test_another_process_of_the_same_id_is_not(self, bench: Bench, puppet: Puppet) -> None:
        puppet.watch(bench.path)
        known = self.known(bench, puppet)
        known["identity"] += 1
        assert end(bench.do(Kind.SEND, **known)).status is Status.NO_OWNER
        assert puppet.so_far() == []

    def test_an_owner_that_has_ended(self, bench: Bench, new_puppet: NewPuppet) -> None:
        puppet = new_puppet()
        puppet.watch(bench.path)
        known = self.known(bench, puppet)
        puppet.close()
        assert end(bench.do(Kind.SEND, **known)).status is Status.NO_OWNER

    def test_one_that_would_die_is_spared_and_said_to_be_so(self, bench: Bench, new_puppet: NewPuppet) -> None:
        puppet = new_puppet()
        puppet.watch(bench.path)
        known = self.known(bench, puppet)
        puppet.ask("default", SIGIO)
        assert end(bench.do(Kind.SEND, **known)).status is Status.SPARED
        assert puppet.so_far() == []
        assert end(bench.do(Kind.SEND, spare=False, **known)).status is Status.OK
        assert puppet.process.wait(LIMIT_S) == -SIGIO

    @as_root
    def test_one_that_has_become_another_user_s(self, bench: Bench, puppet: Puppet) -> None:
        """Permission is asked for each time: it is the target's users that count, as they are now."""
        fd = puppet.number("open", bench.path)
        puppet.ask("handle", SIGIO)
        puppet.ask("setresuid", ALICE, ALICE, 0)
        puppet.subscribe(fd)
        known = self.known(bench, puppet)
        assert end(bench.do(Kind.SEND, **known)).status is Status.OK
        puppet.ask("setresuid", 0, 0, 0)
        assert end(bench.do(Kind.SEND, **known)).status is Status.NOBODY
        assert len(puppet.so_far()) == 1

    def test_an_owner_that_has_no_descriptor_is_not_known(self, bench: Bench, new_puppet: NewPuppet) -> None:
        holder, owner = new_puppet(), new_puppet()
        fd = holder.number("open", bench.path)
        owner.ask("setpgid", 0)
        for wanted in (owner.pid, -owner.pid):
            holder.ask("setown", fd, wanted)
            (found, _) = bench.do(Kind.SEARCH, pid=holder.pid, count=100, mark=MARK_FIRST)
            assert found.owned
            assert found.known_owner is None


class TestSignal:
    def test_the_owner_where_the_file_is(self, bench: Bench, puppet: Puppet) -> None:
        fd = puppet.watch(bench.path)
        last = end(bench.signal(puppet.pid, fd))
        assert (last.status, last.signalled, last.owner_pid) == (Status.OK, 1, puppet.pid)
        assert puppet.next().fd == fd

    def test_a_descriptor_that_is_of_another_file_by_now(self, bench: Bench, puppet: Puppet, tmp_path: Path) -> None:
        fd = puppet.watch(bench.path)
        (tmp_path / "other").touch()
        other = puppet.number("open", tmp_path / "other")
        puppet.ask("dup2", other, fd)
        assert end(bench.signal(puppet.pid, fd)).status is Status.GONE
        puppet.ask("close", fd)
        assert end(bench.signal(puppet.pid, fd)).status is Status.GONE
        assert puppet.so_far() == []

    def test_an_owner_elsewhere_is_told_its_own_number_of_the_descriptor(self, bench: Bench, puppet: Puppet) -> None:
        """The program that opened it has it still, behind another number."""
        fd = puppet.watch(bench.path)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            child = fork("holder", lambda: _hold(puppet.pid, fd, theirs))
            try:
                held_at = int(ours.recv(16))
                found, last = bench.signal(child.pid, held_at)
                assert (found.said, found.pid, found.descriptor) == (Said.FOUND, puppet.pid, fd)
                assert (last.status, last.owner_pid) == (Status.OK, puppet.pid)
                assert puppet.next().fd == fd
                (last,) = bench.signal(child.pid, held_at, elsewhere=1)
                assert last.status is Status.OK
                assert puppet.next().fd == held_at, "it is not searched"
            finally:
                child.kill()
                assert child.reap(LIMIT_S)

    def test_nobody_who_would_survive_it(self, bench: Bench, puppet: Puppet) -> None:
        fd = puppet.watch(bench.path)
        puppet.ask("default", SIGIO)
        last = end(bench.signal(puppet.pid, fd))
        assert (last.status, last.signalled) == (Status.NOBODY, 0)
        assert puppet.so_far() == []

    def test_no_owner(self, bench: Bench, puppet: Puppet) -> None:
        fd = puppet.number("open", bench.path)
        assert end(bench.signal(puppet.pid, fd)).status is Status.NO_OWNER

    def test_members_of_a_group_are_counted_and_the_last_is_named(
        self, bench: Bench, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(helper_module, "FANOUT_MEMBERS", 2)
        puppet.ask("setpgid", 0)
        fd = puppet.watch(bench.path, owner=-puppet.pid)
        children = sorted(puppet.number("fork") for _ in range(3))
        members = sorted([puppet.pid, *children])
        last = end(bench.signal(puppet.pid, fd))
        assert (last.status, last.signalled, last.pid) == (Status.OK, 2, members[1])
        last = end(bench.signal(puppet.pid, fd, after_pid=members[1]))
        assert (last.signalled, last.pid) == (2, members[3])
        last = end(bench.signal(puppet.pid, fd, after_pid=members[3]))
        assert (last.status, last.signalled, last.pid) == (Status.NOBODY, 0, 0)
        for child in children:
            os.kill(child, 9)


def _hold(pid: int, descriptor: int, tell: socket.socket) -> int:
    """Have a duplicate of another process's descriptor behind a number of one's own, until killed."""
    from memnotify_cuse.kernel.pidfd import get_descriptor

    pidfd = os.pidfd_open(pid)
    fd = os.dup2(get_descriptor(pidfd, descriptor), 77)
    tell.send(str(fd).encode())
    while True:
        tell.recv(1)


class TestLeftOut:
    @as_root
    def test_a_user_s_processes_until_they_are_let_in_again(self, bench: Bench) -> None:
        with subprocess.Popen(["sleep", "1000"], user=NOBODY) as child:
            assert bench.do(Kind.LEAVE_OUT, opener_uid=NOBODY, count=1) == []
            assert bench.search(child.pid) == [Report(Said.END, 7, Status.LEFT_OUT)]
            assert bench.signal(child.pid, 0) == [Report(Said.END, 7, Status.LEFT_OUT)]
            assert bench.do(Kind.OWNER, pid=child.pid) == [Report(Said.END, 7, Status.LEFT_OUT)]
            listed = bench.do(Kind.PROCESSES, pid=child.pid - 1, count=1)
            assert child.pid not in [each.pid for each in listed[:-1]]
            assert bench.do(Kind.LEAVE_OUT, opener_uid=NOBODY, count=0) == []
            assert end(bench.search(child.pid)).status is Status.OK
            child.kill()

    @as_root
    def test_one_of_root_s_processes(self, bench: Bench, new_puppet: NewPuppet) -> None:
        one, other = new_puppet(), new_puppet()
        bench.do(Kind.LEAVE_OUT, pid=one.pid, count=1)
        assert end(bench.search(one.pid)).status is Status.LEFT_OUT
        assert end(bench.search(other.pid)).status is Status.OK

    def test_nobody_is_noted_any_more_when_a_job_is_done(self, bench: Bench, puppet: Puppet) -> None:
        for kind in (Kind.SEARCH, Kind.SIGNAL, Kind.PROCESSES, Kind.OWNER):
            bench.do(kind, pid=puppet.pid, count=1)
            assert bench.attention.read().pid == 0


def test_processes_are_listed_some_at_a_time(bench: Bench, new_puppet: NewPuppet) -> None:
    puppets = {new_puppet().pid for _ in range(3)}
    seen: list[int] = []
    last = 0
    while True:
        *listed, final = bench.do(Kind.PROCESSES, pid=last, count=5)
        assert len(listed) <= 5
        seen += [each.pid for each in listed]
        last = final.pid
        if not last:
            break
    assert seen == sorted(set(seen))
    assert puppets <= set(seen)


@as_root
class TestOwnerOfANamespace:
    def test_of_this_one_nobody(self, bench: Bench, puppet: Puppet) -> None:
        assert bench.do(Kind.OWNER, pid=puppet.pid) == [Report(Said.END, 7, Status.NO_OWNER)]

    @pytest.mark.parametrize("depth", [1, 3])
    def test_who_made_the_outermost(self, depth: int, bench: Bench) -> None:
        child = in_user_namespaces(ALICE, depth)
        try:
            assert bench.do(Kind.OWNER, pid=child.pid) == [Report(Said.END, 7, uid=ALICE)]
        finally:
            child.kill()
            assert child.reap(LIMIT_S)

    def test_no_descriptor_is_left_open(self, bench: Bench) -> None:
        child = in_user_namespaces(ALICE, 3)
        try:
            before = set(os.listdir("/proc/self/fd"))
            bench.do(Kind.OWNER, pid=child.pid)
            assert set(os.listdir("/proc/self/fd")) == before
        finally:
            child.kill()
            assert child.reap(LIMIT_S)


def in_user_namespaces(uid: int, depth: int) -> Child:
    """A process of the user, inside so many user namespaces of its own."""
    read_end, write_end = os.pipe()

    def nest() -> int:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
        become_user(uid, uid)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        inside = uid
        for _ in range(depth):
            assert unshare(CLONE_NEWUSER) == 0, os.strerror(ctypes.get_errno())
            # Who is not mapped may make no further one.
            Path("/proc/self/setgroups").write_text("deny")
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/self/{name}").write_text(f"0 {inside} 1")
            inside = 0
        os.write(write_end, b"x")
        signal.pause()
        return 0

    child = fork("nested", nest)
    os.close(write_end)
    try:
        assert os.read(read_end, 1) == b"x"
    finally:
        os.close(read_end)
    return child


class TestRun:
    """The loop of a helper, in a process of its own."""

    @pytest.fixture
    def ours(self, bench: Bench) -> Iterator[tuple[socket.socket, Child]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def help_them() -> int:
            ours.close()
            return helper_module.run(theirs, bench.looker)

        child = fork("helper", help_them)
        theirs.close()
        ours.settimeout(LIMIT_S)
        with ours:
            yield ours, child
        child.kill()
        assert child.reap(LIMIT_S)

    def test_all_jobs_of_a_message_one_report_a_message(
        self, ours: tuple[socket.socket, Child], puppet: Puppet, bench: Bench
    ) -> None:
        server, _ = ours
        fd = puppet.watch(bench.path)
        jobs = [
            Job(Kind.SEARCH, 1, pid=puppet.pid, count=SEARCH_DESCRIPTORS),
            Job(Kind.SIGNAL, 2, number=bench.number, pid=puppet.pid, descriptor=fd),
            Job(Kind.OWNER, 3, pid=puppet.pid),
        ]
        server.send(b"".join(map(encode_job, jobs)))
        reports = [report for _ in range(4) for report in decode_reports(server.recv(MESSAGE_BYTES))]
        assert [(each.said, each.id) for each in reports] == [
            (Said.FOUND, 1),
            (Said.END, 1),
            (Said.END, 2),
            (Said.END, 3),
        ]
        assert puppet.next().fd == fd

    def test_what_it_cannot_begin_in_its_turn_is_put_off(
        self, monkeypatch: pytest.MonkeyPatch, bench: Bench, puppet: Puppet
    ) -> None:
        monkeypatch.setattr(helper_module, "TURN_S", 0.0)
        server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with server, theirs:
            leave_out = Job(Kind.LEAVE_OUT, opener_uid=ALICE, count=1)
            for jobs in ([leave_out] * 3, [Job(Kind.SEARCH, number, pid=puppet.pid, count=1) for number in (1, 2, 3)]):
                server.send(b"".join(map(encode_job, jobs)))
            server.shutdown(socket.SHUT_WR)
            assert helper_module.run(theirs, bench.looker) == 0
            reports = [report for _ in range(2) for report in decode_reports(server.recv(MESSAGE_BYTES))]
        assert [(each.id, each.status) for each in reports] == [(1, Status.OK), (2, Status.PUT_OFF)]
        assert bench.looker.left_out == {ALICE}

    def test_it_ends_when_the_server_does(self, ours: tuple[socket.socket, Child]) -> None:
        server, child = ours
        server.close()
        assert child.reap(LIMIT_S)
        assert child.code == 0

    def test_it_ends_at_what_is_no_job(self, ours: tuple[socket.socket, Child]) -> None:
        server, child = ours
        server.send(b"rave")
        assert child.reap(LIMIT_S)
        assert child.code == 1

    def test_it_sleeps_when_it_has_nothing_to_do(self, ours: tuple[socket.socket, Child]) -> None:
        _, child = ours
        wait_until(lambda: state_of(child.pid) == "S", "the helper asleep")
