"""The loop that looks at cgroups: what it publishes, and how much of a CPU it takes."""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memnotify_cuse.board import ZoneState
from memnotify_cuse.domain import CgroupId
from memnotify_cuse.kernel.cgroup import CgroupFiles
from memnotify_cuse.scanner import cgroupchoices, choices
from memnotify_cuse.scanner.cgroupleaves import Place
from memnotify_cuse.scanner.cgroups import CgroupScanner
from tests.scanner.cgroupfiles import GIB_KB, MIB, FakeCgroup, FakeMachine
from tests.scanner.samples import CLASSIC

if TYPE_CHECKING:
    from _typeshed import TraceFunction

LIMIT = 256
ALICE, BOB = 1000, 1001
LIMIT_S = 600
"""On a clock that leaps."""


class Clock:
    """The loop's time, and what looks have taken of it: one of them takes `look_s`."""

    def __init__(self) -> None:
        self.look_s = 0.0
        self.spent_s = 0.0

    def now_ns(self) -> int:
        return int((trio.current_time() + self.spent_s) * 1e9)

    def cpu_ns(self) -> int:
        return int(self.spent_s * 1e9)

    def spend(self) -> int:
        """Asked for the machine's swap at each look."""
        self.spent_s += self.look_s
        return 0


class Bench:
    """A machine, the scanner of its cgroups, and what that has published."""

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine
        self.clock = Clock()
        self.published: list[tuple[dict[CgroupId, ZoneState], list[CgroupId]]] = []
        self.places: dict[int, Place] = {}
        self.news = trio.Event()
        self.scanner = CgroupScanner(
            machine.hierarchy,
            CLASSIC,
            self._take,
            self._move,
            fill_kb_per_s=GIB_KB,
            swap_free_kb=self.clock.spend,
            proc=machine.proc.path,
            now_ns=self.clock.now_ns,
            cpu_ns=self.clock.cpu_ns,
        )

    def _take(self, pressed: Collection[ZoneState], moved: Collection[CgroupId]) -> None:
        states = {}
        for state in pressed:
            assert isinstance(state.zone, CgroupId)
            assert state.under_pressure
            states[state.zone] = state
        self.published.append((states, list(moved)))
        self.news.set()
        self.news = trio.Event()

    def _move(self, number: int, place: Place) -> None:
        self.places[number] = place

    def open(self, number: int, cgroup: str, user: int = ALICE) -> None:
        """A file of a thread with the same number, which is in `cgroup`."""
        self.machine.proc.thread(number, cgroup)
        self.places[number] = self.scanner.follow(number, number, user)

    @property
    def pressed(self) -> list[str]:
        """What was published last."""
        return sorted(cgroup.path for cgroup in self.published[-1][0]) if self.published else []

    async def until(self, *pressed: str) -> None:
        """Until these are published as those under pressure."""
        while self.pressed != sorted(pressed):
            await self.news.wait()

    async def look(self) -> None:
        """Until something is looked at."""
        looks = self.scanner.looks
        while self.scanner.looks == looks:  # noqa: ASYNC110 - counted by the loop, which says nothing
            await trio.sleep(0.001)

    async def fill(self, box: FakeCgroup, *, up_to: int = LIMIT) -> None:
        """Programs take all that they may, 400 MiB a second."""
        for size in range(int(box.anon), up_to + 1, 4):
            box.now(anon=size)
            await trio.sleep(0.01)


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


