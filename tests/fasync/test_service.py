"""The SIGIO service: whom it has looked for and signalled, and when. The helpers are made up; the device is real.

How real helpers find and signal is in test_helper and test_deliver; all together in tests/conformance.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.fasync.jobs import MAX_JOBS, Job, Kind, Report, Said, Status
from memnotify_cuse.fasync.pool import HelperPool
from memnotify_cuse.fasync.service import IDENTIFY_S, IDLE_S, SIGNALLED_AT_ONCE, SURVEY_DELAYS_S, SigioService
from memnotify_cuse.fasync.strict import AsyncFlags
from memnotify_cuse.kernel.tracefs import TracePipe
from memnotify_cuse.kernel.zoneinfo import ZoneId

NORMAL = ZoneId(0, "Normal")
ALICE, BOB = 1001, 1002
TELLS_ALL = Policy(herd_divisor=None, guard_step_ns=0)
SURVEYED_S = 2 * sum(SURVEY_DELAYS_S)


class Posted:
    """What comes of jobs, once none of their kind is held any more."""

    def __init__(self, reports: list[list[Report]], held: list[trio.Event | None]) -> None:
        self._reports = reports
        self._held = held

    async def results(self) -> list[list[Report]]:
        for event in self._held:
            if event is not None:
                await event.wait()
        await trio.lowlevel.checkpoint()
        return self._reports


class Later(Posted):
    """What comes of jobs that are begun only after `wait` has returned."""

    def __init__(self, begin: Callable[[], Posted], wait: Callable[[], Awaitable[None]]) -> None:
        self._begin = begin
        self._wait = wait

    async def results(self) -> list[list[Report]]:
        await self._wait()
        return await self._begin().results()


class Helpers:
    """In place of the pool: knows where each open file is, and which have owners, and answers as a helper would.

    The answer is found at once; `hold(job)` may keep it from being handed over.
    """

    def __init__(self) -> None:
        self.places: dict[int, tuple[int, int]] = {}
        self.owned: set[int] = set()
        self.deaf: set[int] = set()
        self.owner_pids: dict[int, int] = {}
        self.groups: dict[int, int] = {}
        self.refused: set[int] = set()
        self.namespaces: dict[int, int] = {}
        self.asked: list[tuple[int, Job]] = []
        self.signalled: list[int] = []
        self.wanted = 0
        self.dismissed = 0
        self.holding: dict[Kind, trio.Event] = {}
        self.slow: set[int] = set()
        self.process_users: dict[int, int] = {}

    def is_slow(self, user: int) -> bool:
        return user in self.slow

    def on_slow(self) -> None:
        """Called by the pool; the service puts its own in place of it."""

    def want(self, count: int) -> None:
        self.wanted = max(self.wanted, count)

    def dismiss_spare(self, count: int) -> None:
        self.wanted = min(self.wanted, count)

    def dismiss(self) -> bool:
        self.dismissed += 1
        self.wanted = 0
        return True

    def hold(self, kind: Kind) -> trio.Event:
        """Keep the answers on jobs of this kind that are asked for before `go_on` is called, until the event is set."""
        return self.holding.setdefault(kind, trio.Event())

    def go_on(self) -> None:
        """Answer what is asked for from now on."""
        self.holding.clear()

    async def run_jobs(self, user: int, jobs: Iterable[Job]) -> list[list[Report]]:
        return await self.post(user, jobs).results()

    def post(self, user: int, jobs: Iterable[Job]) -> Posted:
        """They are done now, and answered when they are asked for."""
        reports, held = [], []
        for job in jobs:
            self.asked.append((user, job))
            reports.append([*self._found(job), self._end(job)])
            held.append(self.holding.get(job.kind))
        return Posted(reports, held)

    def of_kind(self, kind: Kind) -> list[Job]:
        return [job for _, job in self.asked if job.kind is kind]

    def _found(self, job: Job) -> list[Report]:
        if job.kind is Kind.PROCESSES:
            pids = sorted({pid for pid, _ in self.places.values()})
            return [
                Report(Said.PROCESS, job.id, pid=pid, uid=self.process_users.get(pid, ALICE))
                for pid in pids
                if pid > job.pid
            ]
        if job.kind is not Kind.SEARCH or job.pid in self.refused:
            return []
        return [
            Report(Said.FOUND, job.id, owned=number in self.owned, number=number, pid=pid, descriptor=descriptor)
            for number, (pid, descriptor) in self.places.items()
            if pid == job.pid and job.descriptor <= descriptor < job.descriptor + job.count
        ]

    def _end(self, job: Job) -> Report:
        if job.kind is Kind.OWNER:
            owner = self.namespaces.get(job.pid)
            return Report(Said.END, job.id, Status.NO_OWNER if owner is None else Status.OK, uid=owner or 0)
        if job.kind is Kind.SEARCH:
            return Report(Said.END, job.id, Status.REFUSED if job.pid in self.refused else Status.OK, uid=ALICE)
        if job.kind is not Kind.SIGNAL:
            return Report(Said.END, job.id)
        number = job.number
        if self.places.get(number) != (job.pid, job.descriptor):
            return Report(Said.END, job.id, Status.GONE)
        if number not in self.owned:
            return Report(Said.END, job.id, Status.NO_OWNER)
        if number in self.deaf:
            return Report(Said.END, job.id, Status.NOBODY)
        self.signalled.append(number)
        after = job.after_pid + 1 if job.after_pid + 1 < self.groups.get(number, 0) else 0
        owner = self.owner_pids.get(number, job.pid)
        return Report(Said.END, job.id, signalled=1, pid=after, owner_pid=owner)


class Bench:
    """A device with the service that sends its SIGIO."""

    def __init__(self, policy: Policy = TELLS_ALL, flags: AsyncFlags | None = None) -> None:
        self.device = Device(4, policy)
        self.helpers = Helpers()
        self.service = SigioService(self.device, cast(HelperPool, self.helpers), flags)
        self._next_descriptor = 3

    def open(self, pid: int, uid: int = ALICE, *, owned: bool = False) -> OpenFile:
        """An open file that process `pid` has; `owned`: it has set an owner."""
        file = self.device.open(uid, None, lambda _file: None)
        file.opener_tid = pid
        self.helpers.places[file.number] = (pid, self._next_descriptor)
        self._next_descriptor += 1
        if owned:
            self.helpers.owned.add(file.number)
        return file

    def notify(self) -> None:
        self.device.notified((ZoneState(NORMAL, 1, 50, 60, 0, "anon_scan", 1),), time.monotonic_ns())
        self.service.notified()

    async def notified(self) -> list[int]:
        """The numbers of the files that are signalled at a notification."""
        self.helpers.signalled.clear()
        self.notify()
        await trio.testing.wait_all_tasks_blocked()
        return sorted(self.helpers.signalled)


Play = Callable[[Bench], Coroutine[object, object, None]]


def run(play: Play, bench: Bench | None = None) -> None:
    """Run `play` beside the service, on a clock that leaps."""
    bench = bench or Bench()

    async def main() -> None:
        with trio.fail_after(100_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.service.run)
                await trio.testing.wait_all_tasks_blocked()
                await play(bench)
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_who_has_an_owner_is_signalled_at_each_notification() -> None:
    async def play(bench: Bench) -> None:
        owned, other = bench.open(100, owned=True), bench.open(200)
        for _ in range(3):
            assert await bench.notified() == [owned.number]
        assert bench.device.poll(owned, time.monotonic_ns())
        bench.helpers.owned = {other.number}
        assert await bench.notified() == [other.number]

    run(play)


def test_an_owner_that_is_set_soon_after_the_open_is_known_before_a_notification() -> None:
    """So that it is signalled first thing, without a search."""

    async def play(bench: Bench) -> None:
        file = bench.open(100)
        await trio.sleep(SURVEY_DELAYS_S[0] / 2)
        bench.helpers.owned.add(file.number)
        await trio.sleep(SURVEYED_S)
        assert bench.device.is_subscribed(file)
        bench.helpers.asked.clear()
        assert await bench.notified() == [file.number]
        assert [job.kind for _, job in bench.helpers.asked] == [Kind.SIGNAL]

    run(play)


def test_nobody_is_looked_for_whose_open_has_just_begun() -> None:
    """It may not have returned, so that nobody has the descriptor; a search in vain would hold up the next one."""

    async def play(bench: Bench) -> None:
        def searched() -> set[int]:
            return {job.pid for job in bench.helpers.of_kind(Kind.SEARCH)}

        await trio.sleep(1)
        bench.open(100)
        await trio.sleep(SURVEY_DELAYS_S[0] / 2)
        bench.open(200)
        await trio.sleep(sum(SURVEY_DELAYS_S))
        assert searched() == {100}
        await trio.sleep(SURVEYED_S)
        assert searched() == {100, 200}

    run(play)


def test_a_process_with_many_files_is_searched_once() -> None:
    async def play(bench: Bench) -> None:
        files = [bench.open(100, owned=True) for _ in range(200)]
        assert await bench.notified() == [file.number for file in files]
        assert len([job for job in bench.helpers.of_kind(Kind.SEARCH) if job.count > 1]) == 1

    run(play)


def test_of_two_looks_at_a_place_the_later_one_holds() -> None:
    """An owner that was set between the two is not forgotten because the first answer comes last."""

    async def play(bench: Bench) -> None:
        file = bench.open(100)
        await trio.sleep(SURVEYED_S)
        first = bench.helpers.hold(Kind.SEARCH)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.service._look, ALICE, [file])
            await trio.testing.wait_all_tasks_blocked()
            bench.helpers.go_on()
            bench.helpers.owned.add(file.number)
            await bench.service._look(ALICE, [file])
            assert bench.device.is_subscribed(file)
            first.set()
        assert bench.device.is_subscribed(file)

    run(play)


def test_a_file_that_has_moved_between_two_looks_is_not_forgotten() -> None:
    async def play(bench: Bench) -> None:
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        first = bench.helpers.hold(Kind.SEARCH)
        place = bench.helpers.places.pop(file.number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.service._look, ALICE, [file])
            await trio.testing.wait_all_tasks_blocked()
            bench.helpers.go_on()
            bench.helpers.places[file.number] = place
            await bench.service._look(ALICE, [file])
            first.set()
        assert bench.device.is_subscribed(file)
        bench.helpers.asked.clear()
        assert await bench.notified() == [file.number]
        assert [job.kind for _, job in bench.helpers.asked] == [Kind.SIGNAL]

    run(play)


def test_an_owner_that_was_set_during_a_search_is_signalled_at_the_next_notification() -> None:
    """The search may have been held up for 200 ms when the notification comes."""

    async def play(bench: Bench) -> None:
        bench.helpers.hold(Kind.SEARCH)
        file = bench.open(100)
        await trio.sleep(SURVEY_DELAYS_S[0] * 1.5)
        assert len(bench.helpers.of_kind(Kind.SEARCH)) == 1
        bench.helpers.owned.add(file.number)
        bench.notify()
        await trio.testing.wait_all_tasks_blocked()
        bench.helpers.holding.pop(Kind.SEARCH).set()
        await trio.testing.wait_all_tasks_blocked()
        assert bench.helpers.signalled == [file.number]

    run(play)


def test_who_is_known_is_signalled_before_others_are_looked_for() -> None:
    """With thousands of files that nobody can be found for, that may take seconds."""

    async def play(bench: Bench) -> None:
        known = [bench.open(100, owned=True) for _ in range(3)]
        await trio.sleep(SURVEYED_S)
        for pid in range(200, 300):
            bench.open(pid)
        bench.helpers.asked.clear()
        assert await bench.notified() == [file.number for file in known]
        kinds = [job.kind for _, job in bench.helpers.asked]
        assert kinds[:3] == [Kind.SIGNAL] * 3
        assert Kind.SEARCH in kinds

    run(play)


def test_who_is_found_is_signalled_before_all_others_were_looked_for() -> None:
    async def play(bench: Bench) -> None:
        files = [bench.open(100 + number, owned=True) for number in range(3 * MAX_JOBS)]
        assert await bench.notified() == [file.number for file in files]
        kinds = [job.kind for _, job in bench.helpers.asked]
        assert kinds[: kinds.index(Kind.SIGNAL)].count(Kind.SEARCH) == MAX_JOBS

    run(play)


def test_a_user_whose_processes_hold_up_helpers_keeps_no_other_user_waiting() -> None:
    async def play(bench: Bench) -> None:
        alices, bobs = bench.open(100, ALICE, owned=True), bench.open(200, BOB, owned=True)
        await trio.sleep(SURVEYED_S)
        held = trio.Event()
        post = bench.helpers.post

        def held_up(user: int, jobs: Iterable[Job]) -> Posted:
            return Later(lambda: post(user, jobs), held.wait) if user == ALICE else post(user, jobs)

        bench.helpers.post = held_up  # type: ignore[method-assign]
        for _ in range(3):
            assert await bench.notified() == [bobs.number]
        held.set()
        await trio.testing.wait_all_tasks_blocked()
        assert alices.number in bench.helpers.signalled

    run(play)


def be_slow(bench: Bench, users: Collection[int]) -> None:
    """From now on the jobs of these users take for ever, and it is known that they are slow."""
    post = bench.helpers.post

    def slow(user: int, jobs: Iterable[Job]) -> Posted:
        async def become_known() -> None:
            bench.helpers.slow.add(user)
            bench.helpers.on_slow()
            await trio.sleep_forever()

        return Later(lambda: post(user, jobs), become_known) if user in users else post(user, jobs)

    bench.helpers.post = slow  # type: ignore[method-assign]


def test_users_who_are_slow_keep_nobody_else_waiting_however_many_they_are() -> None:
    async def play(bench: Bench) -> None:
        slow = range(2000, 2000 + 2 * SIGNALLED_AT_ONCE)
        for user in slow:
            bench.open(user, user, owned=True)
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        be_slow(bench, slow)
        for _ in range(3):
            assert await bench.notified() == [file.number]

    run(play)


def test_owners_are_looked_for_whatever_other_users_files_take() -> None:
    async def play(bench: Bench) -> None:
        be_slow(bench, [BOB])
        bench.open(200, BOB)
        await trio.sleep(SURVEYED_S)
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        assert bench.device.is_subscribed(file)

    run(play)


def test_a_lost_file_is_found_whatever_the_processes_of_other_users_take() -> None:
    async def play(bench: Bench) -> None:
        # Bob has no open file, so that a search is the first to find out that he is slow.
        bench.helpers.process_users = {500: BOB}
        bench.helpers.places[9999] = (500, 3)
        files = [bench.open(100), bench.open(100)]
        await trio.sleep(SURVEYED_S)
        be_slow(bench, [BOB])
        # The second one is found by another search than the first, which is not over for BOB.
        for file in files:
            bench.helpers.places[file.number] = (900, file.number)
            bench.helpers.owned.add(file.number)
            bench.notify()
            await trio.sleep(60)
            assert bench.device.is_subscribed(file)

    run(play)


@pytest.fixture
def fcntl_calls() -> Iterator[tuple[AsyncFlags, Callable[[int, int], None]]]:
    """What follows calls of F_SETFL, and what shows one by thread and descriptor that sets O_ASYNC."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    trace = TracePipe(Path("/sys/kernel/tracing/instances/test"), read_end, -1)

    def show(tid: int, descriptor: int) -> None:
        who = b"a-program".rjust(16) + b"-%d" % tid
        os.write(write_end, who + b"   [001] .....  4780.737758: sys_fcntl(fd: %x, cmd: 4, arg: 0x2000)\n" % descriptor)

    yield AsyncFlags(trace), show
    trace.close()
    os.close(write_end)


