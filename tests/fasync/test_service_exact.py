"""The SIGIO service in mode `auto`: what it still asks of helpers when calls of fcntl are seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable
from typing import cast

import trio
import trio.testing

from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.fasync.jobs import Job, Kind, Report, Said, Status
from memnotify_cuse.fasync.pool import HelperPool
from memnotify_cuse.fasync.service import SURVEY_DELAYS_S, SigioService
from memnotify_cuse.kernel.kprobes import F_SETFL, F_SETOWN
from tests.fasync.kernel_calls import OWNER, Kernel, found
from tests.fasync.test_service import ALICE, Bench, Helpers

SURVEYED_S = 2 * sum(SURVEY_DELAYS_S)


class MarkingHelpers(Helpers):
    """Helpers that mark what they find. The pointer of file N is 0xF00 + N, its owner the process that has it."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel
        self.fragile: set[int] = set()
        self.killed: list[int] = []

    async def run_jobs(self, user: int, jobs: Iterable[Job]) -> list[list[Report]]:
        listed = list(jobs)
        return [
            [self._marked(job, report) for report in reports]
            for job, reports in zip(listed, await super().run_jobs(user, listed), strict=True)
        ]

    def _marked(self, job: Job, report: Report) -> Report:
        if report.said is not Said.FOUND or not job.mark:
            return report
        mark = job.mark + report.number
        self._kernel.call(0xF00 + report.number, 15, mark)
        owner = OWNER._replace(pid=report.pid, descriptor=report.descriptor) if report.owned else None
        return found(report.number, mark, owner, owned=report.owned)._replace(
            id=report.id, pid=report.pid, descriptor=report.descriptor
        )

    def _end(self, job: Job) -> Report:
        if job.kind is not Kind.SEND:
            return super()._end(job)
        if job.number not in self.owned:
            return Report(Said.END, job.id, Status.NO_OWNER)
        if job.number in self.fragile and job.spare:
            return Report(Said.END, job.id, Status.SPARED)
        (self.killed if job.number in self.fragile else self.signalled).append(job.number)
        return Report(Said.END, job.id, signalled=1)


class ExactBench(Bench):
    """A device whose programs' calls are seen."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = Kernel()
        self.helpers: MarkingHelpers = MarkingHelpers(self.kernel)
        self.service = SigioService(self.device, cast(HelperPool, self.helpers), None, self.kernel.calls)

    def open(self, pid: int, uid: int = ALICE, *, owned: bool = False) -> OpenFile:
        file = super().open(pid, uid, owned=owned)
        self.kernel.open.add(file.number)
        return file

    def calls(self, file: OpenFile, cmd: int, arg: int = 0) -> None:
        self.kernel.call(0xF00 + file.number, cmd, arg)

    async def asked(self) -> list[Kind]:
        """What is asked of helpers at a notification."""
        self.helpers.asked.clear()
        await self.notified()
        return [job.kind for _, job in self.helpers.asked]


Play = Callable[[ExactBench], Coroutine[object, object, None]]


def run(play: Play) -> None:
    bench = ExactBench()

    async def main() -> None:
        with trio.fail_after(100_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.service.run)
                await trio.testing.wait_all_tasks_blocked()
                await play(bench)
                nursery.cancel_scope.cancel()

    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        bench.kernel.close()


def test_at_a_notification_nothing_is_looked_at() -> None:
    async def play(bench: ExactBench) -> None:
        files = [bench.open(100 + number, owned=True) for number in range(3)]
        bench.open(200)
        await trio.sleep(SURVEYED_S)
        assert await bench.asked() == [Kind.SEND] * 3
        assert sorted(bench.helpers.signalled) == [file.number for file in files]

    run(play)


def test_a_file_is_looked_at_once_after_its_open() -> None:
    async def play(bench: ExactBench) -> None:
        bench.open(100)
        await trio.sleep(SURVEYED_S)
        assert len(bench.helpers.of_kind(Kind.SEARCH)) == 1

    run(play)


def test_an_owner_that_is_set_later_is_looked_for_at_the_notification() -> None:
    async def play(bench: ExactBench) -> None:
        file = bench.open(100)
        await trio.sleep(SURVEYED_S)
        bench.helpers.owned.add(file.number)
        bench.calls(file, F_SETOWN, 100)
        assert await bench.asked() == [Kind.SEARCH, Kind.SEND]
        assert await bench.asked() == [Kind.SEND]

    run(play)


def test_a_changed_owner_is_asked_for_with_the_signal() -> None:
    async def play(bench: ExactBench) -> None:
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        bench.calls(file, F_SETOWN, 100)
        assert await bench.asked() == [Kind.SIGNAL]
        assert bench.helpers.signalled == [file.number]

    run(play)


def test_o_async_cleared_and_set_again() -> None:
    async def play(bench: ExactBench) -> None:
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        for _ in range(2):
            bench.calls(file, F_SETFL, os.O_ASYNC)
            assert await bench.asked() == [Kind.SEND]
            bench.calls(file, F_SETFL, 0)
            assert await bench.asked() == []
        assert bench.device.subscribers == 0

    run(play)


def test_an_owner_that_has_ended_is_not_signalled_again() -> None:
    async def play(bench: ExactBench) -> None:
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        bench.helpers.owned.remove(file.number)
        assert await bench.asked() == [Kind.SEND]
        assert await bench.asked() == []

    run(play)


def test_who_would_die_does_if_o_async_is_set() -> None:
    async def play(bench: ExactBench) -> None:
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        bench.helpers.fragile.add(file.number)
        assert await bench.asked() == [Kind.SEND]
        assert bench.helpers.killed == [], "an owner alone is no proof that it wants the signal"
        bench.calls(file, F_SETFL, os.O_ASYNC)
        assert await bench.asked() == [Kind.SEND, Kind.SEND]
        assert bench.helpers.killed == [file.number]

    run(play)


def test_who_clears_o_async_before_it_takes_its_handler_away_is_spared() -> None:
    """The call is in the trace by the time at which the handler is seen to be gone."""

    async def play(bench: ExactBench) -> None:
        file = bench.open(100, owned=True)
        await trio.sleep(SURVEYED_S)
        bench.calls(file, F_SETFL, os.O_ASYNC)
        bench.helpers.fragile.add(file.number)
        under_way = bench.helpers.hold(Kind.SEND)
        bench.notify()
        await trio.testing.wait_all_tasks_blocked()
        bench.calls(file, F_SETFL, 0)
        under_way.set()
        await trio.testing.wait_all_tasks_blocked()
        assert bench.helpers.killed == []

    run(play)


def test_after_a_loss_files_are_looked_at_as_with_an_owner_alone() -> None:
    async def play(bench: ExactBench) -> None:
        file, other = bench.open(100, owned=True), bench.open(200)
        await trio.sleep(SURVEYED_S)
        bench.calls(file, F_SETFL, os.O_ASYNC)
        bench.kernel.call(0xBAD, F_SETOWN, 1, lost=True)
        kinds = await bench.asked()
        assert kinds[0] is Kind.SIGNAL
        assert Kind.SEARCH in kinds, "the other one may have an owner by now"
        assert [job.spare for job in bench.helpers.of_kind(Kind.SIGNAL)] == [True]
        assert not bench.device.is_subscribed(other)

    run(play)
