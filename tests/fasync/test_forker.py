"""The parent of helpers: a real one at the other end of a channel, and the helpers that it forks."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from memnotify_cuse.fasync import forker as forker_module
from memnotify_cuse.fasync.attention import Attention
from memnotify_cuse.fasync.forker import MAX_ABANDONED, Forker
from memnotify_cuse.fasync.jobs import MESSAGE_BYTES, Job, Kind, Report, Said, Status, decode_reports, encode_job
from memnotify_cuse.fasync.look import Looker, by_device
from memnotify_cuse.keeper.channel import Channel, Message
from memnotify_cuse.keeper.children import Child, fork
from memnotify_cuse.keeper.rights import BY_DEVICE, FORKER, HELPER
from memnotify_cuse.kernel.capabilities import mask_of, parse_capability_masks
from tests.support.mounted import LIMIT_S, NOBODY, state_of, wait_until
from tests.support.sigio import Puppet, as_root

LOOKER = partial(Looker, set(), by_device(set()))


@dataclass
class Given:
    """A helper as the server is given it."""

    pid: int
    socket: socket.socket
    attention: Attention
    done: int

    def has_done(self) -> bool:
        """Whether it said so, of several jobs, since the last time."""
        try:
            return os.eventfd_read(self.done) > 0
        except BlockingIOError:
            return False

    def ask(self, job: Job) -> list[Report]:
        self.socket.send(encode_job(job))
        return list(decode_reports(self.socket.recv(MESSAGE_BYTES)))

    def close(self) -> None:
        self.socket.close()
        self.attention.close()
        os.close(self.done)


class Server:
    """The server's end."""

    def __init__(self) -> None:
        self.channel, theirs = Channel.pair()
        self.helpers: list[Given] = []

        def serve() -> int:
            self.channel.close()
            return Forker(theirs, LOOKER, HELPER | BY_DEVICE).run()

        self.gone: list[int] = []
        self.forker = fork("forker", serve)
        theirs.close()

    def helper(self) -> Given:
        self.channel.send("helper")
        return self.given()

    def given(self) -> Given:
        word, pid, fds = received(self.channel)
        while word == "gone":
            self.gone.append(int(pid))
            word, pid, fds = received(self.channel)
        assert word == "helper"
        sock, page, done = fds
        given = Given(int(pid), socket.socket(fileno=sock), Attention(page), done)
        os.close(page)
        given.socket.settimeout(LIMIT_S)
        self.helpers.append(given)
        return given

    def close(self) -> None:
        for helper in self.helpers:
            helper.close()
        self.channel.close()
        assert self.forker.reap(LIMIT_S)
        assert self.forker.code == 0


@pytest.fixture
def server() -> Iterator[Server]:
    each = Server()
    yield each
    each.close()


def received(channel: Channel) -> Message:
    """The next message, waited for with a limit."""
    messages: list[Message] = []

    def came() -> bool:
        message = channel.receive()
        if message is not None:
            messages.append(message)
        return bool(messages)

    wait_until(came, "a message")
    return messages[0]


def has_ended(pid: int) -> bool:
    return state_of(pid) in ("", "Z")


def test_a_helper_says_once_that_it_has_done_several_jobs(server: Server) -> None:
    """The server waits for that, in place of for each report."""
    helper = server.helper()
    jobs = [Job(Kind.SEARCH, id=number, pid=os.getpid(), count=1) for number in range(3)]
    helper.ask(jobs[0])
    helper.socket.send(b"".join(map(encode_job, jobs)))
    wait_until(helper.has_done, "all three jobs done")
    helper.socket.setblocking(False)
    assert [list(decode_reports(helper.socket.recv(MESSAGE_BYTES)))[-1].id for _ in jobs] == [0, 1, 2]
    assert not helper.has_done()


def test_a_helper_that_is_asked_for_works(server: Server, puppet: Puppet) -> None:
    helper = server.helper()
    assert helper.ask(Job(Kind.SEARCH, 7, pid=puppet.pid, count=1)) == [
        Report(Said.END, 7, pid=puppet.pid, uid=os.getuid())
    ]