Calls = tuple[AsyncFlags, Callable[[int, int], None]]


def test_in_mode_strict_the_calls_of_a_slow_user_keep_nobody_waiting(fcntl_calls: Calls) -> None:
    flags, show = fcntl_calls

    async def play(bench: Bench) -> None:
        file, slow = bench.open(100, owned=True), bench.open(200, BOB, owned=True)
        show(100, bench.helpers.places[file.number][1])
        await trio.sleep(1.0)
        assert await bench.notified() == [file.number]
        be_slow(bench, [-200])
        show(200, bench.helpers.places[slow.number][1])
        await trio.sleep(1.0)
        # Whose the thread is, is not known as yet: it might be this user's.
        bench.helpers.signalled.clear()
        bench.notify()
        await trio.sleep(2 * IDENTIFY_S)
        assert bench.helpers.signalled == [file.number]
        other = bench.open(300, owned=True)
        show(300, bench.helpers.places[other.number][1])
        await trio.sleep(1.0)
        assert bench.device.is_subscribed(other)

    run(play, Bench(flags=flags))


def test_in_mode_strict_it_is_learned_as_well_whose_a_subordinate_id_is(fcntl_calls: Calls) -> None:
    flags, _ = fcntl_calls

    async def play(bench: Bench) -> None:
        bench.helpers.namespaces[500] = BOB
        bench.open(500, 100_000)
        await trio.sleep(SURVEYED_S)
        assert bench.device.users.of(100_000) == BOB
        assert bench.helpers.of_kind(Kind.SEARCH) == [], "no file is looked at before O_ASYNC is set"

    run(play, Bench(flags=flags))


