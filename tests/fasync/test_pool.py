"""The pool: jobs are done in the turns of users, and a helper that hangs is replaced.

The helpers, and their parent, are tasks at the other ends of real sockets, on a clock that leaps to the next thing that
is due: a real helper hangs only where another file system keeps it, which tests/attacks has.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from memnotify_cuse.fasync import pool as pool_module
from memnotify_cuse.fasync.attention import OURSELVES, UNKNOWN_UID, Attention, make_page
from memnotify_cuse.fasync.jobs import (
    MAX_JOBS,
    MESSAGE_BYTES,
    Job,
    Kind,
    Report,
    Said,
    Status,
    decode_jobs,
    encode_report,
)
from memnotify_cuse.fasync.leftout import FIRST_S
from memnotify_cuse.fasync.pool import CLIENT_S, FEW_JOBS, JOB_S, MAX_HELPERS, PATIENCE_S, HelperPool
from memnotify_cuse.keeper.channel import Channel

ALICE, BOB, CAROL, ROOT = 1001, 1002, 1003, 0
FIRST_PID = 100_000

Behaviour = Callable[["Peer", Job], Awaitable[None]]


@dataclass(eq=False)
class Peer:
    """A helper: does each job as `behave` has it, and then says END. `messages` are the jobs that it got.

    Its turn is over after `turn` jobs.
    """

    pid: int
    socket: socket.socket
    attention: Attention
    done: int
    behave: Behaviour
    messages: list[list[Job]] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)
    ended: bool = False
    turn: int = MAX_JOBS

    async def run(self) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(self.socket)
                message = self.socket.recv(MESSAGE_BYTES)
            except trio.ClosedResourceError:
                return
            except ConnectionError:
                message = b""
            if not message:
                self.ended = True
                self.socket.close()
                return
            jobs = list(decode_jobs(message))
            if jobs[0].kind is Kind.LEAVE_OUT:
                for job in jobs:
                    change = self.left_out.add if job.count else self.left_out.discard
                    change(job.opener_uid or -job.pid)
                continue
            self.messages.append(jobs)
            for index, job in enumerate(jobs):
                if index == self.turn:
                    self.say(Report(Said.END, job.id, Status.PUT_OFF))
                    break
                await self.behave(self, job)
                if self.ended:
                    return
                self.say(Report(Said.END, job.id, pid=job.pid))
            if len(jobs) > 1:
                os.eventfd_write(self.done, 1)

    def say(self, report: Report) -> None:
        try:
            self.socket.send(encode_report(report))
        except BrokenPipeError:
            self.ended = True

    def die(self) -> None:
        self.ended = True
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()


async def at_once(_peer: Peer, _job: Job) -> None:
    await trio.lowlevel.checkpoint()


async def hang(peer: Peer, _job: Job) -> None:
    """As a helper that waits for a client's file system."""
    while not peer.ended:  # noqa: ASYNC110
        await trio.sleep(1)


class Parent:
    """The parent of helpers, and a pool that it serves: `behaviours` are those of the helpers, one after the other."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)
        self.peers: list[Peer] = []
        self.replaced: list[int] = []
        self.started = 0
        self.most = MAX_HELPERS
        self.identifiers: set[int] = set()
        self.pool = HelperPool(self._start, self.identifiers)
        self.channel: Channel | None = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Parent:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self.pool.run)
        await trio.testing.wait_all_tasks_blocked()
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        await self._manager.__aexit__(*error)  # type: ignore[arg-type]
        self.pool.dismiss()
        for peer in self.peers:
            peer.socket.close()
            peer.attention.close()
            os.close(peer.done)
        for helper in self.pool._helpers:
            helper.socket.close()
            helper.attention.close()
            os.close(helper.done)
        for channel in (self.channel, self.pool._parent):
            if channel is not None:
                channel.close()

    def _start(self) -> None:
        assert self._nursery is not None
        self.started += 1
        self.channel, theirs = Channel.pair()
        self._nursery.start_soon(self._serve, self.channel)
        self._nursery.start_soon(self._connect, theirs)

    async def _connect(self, theirs: Channel) -> None:
        await trio.lowlevel.checkpoint()
        self.pool.connect(theirs)

    async def _serve(self, channel: Channel) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(channel)
                message = channel.receive()
            except (EOFError, trio.ClosedResourceError):
                return
            assert message is not None
            word, rest, _ = message
            if word == "helper" and sum(not peer.ended for peer in self.peers) < self.most:
                self.add(channel)
            elif word == "replace":
                self.replaced.append(int(rest))
                self.peers[int(rest) - FIRST_PID].die()
                channel.send("gone", rest)

    def add(self, channel: Channel) -> None:
        assert self._nursery is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        page, done = make_page(), os.eventfd(0, os.EFD_NONBLOCK)
        behave = self.behaviours.pop(0) if self.behaviours else at_once
        peer = Peer(FIRST_PID + len(self.peers), theirs, Attention(page), done, behave)
        self.peers.append(peer)
        self._nursery.start_soon(peer.run)
        channel.send("helper", str(peer.pid), (ours.fileno(), page, done))
        ours.close()
        os.close(page)

    def die(self) -> None:
        assert self.channel is not None
        trio.lowlevel.notify_closing(self.channel)
        self.channel.close()


Main = Callable[[], Coroutine[object, object, None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Main], None]:
    """Runs an async function on a clock that leaps, which the pool sees as CLOCK_MONOTONIC as well."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic_ns=lambda: round(clock.current_time() * 1e9)))

    def run(main: Main) -> None:
        async def limited() -> None:
            with trio.fail_after(3600):
                await main()

        trio.run(limited, clock=clock)

    return run