def test_it_notes_whom_it_touches_where_the_server_can_read_it(server: Server, puppet: Puppet) -> None:
    helper = server.helper()
    helper.ask(Job(Kind.SEARCH, 7, pid=puppet.pid, count=1))
    wait_until(lambda: helper.attention.read().pid == 0, "the helper at rest")
    os.kill(helper.pid, signal.SIGSTOP)
    wait_until(lambda: state_of(helper.pid) == "T", "the helper stopped")
    assert helper.attention.read().uid != os.getuid()
    os.kill(helper.pid, signal.SIGCONT)


def test_each_is_a_process_of_its_own(server: Server, puppet: Puppet) -> None:
    one, other = server.helper(), server.helper()
    assert len({one.pid, other.pid, server.forker.pid}) == 3
    for helper in (one, other):
        assert helper.ask(Job(Kind.SEARCH, 1, pid=puppet.pid, count=1))
        assert Path(f"/proc/{helper.pid}/comm").read_text() == "memnotify-sigio\n"


def test_one_that_is_held_up_is_killed_and_the_others_are_not(server: Server, puppet: Puppet) -> None:
    one, other = server.helper(), server.helper()
    server.channel.send("replace", str(one.pid))
    wait_until(lambda: has_ended(one.pid), "the helper's end")
    assert other.ask(Job(Kind.SEARCH, 1, pid=puppet.pid, count=1))
    third = server.helper()
    assert third.pid != one.pid
    assert third.ask(Job(Kind.SEARCH, 1, pid=puppet.pid, count=1))


def test_no_zombie_is_left(server: Server) -> None:
    one = server.helper()
    server.channel.send("replace", str(one.pid))
    wait_until(lambda: state_of(one.pid) == "", "the helper reaped")
    two = server.helper()
    os.kill(two.pid, signal.SIGKILL)
    wait_until(lambda: state_of(two.pid) == "", "a helper that was killed from outside reaped")
    three = server.helper()
    three.socket.close()
    wait_until(lambda: state_of(three.pid) == "", "a helper that was dismissed reaped")


@pytest.mark.parametrize("rest", ["", "1", "x", "-1", "99999999999999999999"])
def test_nobody_else_is_killed_by_what_the_server_says(rest: str, server: Server, puppet: Puppet) -> None:
    """It has no rights, and anybody may have taken it over."""
    helper = server.helper()
    server.channel.send("replace", rest)
    server.channel.send("replace", str(puppet.pid))
    server.channel.send("replace", str(os.getpid()))
    server.channel.send("whatever", "else")
    assert helper.ask(Job(Kind.SEARCH, 1, pid=puppet.pid, count=1))[0].status is Status.OK
    assert server.helper().pid
    assert puppet.ask("pid") == str(puppet.pid)


def test_helpers_end_with_the_channel(puppet: Puppet) -> None:
    server = Server()
    helpers = [server.helper() for _ in range(2)]
    server.channel.close()
    assert server.forker.reap(LIMIT_S)
    assert server.forker.code == 0
    for helper in helpers:
        wait_until(lambda helper=helper: has_ended(helper.pid), "the helper's end")  # type: ignore[misc]
        helper.close()


def test_helpers_end_when_their_parent_is_killed() -> None:
    server = Server()
    helper = server.helper()
    server.forker.kill()
    assert server.forker.reap(LIMIT_S)
    wait_until(lambda: has_ended(helper.pid), "the helper's end")
    helper.close()
    server.channel.close()