def test_a_signal_that_fails_is_taken_back() -> None:
    """The file is not readable, and its guard time has not begun."""

    async def play(bench: Bench) -> None:
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        bench.helpers.deaf.add(file.number)
        before = (file.told_ns, file.notice)
        assert await bench.notified() == []
        assert (file.told_ns, file.notice) == before
        bench.helpers.deaf.clear()
        assert await bench.notified() == [file.number]

    run(play, Bench(Policy(herd_divisor=None)))


def test_another_s_turn_comes_in_place_of_one_who_cannot_be_signalled() -> None:
    """Of 16 subscribers two are told at each notification."""

    async def play(bench: Bench) -> None:
        files = [bench.open(100, owned=True) for _ in range(16)]
        await trio.sleep(SURVEYED_S)
        bench.helpers.deaf = {file.number for file in files[:5]}
        assert await bench.notified() == [files[5].number, files[6].number]

    run(play, Bench(Policy(guard_step_ns=0)))


def test_a_file_that_has_moved_is_signalled_where_it_is_now() -> None:
    """With another process, or behind another number."""

    async def play(bench: Bench) -> None:
        file = bench.open(100, owned=True)
        assert await bench.notified() == [file.number]
        bench.helpers.places[file.number] = (100, 77)
        assert await bench.notified() == [file.number]
        bench.helpers.places[file.number] = (200, 5)
        file.user_tid = 200
        assert await bench.notified() == [file.number]

    run(play)