def searches(*pids: int) -> list[Job]:
    return [Job(Kind.SEARCH, pid=pid, count=1) for pid in pids]


def ends(results: list[list[Report]]) -> list[tuple[Status, int]]:
    assert all(each[-1].said is Said.END for each in results)
    return [(each[-1].status, each[-1].pid) for each in results]


def test_reports_come_in_the_order_of_the_jobs(run: Callable[[Main], None]) -> None:
    async def find(peer: Peer, job: Job) -> None:
        for descriptor in range(job.pid % 3):
            peer.say(Report(Said.FOUND, job.id, number=descriptor + 1, pid=job.pid))
        await trio.sleep(0.001)

    async def main() -> None:
        async with Parent(find) as parent:
            results = await parent.pool.run_jobs(ALICE, searches(*range(30, 70)))
            assert ends(results) == [(Status.OK, pid) for pid in range(30, 70)]
            assert [len(each) - 1 for each in results] == [pid % 3 for pid in range(30, 70)]
            assert all(report.pid == pid for pid, each in zip(range(30, 70), results, strict=True) for report in each)
            assert [len(message) for message in parent.peers[0].messages] == [MAX_JOBS, MAX_JOBS, 8]

    run(main)


def test_no_jobs_need_no_helper(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with Parent() as parent:
            assert await parent.pool.run_jobs(ALICE, []) == []
            assert not parent.started

    run(main)


def test_helpers_are_who_may_ask_which_file_a_descriptor_is(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with Parent(hang) as parent:
            await parent.pool.run_jobs(ALICE, searches(1))
            await trio.testing.wait_all_tasks_blocked()
            assert parent.identifiers == {FIRST_PID + 1}, "not the one that was killed: its id may be another's"

    run(main)


def test_users_take_turns(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with Parent() as parent:
            parent.most = 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(parent.pool.run_jobs, ALICE, searches(*range(40)))
                await trio.lowlevel.checkpoint()
                nursery.start_soon(parent.pool.run_jobs, BOB, searches(*range(100, 102)))
                nursery.start_soon(parent.pool.run_jobs, CAROL, searches(*range(200, 220)))
            users = [message[0].pid // 100 for message in parent.peers[0].messages if message]
            # Few at a time where others wait, and the others in between.
            assert sorted(users[1:4]) == [0, 1, 2]
            assert all(len(message) <= FEW_JOBS for message in parent.peers[0].messages[1:4])
            done = [job.pid for message in parent.peers[0].messages for job in message]
            assert sorted(done) == [*range(40), 100, 101, *range(200, 220)]

    run(main)


def test_who_takes_long_delays_nobody_else(run: Callable[[Main], None]) -> None:
    """Another helper serves the others, long before the slow one is given up."""
    finished: dict[int, float] = {}

    async def slow(peer: Peer, job: Job) -> None:
        if job.pid == 1:
            await trio.sleep(0.9 * CLIENT_S)

    async def jobs_of(parent: Parent, user: int, pid: int) -> None:
        assert ends(await parent.pool.run_jobs(user, searches(pid))) == [(Status.OK, pid)]
        finished[user] = trio.current_time()

    async def main() -> None:
        async with Parent(slow) as parent:
            begun_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(jobs_of, parent, ALICE, 1)
                await trio.testing.wait_all_tasks_blocked()
                for user in (BOB, CAROL):
                    nursery.start_soon(jobs_of, parent, user, 2)
            assert finished[ALICE] - begun_s == pytest.approx(0.9 * CLIENT_S)
            for user in (BOB, CAROL):
                assert finished[user] - begun_s == pytest.approx(PATIENCE_S)
            assert [job.pid for peer in parent.peers for message in peer.messages for job in message] == [1, 2, 2]
            assert len(parent.peers) == 2
            assert not parent.replaced

    run(main)


def test_a_helper_that_hangs_is_replaced_and_what_it_had_not_begun_is_done(
    run: Callable[[Main], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def hang_at_two(peer: Peer, job: Job) -> None:
        peer.attention.note(job.pid, ALICE)
        if job.pid == 2:
            await hang(peer, job)

    async def main() -> None:
        async with Parent(hang_at_two) as parent:
            begun_s = trio.current_time()
            results = await parent.pool.run_jobs(ALICE, searches(1, 2, 3, 4))
            assert ends(results) == [(Status.OK, 1), (Status.HELD_UP, 0), (Status.OK, 3), (Status.OK, 4)]
            # That the first one is done is seen when the helper is looked at next.
            assert CLIENT_S <= trio.current_time() - begun_s <= CLIENT_S + PATIENCE_S + 1e-6
            assert parent.replaced == [FIRST_PID]
            assert parent.pool.helpers == 1
            assert parent.pool.left_out == {ALICE}
            assert parent.peers[1].left_out == {ALICE}, "told before it got its first job"
            await trio.sleep(FIRST_S)
            assert parent.pool.left_out == set()
            await parent.pool.run_jobs(BOB, searches(5))
            assert parent.peers[1].left_out == set()

    run(main)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "process 2 " in warning.getMessage()
    assert f"the processes of user {ALICE} are left out for 1 s" in warning.getMessage()


def test_others_get_theirs_while_a_helper_hangs(run: Callable[[Main], None]) -> None:
    """Signals of one and the same notification: they come as soon as the first is found to be slow."""
    finished: dict[int, float] = {}

    async def jobs_of(parent: Parent, user: int) -> None:
        await parent.pool.run_jobs(user, searches(user))
        finished[user] = trio.current_time()

    async def main() -> None:
        async with Parent(hang) as parent:
            begun_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(jobs_of, parent, ALICE)
                await trio.testing.wait_all_tasks_blocked()
                for user in range(2000, 2100):
                    nursery.start_soon(jobs_of, parent, user)
            honest = {at_s for user, at_s in finished.items() if user != ALICE}
            assert max(honest) - begun_s == pytest.approx(PATIENCE_S)
            assert finished[ALICE] - begun_s == pytest.approx(CLIENT_S)

    run(main)


def test_one_attacker_with_many_jobs_holds_up_one_helper_after_the_other_but_not_the_others(
    run: Callable[[Main], None],
) -> None:
    """Its next job goes to a helper that has been told to leave it out, as long as the time is not over."""

    async def hang_for_alice(peer: Peer, job: Job) -> None:
        peer.attention.note(job.pid, ALICE if job.pid < 100 else BOB)
        if job.pid < 100 and ALICE not in peer.left_out:
            await hang(peer, job)

    async def main() -> None:
        async with Parent(*[hang_for_alice] * 50) as parent:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(parent.pool.run_jobs, ALICE, searches(*range(1, 60)))
                await trio.testing.wait_all_tasks_blocked()
                results = await parent.pool.run_jobs(BOB, searches(100))
                assert ends(results) == [(Status.OK, 100)]
            assert len(parent.replaced) <= MAX_HELPERS

    run(main)


def test_what_was_put_off_is_done_in_another_turn(run: Callable[[Main], None]) -> None:
    """Of somebody else's first."""

    async def three_at_a_time(peer: Peer, _job: Job) -> None:
        peer.turn = 3
        await trio.sleep(0.001)

    async def main() -> None:
        async with Parent(three_at_a_time) as parent:
            parent.most = 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(parent.pool.run_jobs, BOB, searches(200))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(parent.pool.run_jobs, ALICE, searches(*range(5)))
                await trio.lowlevel.checkpoint()
                nursery.start_soon(parent.pool.run_jobs, CAROL, searches(300))
            done = [[job.pid for job in message[:3]] for message in parent.peers[0].messages]
            assert done == [[200], [0, 1, 2], [300], [3, 4]]
            results = await parent.pool.run_jobs(ALICE, searches(*range(20)))
            assert ends(results) == [(Status.OK, pid) for pid in range(20)]

    run(main)


TAKES_S = 0.13
"""Less than a helper has for a client."""


async def take_time(peer: Peer, job: Job) -> None:
    """As a helper that waits for a client that always answers, where the client's id is not BOB's."""
    peer.attention.note(job.pid, job.pid)
    if job.pid != BOB:
        await trio.sleep(TAKES_S)


async def bob_waits_s(parent: Parent) -> float:
    begun_s = trio.current_time()
    assert ends(await parent.pool.run_jobs(BOB, [Job(Kind.SIGNAL, pid=BOB)])) == [(Status.OK, BOB)]
    return trio.current_time() - begun_s


@pytest.mark.parametrize("users", [range(2000, 2010), range(100_000, 100_008)], ids=["users", "sub-uids"])
def test_users_who_are_slow_have_one_helper_between_them(
    run: Callable[[Main], None], users: range, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with Parent(*[take_time] * 20) as parent:
            parent.pool.want(2)
            async with trio.open_nursery() as nursery:
                for user in users:
                    nursery.start_soon(parent.pool.run_jobs, user, [Job(Kind.SIGNAL, pid=user)] * 30)
                # By then each of them has had a helper once.
                await trio.sleep(3.0)
                waits_s = []
                for _ in range(40):
                    waits_s.append(await bob_waits_s(parent))
                    await trio.sleep(0.05)
                assert parent.pool.is_slow(users[0])
                assert not parent.pool.is_slow(BOB)
                assert max(waits_s) <= PATIENCE_S
                assert not parent.replaced
                nursery.cancel_scope.cancel()

    run(main)
    assert f"processes of user {users[0]} keep SIGIO helpers waiting" in caplog.text


def test_who_waits_for_nobody_is_not_slow(run: Callable[[Main], None]) -> None:
    """A helper that asks our own server, however long that takes."""

    async def ask_ourselves(peer: Peer, _job: Job) -> None:
        with peer.attention.on_ourselves():
            await trio.sleep(TAKES_S)

    async def main() -> None:
        async with Parent(ask_ourselves) as parent:
            await parent.pool.run_jobs(ALICE, searches(*range(10)))
            assert not parent.pool.is_slow(ALICE)

    run(main)


def test_helpers_that_wait_are_not_taken_for_those_that_have_a_lot_to_do(run: Callable[[Main], None]) -> None:
    """Two of these are enough; where two wait for clients, another one serves the others."""

    async def main() -> None:
        async with Parent(*[take_time] * 4) as parent:
            parent.pool.want(2)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                for user in (ALICE, CAROL):
                    nursery.start_soon(parent.pool.run_jobs, user, [Job(Kind.SIGNAL, pid=user)])
                await trio.sleep(1.5 * PATIENCE_S)
                assert await bob_waits_s(parent) == 0.0

    run(main)


def test_who_was_being_asked_is_blamed_by_the_job_s_user(run: Callable[[Main], None]) -> None:
    """A helper that hangs before it knows whose the process is."""

    async def hang_unknown(peer: Peer, job: Job) -> None:
        peer.attention.note(job.pid, UNKNOWN_UID)
        await hang(peer, job)

    async def main() -> None:
        async with Parent(hang_unknown) as parent:
            await parent.pool.run_jobs(ALICE, searches(1))
            assert parent.pool.left_out == {ALICE}

    run(main)


def test_of_root_s_processes_the_one_is_left_out(run: Callable[[Main], None], caplog: pytest.LogCaptureFixture) -> None:
    async def hang_at_root_s(peer: Peer, job: Job) -> None:
        peer.attention.note(job.pid, ROOT)
        await hang(peer, job)

    async def main() -> None:
        async with Parent(hang_at_root_s) as parent:
            await parent.pool.run_jobs(ALICE, searches(77))
            assert parent.pool.left_out == {-77}
            await parent.pool.run_jobs(BOB, searches(78))
            assert parent.peers[1].left_out == {-77}

    run(main)
    assert "process 77 of root are left out" in caplog.text


def test_a_helper_that_dies_is_replaced_and_the_job_it_died_of_is_not_done_again(run: Callable[[Main], None]) -> None:
    async def die(peer: Peer, _job: Job) -> None:
        peer.die()

    async def main() -> None:
        async with Parent(die) as parent:
            results = await parent.pool.run_jobs(ALICE, searches(1, 2, 3))
            assert ends(results) == [(Status.HELD_UP, 0), (Status.OK, 2), (Status.OK, 3)]
            assert parent.pool.left_out == set(), "it touched nobody"
            assert parent.pool.helpers == 1

    run(main)


def test_a_helper_that_dies_while_it_has_nothing_to_do_is_replaced(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with Parent() as parent:
            await parent.pool.run_jobs(ALICE, searches(1))
            parent.peers[0].die()
            await trio.testing.wait_all_tasks_blocked()
            assert parent.pool.helpers == 1
            assert ends(await parent.pool.run_jobs(ALICE, searches(2))) == [(Status.OK, 2)]
            assert [len(peer.messages) for peer in parent.peers] == [1, 1]

    run(main)


def test_what_is_no_report_ends_a_helper(run: Callable[[Main], None]) -> None:
    """It may have been taken over by whoever it touched."""

    async def rave(peer: Peer, _job: Job) -> None:
        peer.socket.send(b"rave")
        await hang(peer, _job)

    async def main() -> None:
        async with Parent(rave) as parent:
            assert ends(await parent.pool.run_jobs(ALICE, searches(1, 2))) == [(Status.HELD_UP, 0), (Status.OK, 2)]

    run(main)


def test_a_report_on_another_job_is_not_heeded(run: Callable[[Main], None]) -> None:
    async def report_on_all(peer: Peer, job: Job) -> None:
        for number in (job.id - 1, job.id + 1, job.id + 2, 0):
            if number >= 0:
                peer.say(Report(Said.END, number, Status.REFUSED))

    async def main() -> None:
        async with Parent(report_on_all) as parent:
            results = await parent.pool.run_jobs(ALICE, searches(1, 2, 3))
            assert ends(results) == [(Status.OK, 1), (Status.OK, 2), (Status.OK, 3)]

    run(main)


def test_many_clients_may_take_longer_than_one_but_not_for_ever(run: Callable[[Main], None]) -> None:
    """A group with many members: each has its time, and all together a second."""

    async def one_after_the_other(peer: Peer, job: Job) -> None:
        for member in range(1, job.pid + 1):
            peer.attention.note(member, ALICE)
            await trio.sleep(0.7 * CLIENT_S)

    async def main() -> None:
        async with Parent(one_after_the_other, one_after_the_other) as parent:
            assert ends(await parent.pool.run_jobs(ALICE, searches(4))) == [(Status.OK, 4)]
            begun_s = trio.current_time()
            assert ends(await parent.pool.run_jobs(ALICE, searches(1000))) == [(Status.HELD_UP, 0)]
            assert JOB_S - 0.001 <= trio.current_time() - begun_s <= JOB_S + CLIENT_S

    run(main)


def test_each_job_has_its_time_anew(run: Callable[[Main], None]) -> None:
    async def slow(_peer: Peer, _job: Job) -> None:
        await trio.sleep(0.7 * CLIENT_S)

    async def main() -> None:
        async with Parent(slow) as parent:
            results = await parent.pool.run_jobs(ALICE, searches(*range(1, 11)))
            assert ends(results) == [(Status.OK, pid) for pid in range(1, 11)]
            assert not parent.replaced

    run(main)


def test_there_are_never_more_helpers_than_four(run: Callable[[Main], None]) -> None:
    async def slow(_peer: Peer, _job: Job) -> None:
        await trio.sleep(0.9 * CLIENT_S)

    async def main() -> None:
        async with Parent(*[slow] * 20) as parent:
            async with trio.open_nursery() as nursery:
                for user in range(1000, 1020):
                    nursery.start_soon(parent.pool.run_jobs, user, [Job(Kind.SIGNAL, pid=user)])
            assert len(parent.peers) == parent.pool.helpers == MAX_HELPERS


def test_helpers_are_started_before_they_are_needed(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with Parent() as parent:
            parent.pool.want(1)
            parent.pool.want(1)
            await trio.testing.wait_all_tasks_blocked()
            assert (parent.started, len(parent.peers), parent.pool.helpers) == (1, 1, 1)
            parent.pool.want(2)
            await trio.testing.wait_all_tasks_blocked()
            assert (parent.started, len(parent.peers), parent.pool.helpers) == (1, 2, 2)

    run(main)


def test_dismissed_helpers_end_and_their_parent_with_them(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with Parent() as parent:
            parent.pool.want(2)
            await trio.testing.wait_all_tasks_blocked()
            parent.pool.dismiss()
            await trio.testing.wait_all_tasks_blocked()
            assert parent.pool.helpers == 0
            assert all(peer.ended for peer in parent.peers)
            assert parent.identifiers == set()
            assert parent.channel is not None
            with pytest.raises(EOFError):
                parent.channel.receive()
            parent.channel.close()
            # And are started again.
            assert ends(await parent.pool.run_jobs(ALICE, searches(1))) == [(Status.OK, 1)]
            assert parent.started == 2

    run(main)


def test_who_is_at_work_is_not_dismissed(run: Callable[[Main], None]) -> None:
    async def slow(_peer: Peer, _job: Job) -> None:
        await trio.sleep(0.5 * CLIENT_S)

    async def main() -> None:
        async with Parent(slow) as parent:
            results: list[list[list[Report]]] = []

            async def work() -> None:
                results.append(await parent.pool.run_jobs(ALICE, searches(1)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)
                await trio.testing.wait_all_tasks_blocked()
                parent.pool.dismiss()
                assert parent.pool.helpers == 1
            assert ends(results[0]) == [(Status.OK, 1)]

    run(main)


def test_another_parent_comes_in_place_of_one_that_died(run: Callable[[Main], None]) -> None:
    """The helpers die with it."""

    async def die_with_parent(peer: Peer, _job: Job) -> None:
        parents[0].die()
        peer.die()

    parents: list[Parent] = []

    async def main() -> None:
        async with Parent(die_with_parent) as parent:
            parents.append(parent)
            results = await parent.pool.run_jobs(ALICE, searches(1, 2))
            assert ends(results) == [(Status.HELD_UP, 0), (Status.OK, 2)]
            assert parent.started == 2

    run(main)


def test_users_with_many_jobs_each_get_all_of_them(run: Callable[[Main], None]) -> None:
    """Whatever helpers die or hang meanwhile, each job has one END."""
    count: dict[int, int] = defaultdict(int)

    async def unreliable(peer: Peer, job: Job) -> None:
        count[peer.pid] += 1
        peer.attention.note(job.pid, job.pid)
        if count[peer.pid] == 7:
            peer.die()
        elif count[peer.pid] == 5 and peer.pid % 2:
            await hang(peer, job)

    done: list[int] = []

    async def jobs_of(parent: Parent, user: int) -> None:
        results = ends(await parent.pool.run_jobs(user, searches(*[user] * 20)))
        assert {status for status, _ in results} <= {Status.OK, Status.HELD_UP}
        done.append(user)

    async def main() -> None:
        async with Parent(*[unreliable] * 200) as parent:
            async with trio.open_nursery() as nursery:
                for user in range(1000, 1010):
                    nursery.start_soon(jobs_of, parent, user)
            assert sorted(done) == list(range(1000, 1010))
            assert not parent.pool._wait

    run(main)


def test_whether_our_own_mount_answers_is_asked_of_an_idle_helper(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with Parent(at_once) as parent:
            assert await parent.pool.sees_answers(1) is None, "there is no helper yet"
            await parent.pool.run_jobs(ALICE, searches(1))
            assert await parent.pool.sees_answers(1) is True

    run(main)


def test_a_mount_that_does_not_answer(run: Callable[[Main], None]) -> None:
    async def silent(peer: Peer, job: Job) -> None:
        if job.kind is Kind.ASK:
            peer.attention.note(OURSELVES, UNKNOWN_UID)
            await hang(peer, job)

    async def main() -> None:
        async with Parent(silent) as parent:
            await parent.pool.run_jobs(ALICE, searches(1))
            assert await parent.pool.sees_answers(1) is False
            assert parent.pool.left_out == set(), "it is nobody's fault"
            assert await parent.pool.sees_answers(1) is False, "the same question is not answered yet"

    run(main)