def run_fast(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on a clock that leaps to the next thing that is due."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@asynccontextmanager
async def scanning(machine: FakeMachine, *, limit_s: float = LIMIT_S) -> AsyncIterator[Bench]:
    bench = Bench(machine)
    try:
        with trio.fail_after(limit_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.scanner.run)
                yield bench
                nursery.cancel_scope.cancel()
    finally:
        bench.scanner.close()


class TestPublished:
    def test_is_pressure_and_its_end(self, machine: FakeMachine) -> None:
        async def main() -> None:
            box = machine.cgroup("/a")
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                await trio.sleep(10)
                assert bench.published == []
                await bench.fill(box)
                assert bench.pressed == ["/a"]
                states, moved = next(each for each in bench.published if each[0])
                assert moved == list(states) == list(bench.places[1].scope)
                assert states[moved[0]].reason == "file_exhausted"
                box.now(anon=50)
                await bench.until()

        run_fast(main)

    def test_comes_before_all_is_taken(self, machine: FakeMachine) -> None:
        async def main() -> None:
            box = machine.cgroup("/a")
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                await trio.sleep(10)
                await bench.fill(box, up_to=LIMIT - 4)
                assert bench.pressed == ["/a"]

        run_fast(main)

    def test_is_of_the_cgroup_that_it_is_about_alone(self, machine: FakeMachine) -> None:
        async def main() -> None:
            box = machine.cgroup("/a")
            other = machine.cgroup("/b")
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                bench.open(2, "/b", BOB)
                await bench.fill(box)
                assert bench.pressed == ["/a"]
                await bench.fill(other)
                assert bench.pressed == ["/a", "/b"]
                box.now(anon=10)
                await bench.until("/b")

        run_fast(main)

    def test_is_of_what_the_cgroup_lies_in_as_well(self, machine: FakeMachine) -> None:
        """The pod has less than its containers may have together."""

        async def main() -> None:
            pod = machine.cgroup("/pod")
            machine.cgroup("/pod/box")
            async with scanning(machine) as bench:
                bench.open(1, "/pod/box")
                await bench.fill(pod)
                assert bench.pressed == ["/pod"]
                assert [cgroup.path for cgroup in bench.places[1].scope] == ["/pod/box", "/pod"]

        run_fast(main)

    def test_as_gone_is_a_cgroup_whose_last_file_is_closed(self, machine: FakeMachine) -> None:
        async def main() -> None:
            box = machine.cgroup("/a")
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                await bench.fill(box)
                assert bench.pressed == ["/a"]
                bench.scanner.forget(1)
                await bench.until()
                looks = bench.scanner.looks
                await trio.sleep(100)
                assert bench.scanner.looks == looks

        run_fast(main)

    def test_as_gone_is_a_cgroup_that_was_removed(self, machine: FakeMachine) -> None:
        async def main() -> None:
            box = machine.cgroup("/a")
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                await bench.fill(box)
                box.remove()
                await bench.until()
                assert bench.places[1].scope == ()

        run_fast(main)

    def test_and_made_anew_it_is_another_one(self, machine: FakeMachine) -> None:
        async def main() -> None:
            box = machine.cgroup("/a")
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                await bench.fill(box)
                (first,) = bench.published[-1][0]
                box.remove()
                await bench.until()
                anew = machine.cgroup("/a")
                bench.scanner.review()
                await bench.fill(anew)
                (second,) = bench.published[-1][0]
                assert (first.path, second.path) == ("/a", "/a")
                assert first != second

        run_fast(main)

    def test_is_a_limit_that_was_lowered(self, machine: FakeMachine) -> None:
        async def main() -> None:
            box = machine.cgroup("/a", limit=2048)
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                await trio.sleep(1)
                box.set_limit(LIMIT)
                bench.scanner.review()
                await bench.fill(box)
                assert bench.pressed == ["/a"]

        run_fast(main)

    def test_is_nothing_new_where_nothing_is(self, machine: FakeMachine) -> None:
        async def main() -> None:
            box = machine.cgroup("/a")
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                box.now(anon=16, file=100)
                await trio.sleep(100)
                assert bench.published == []
                assert bench.scanner.looks > 0

        run_fast(main)

    def test_does_not_end_with_a_cgroup_that_cannot_be_read(
        self, machine: FakeMachine, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is said once, however often limits are reviewed."""

        async def main() -> None:
            odd = machine.cgroup("/odd")
            box = machine.cgroup("/a")
            async with scanning(machine) as bench:
                bench.open(1, "/odd")
                bench.open(2, "/a")
                odd.now(anon=LIMIT)
                odd.without_stat()
                for _ in range(10):
                    await trio.sleep(2)
                    bench.scanner.review()
                await bench.fill(box)
                assert bench.pressed == ["/a"]

        run_fast(main)
        (record,) = caplog.records
        assert record.getMessage().startswith("cgroup:/odd: ")

    @pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.ENFILE])
    def test_does_not_end_with_an_error_that_passes(
        self, number: int, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kernel may have no memory for it just when it is needed. The cgroup is there all the while."""
        fails = False
        original = os.open

        def open_if(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if fails and dir_fd is not None:
                raise OSError(number, os.strerror(number))
            return original(path, flags, mode, dir_fd=dir_fd)

        async def main() -> None:
            nonlocal fails
            box = machine.cgroup("/a")
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                await bench.fill(box)
                assert bench.pressed == ["/a"]
                scope = bench.places[1].scope
                fails = True
                await trio.sleep(1)
                fails = False
                assert (bench.pressed, bench.places[1].scope) == (["/a"], scope)
                box.now(anon=10)
                await bench.until()

        monkeypatch.setattr(os, "open", open_if)
        run_fast(main)


class TestWhenItLooks:
    def test_is_at_once_when_the_limit_is_reached(self, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
        """memory.events is ready then, as a socket with urgent data is."""
        listener = socket.create_server(("127.0.0.1", 0))
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        monkeypatch.setattr(CgroupFiles, "open_events", lambda _files: os.dup(ours.fileno()))

        async def main() -> None:
            box = machine.cgroup("/a", limit=1024 * 1024)
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                await trio.sleep(20)
                await bench.look()
                await trio.sleep(choices.REST_S / 5)
                now_s = trio.current_time()
                box.now(anon=1024 * 1024)
                theirs.send(b"!", socket.MSG_OOB)
                await bench.look()
                assert trio.current_time() - now_s < choices.REST_S / 10

        with listener, theirs, ours:
            run_fast(main)

    def test_is_seldom_while_nothing_can_happen(self, machine: FakeMachine) -> None:
        async def main() -> None:
            machine.cgroup("/a", limit=1024 * 1024)
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                await trio.sleep(100)
                assert 100 / choices.REST_S / 2 < bench.scanner.looks < 3 * 100 / choices.REST_S

        run_fast(main)

    def test_is_often_when_little_is_left(self, machine: FakeMachine) -> None:
        async def main() -> None:
            box = machine.cgroup("/a")
            async with scanning(machine) as bench:
                bench.open(1, "/a")
                await bench.fill(box, up_to=180)
                looks = bench.scanner.looks
                await bench.fill(box, up_to=220)
                assert bench.scanner.looks - looks >= 10

        run_fast(main)


class TestBudget:
    """A look takes a quarter of a millisecond. So much of the time may looks take."""

    LOOK_S = 0.00025

    def many(self, bench: Bench, count: int, anon: int, *, user: int | None = None) -> list[FakeCgroup]:
        boxes = []
        for number in range(1, count + 1):
            box = bench.machine.cgroup(f"/{user}-{number}")
            box.now(anon=anon)
            boxes.append(box)
            tid = (user or 0) * 100_000 + number
            bench.open(tid, box.path, user=user or number)
        bench.clock.look_s = self.LOOK_S
        return boxes

    async def spends(self, bench: Bench, seconds: float) -> float:
        """Which part of so many seconds looks take."""
        spent_s, began_ns = bench.clock.spent_s, bench.clock.now_ns()
        await trio.sleep(seconds)
        return (bench.clock.spent_s - spent_s) / ((bench.clock.now_ns() - began_ns) / 1e9)

    @pytest.mark.parametrize(("user", "count", "users"), [(ALICE, 150, 1), (None, 200, cgroupchoices.QUIET_USERS)])
    def test_many_quiet_ones_take_a_small_part(
        self, user: int | None, count: int, users: int, machine: FakeMachine
    ) -> None:
        """Those of one user, and those of as many users as there are cgroups."""

        async def main() -> None:
            async with scanning(machine) as bench:
                self.many(bench, count, anon=100, user=user)
                assert await self.spends(bench, 5) <= 1 / cgroupchoices.SHARE
                looks = bench.scanner.looks
                assert await self.spends(bench, 20) <= 1.5 * users / cgroupchoices.QUIET_SHARE
                assert bench.scanner.looks - looks >= 2 * count, "each is looked at nevertheless"

        run_fast(main)

    def test_many_at_their_limits_take_no_more(self, machine: FakeMachine) -> None:
        """Cgroups are full of page cache for most of their lives."""

        async def main() -> None:
            async with scanning(machine) as bench:
                for box in self.many(bench, 150, anon=16, user=ALICE):
                    box.now(file=LIMIT - 16)
                await trio.sleep(10)
                assert await self.spends(bench, 20) <= 1.5 / cgroupchoices.QUIET_SHARE

        run_fast(main)

    def test_few_quiet_ones_are_looked_at_together(self, machine: FakeMachine) -> None:
        """So that all of them are one wake-up, whenever their files were opened."""

        async def main() -> None:
            async with scanning(machine) as bench:
                for number in range(1, 11):
                    machine.cgroup(f"/{number}").now(anon=190)
                    bench.open(number, f"/{number}", user=number)
                    await trio.sleep(0.0437)
                await trio.sleep(5)
                times: list[float] = []

                def spend() -> int:
                    times.append(trio.current_time())
                    return 0

                bench.scanner._swap_free_kb = spend
                await trio.sleep(10)
                assert len(times) > 500
                assert len(set(times)) <= math.ceil(10 / cgroupchoices.QUIET_S) + 1

        run_fast(main)

    def test_those_that_move_all_the_time_take_no_more_than_their_share(self, machine: FakeMachine) -> None:
        async def main() -> None:
            async with scanning(machine) as bench:
                boxes = self.many(bench, 100, anon=240)
                await trio.sleep(1)
                spent_s, began_ns = bench.clock.spent_s, bench.clock.now_ns()
                for step in range(10):
                    for box in boxes:
                        box.now(anon=240 + step % 2 * 4)
                    await trio.sleep(0.1)
                part = (bench.clock.spent_s - spent_s) / ((bench.clock.now_ns() - began_ns) / 1e9)
                assert part <= 1.05 / cgroupchoices.SHARE

        run_fast(main)

    def test_a_user_with_many_that_move_does_not_hold_up_another(self, machine: FakeMachine) -> None:
        async def main() -> None:
            async with scanning(machine) as bench:
                boxes = self.many(bench, 30, anon=240, user=ALICE)
                box = machine.cgroup("/bob")
                bench.open(1, "/bob", BOB)
                await trio.sleep(5)
                for size in range(8, LIMIT, 8):
                    for each in boxes:
                        each.now(anon=240 + size % 16 / 2)
                    box.now(anon=size)
                    await trio.sleep(0.02)
                assert "/bob" in bench.pressed

        run_fast(main)


class TestDescription:
    def test_is_of_each_cgroup_with_open_files(self, machine: FakeMachine) -> None:
        async def main() -> None:
            box = machine.cgroup("/a b")
            machine.cgroup("/free", limit=None)
            async with scanning(machine) as bench:
                bench.open(1, "/a b")
                bench.open(2, "/a b")
                bench.open(3, "/free")
                await trio.sleep(1)
                (words,) = bench.scanner.describe()
                assert words == {
                    "cgroup": "cgroup:/a%20b",
                    "status": "0",
                    "limit_kb": str(LIMIT * 1024),
                    "usage_kb": "0",
                    "listeners": "2",
                    "raised": "0",
                    "level": "-",
                }
                await bench.fill(box, up_to=LIMIT - 4)
                (words,) = bench.scanner.describe()
                assert (words["status"], words["raised"]) == ("1", "1")
                assert words["usage_kb"] == str((LIMIT - 4) * MIB // 1024)
                assert words["level"] in ("medium", "critical")

        run_fast(main)

    def test_costs_no_more_for_each_where_there_are_many(self, tmp_path: Path) -> None:
        """Any program may ask for it, and all else waits meanwhile."""

        def work(count: int) -> int:
            found = 0

            async def main() -> None:
                nonlocal found
                (tmp_path / str(count)).mkdir()
                machine = FakeMachine(tmp_path / str(count))
                async with scanning(machine) as bench:
                    for number in range(1, count + 1):
                        machine.cgroup(f"/{number}")
                        bench.open(number, f"/{number}")
                    found = instructions_of(bench.scanner.describe)

            run_fast(main)
            return found

        assert work(80) < 8 * work(20), "four times as many, and some"


def instructions_of(act: Callable[[], object]) -> int:
    """How many instructions of Python it takes: a measure of work that is the same on each machine."""
    count = 0

    def trace(frame: FrameType, event: str, _arg: object) -> TraceFunction:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def test_closing_it_gives_all_descriptors_back(machine: FakeMachine) -> None:
    async def main() -> None:
        async with scanning(machine) as bench:
            for number in range(1, 5):
                box = machine.cgroup(f"/{number}")
                (box.directory / "memory.events").write_text("max 0\n")
                bench.open(number, f"/{number}")
            await trio.sleep(1)
            assert machine.descriptors >= 4

    run_fast(main)
    assert machine.descriptors == 0