def test_a_file_that_neither_its_opener_nor_its_user_has_is_looked_for_everywhere() -> None:
    """A daemon may have passed it on, and ended."""

    async def play(bench: Bench) -> None:
        file = bench.open(100, owned=True)
        bench.helpers.places[file.number] = (300, 5)
        assert await bench.notified() == [file.number]
        assert bench.helpers.of_kind(Kind.PROCESSES)

    run(play)


def test_a_file_without_an_owner_any_more_is_not_signalled() -> None:
    async def play(bench: Bench) -> None:
        file = bench.open(100, owned=True)
        assert await bench.notified() == [file.number]
        bench.helpers.owned.clear()
        assert await bench.notified() == []
        assert not bench.device.is_subscribed(file)

    run(play)


def test_a_closed_file_is_not_signalled() -> None:
    async def play(bench: Bench) -> None:
        file, other = bench.open(100, owned=True), bench.open(200, owned=True)
        assert await bench.notified() == [file.number, other.number]
        bench.device.close(file)
        assert await bench.notified() == [other.number]

    run(play)


def test_all_of_a_group_are_signalled_a_slice_at_a_time() -> None:
    async def play(bench: Bench) -> None:
        file = bench.open(100, owned=True)
        bench.helpers.groups[file.number] = 4
        assert await bench.notified() == [file.number] * 4
        assert [job.after_pid for job in bench.helpers.of_kind(Kind.SIGNAL)] == [0, 1, 2, 3]

    run(play)