def test_a_helper_holds_nothing_of_others(server: Server) -> None:
    """No descriptor of the channel, or of another helper: the server's end of a socket must be the only one."""
    server.helper()
    helper = server.helper()
    # By the time it does a job it has closed what it inherited.
    assert helper.ask(Job(Kind.OWNER, 1, pid=os.getpid()))
    targets = [os.readlink(entry) for entry in Path(f"/proc/{helper.pid}/fd").iterdir()]
    inherited = [os.readlink(f"/proc/{server.forker.pid}/fd/{number}") for number in (0, 1, 2)]
    own = [target for target in targets if target.startswith("socket:") and target not in inherited]
    before_fork = {os.readlink(f"/proc/self/fd/{entry}") for entry in os.listdir("/proc/self/fd") if _exists(entry)}
    assert len([target for target in own if target not in before_fork]) == 1


def _exists(entry: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{entry}")


def test_there_are_no_more_when_too_many_hang_that_cannot_be_ended(caplog: pytest.LogCaptureFixture) -> None:
    """Those wait for a file system that a client serves; tests/attacks has it. Here they are only not ended."""
    ours, theirs = Channel.pair()
    forker = Forker(theirs, LOOKER, ())
    hanging = [fork("hanging", _pause) for _ in range(MAX_ABANDONED)]
    try:
        forker._ending = list(hanging)
        for _ in range(3):
            forker._heed("helper", "")
            assert ours.receive() == ("no-helper", "", ())
        assert caplog.text.count("no more are started") == 1
        hanging[0].kill()
        wait_until(lambda: has_ended(hanging[0].pid), "one that ends after all")
        forker._heed("helper", "")
        assert ours.receive() == ("gone", str(hanging[0].pid), ())
        message = ours.receive()
        assert message is not None
        assert message[0] == "helper"
        for fd in message[2]:
            os.close(fd)
    finally:
        for child in (*hanging, *forker._working.values()):
            child.kill()
            assert child.reap(LIMIT_S)
        ours.close()
        theirs.close()


def _pause() -> int:
    signal.pause()
    return 0


@as_root
class TestRights:
    """What `run`, the parent as the keeper starts it, and its helpers may do."""

    @pytest.fixture
    def started(self) -> Iterator[tuple[Child, int]]:
        ours, theirs = Channel.pair()
        keeper_pid = os.getpid()

        def serve() -> int:
            ours.close()
            return forker_module.run(theirs, keeper_pid, ["device 0 0 52", "inodes 12884901888"], (NOBODY, NOBODY))

        forker = fork("forker", serve)
        theirs.close()
        ours.send("helper")
        _, pid, fds = received(ours)
        yield forker, int(pid)
        for fd in fds:
            os.close(fd)
        ours.close()
        assert forker.reap(LIMIT_S)

    def test_of_the_parent(self, started: tuple[Child, int]) -> None:
        self._assert_rights(started[0].pid, mask_of(FORKER))

    def test_of_a_helper(self, started: tuple[Child, int]) -> None:
        # It gives up the right to lock its memory once it has done so, before it does its first job.
        wait_until(lambda: _permitted(started[1]) != mask_of(FORKER), "the helper ready")
        self._assert_rights(started[1], mask_of(HELPER))

    def _assert_rights(self, pid: int, expected: int) -> None:
        text = Path(f"/proc/{pid}/status").read_text()
        masks = parse_capability_masks(text)
        assert masks["CapPrm"] == masks["CapEff"] == expected
        assert masks["CapInh"] == masks["CapAmb"] == 0
        assert masks["CapBnd"] == mask_of(FORKER)
        assert "\nNoNewPrivs:\t1\n" in text
        assert f"\nUid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}\n" in text


def _permitted(pid: int) -> int:
    return parse_capability_masks(Path(f"/proc/{pid}/status").read_text())["CapPrm"]


@as_root
def test_a_word_that_it_does_not_know_is_passed_over() -> None:
    ours, theirs = Channel.pair()

    def serve() -> int:
        ours.close()
        return forker_module.run(theirs, os.getppid(), ["weather fine"], (NOBODY, NOBODY))

    forker = fork("forker", serve)
    theirs.close()
    ours.close()
    assert forker.reap(LIMIT_S)
    assert forker.code == 0