def test_an_owner_without_a_descriptor_of_its_own_is_not_searched_at_every_notification() -> None:
    async def play(bench: Bench) -> None:
        file = bench.open(100, owned=True)
        bench.helpers.owner_pids[file.number] = 500
        for _ in range(3):
            assert await bench.notified() == [file.number]
        assert [job.elsewhere for job in bench.helpers.of_kind(Kind.SIGNAL)] == [False, True, True]
        await trio.sleep(10)
        assert await bench.notified() == [file.number]
        assert not bench.helpers.of_kind(Kind.SIGNAL)[-1].elsewhere

    run(play)


def test_one_warning_says_that_processes_may_not_be_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    async def play(bench: Bench) -> None:
        for pid in (100, 200):
            bench.open(pid, owned=True)
            bench.helpers.refused.add(pid)
        for _ in range(3):
            assert await bench.notified() == []

    run(play)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "no SIGIO for process 100" in warning.getMessage()


def test_an_error_that_nobody_expects_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def play(bench: Bench) -> None:
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        post = bench.helpers.post

        def fail(user: int, jobs: Iterable[Job]) -> Posted:
            raise RuntimeError("a mistake of ours")

        bench.helpers.post = fail  # type: ignore[method-assign]
        assert await bench.notified() == []
        bench.helpers.post = post  # type: ignore[method-assign]
        assert await bench.notified() == [file.number]

    run(play)
    assert "a mistake of ours" in caplog.text


def test_the_ids_of_a_user_namespace_are_counted_to_who_made_it() -> None:
    async def play(bench: Bench) -> None:
        bench.helpers.namespaces[100] = BOB
        inside, outside = bench.open(100, 100_000), bench.open(200, ALICE)
        await trio.sleep(SURVEYED_S)
        assert (inside.user, outside.user) == (BOB, ALICE)

    run(play)


def test_helpers_are_there_as_long_as_there_are_open_files() -> None:
    async def play(bench: Bench) -> None:
        assert bench.helpers.wanted == 0
        file = bench.open(100)
        await trio.testing.wait_all_tasks_blocked()
        assert bench.helpers.wanted == 1
        await trio.sleep(3 * IDLE_S)
        assert bench.helpers.wanted == 1
        bench.helpers.owned.add(file.number)
        await bench.notified()
        assert bench.helpers.wanted == 2, "none has to be started at a notification when one is held up"
        bench.device.close(file)
        await trio.sleep(3 * IDLE_S)
        assert bench.helpers.wanted == 0
        bench.open(100)
        await trio.testing.wait_all_tasks_blocked()
        assert bench.helpers.wanted == 1

    run(play)


def test_an_error_with_one_user_loses_no_signal_of_another() -> None:
    async def play(bench: Bench) -> None:
        alices, bobs = bench.open(100, ALICE, owned=True), bench.open(200, BOB, owned=True)
        await trio.sleep(SURVEYED_S)
        post = bench.helpers.post

        def fails_for_alice(user: int, jobs: Iterable[Job]) -> Posted:
            if user == ALICE:
                raise RuntimeError("a mistake of ours")
            return post(user, jobs)

        bench.helpers.post = fails_for_alice  # type: ignore[method-assign]
        for _ in range(2):
            assert await bench.notified() == [bobs.number]
        bench.helpers.post = post  # type: ignore[method-assign]
        assert await bench.notified() == [alices.number, bobs.number]

    run(play)


def test_an_owner_that_is_found_before_its_user_has_its_turn_gets_the_signal() -> None:
    """By a survey: there is nothing left to be found for the notification then."""

    async def play(bench: Bench) -> None:
        file = bench.open(100, owned=True)
        pid, descriptor = bench.helpers.places[file.number]
        bench.notify()
        found = Report(Said.FOUND, 0, owned=True, number=file.number, pid=pid, descriptor=descriptor)
        bench.service._note_places([found], look=1, moves=True)
        await trio.testing.wait_all_tasks_blocked()
        assert bench.helpers.signalled == [file.number]

    run(play)


def test_an_owner_that_was_opened_after_the_notification_waits_for_the_next() -> None:
    async def play(bench: Bench) -> None:
        bench.notify()
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        assert bench.helpers.signalled == []
        assert await bench.notified() == [file.number]

    run(play)
