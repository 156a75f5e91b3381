"""The loop around the rules: what wakes it, and what does not stop it."""

from __future__ import annotations

import itertools
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from memnotify_cuse.board import Board, ZoneState
from memnotify_cuse.kernel.errors import KernelFileError, NoKernelMemoryError
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.scanner import loop
from memnotify_cuse.scanner.late import LONGEST_PAUSE_S, LateDoorbell
from memnotify_cuse.scanner.loop import Scanner
from memnotify_cuse.scanner.sample import Sampler
from tests.scanner.samples import CLASSIC, direct_begin, shrink

HOST = Path(__file__).parents[1] / "fixtures" / "host-6.18"
NORMAL = ZoneId(0, "Normal")
LIMIT_S = 30
DAY_S = 86_400
"""The limit on a clock that leaps."""


class Listener:
    def __init__(self) -> None:
        self.told = trio.Event()
        self.ended = trio.Event()

    def notified(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        self.told.set()

    def pressure_ended(self, zones: tuple[ZoneId, ...], now_ns: int) -> None:
        self.ended.set()


class FakeBell:
    """A doorbell rung by the test; a real one rings when the kernel reclaims, which tests/reclaim makes it do."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.closed = False
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.events: tuple[TraceEvent, ...] = ()
        self.paused = False

    def ring(self, *events: TraceEvent) -> None:
        self.events = events
        self._theirs.send(b"!")

    def fileno(self) -> int:
        return self._ours.fileno()

    def drain(self) -> tuple[TraceEvent, ...] | None:
        try:
            self._ours.recv(100)
        except BlockingIOError:
            return ()
        return self.events

    def pause(self, *, paused: bool) -> None:
        self.paused = paused

    def close(self) -> None:
        self.closed = True
        self._ours.close()
        self._theirs.close()


class Kernel:
    """A tree like /proc whose files the test changes in place."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        for name in ("zoneinfo", "vmstat", "meminfo"):
            (proc / name).write_text((HOST / name).read_text())

    def count(self, name: str, pages: int) -> None:
        self._replace("vmstat", rf"(?m)^{name} \d+$", f"{name} {pages}")

    def free_pages(self, pages: int) -> None:
        self._replace("zoneinfo", r"(?s)(zone +Normal\n.*?pages free +)\d+", rf"\g<1>{pages}")

    def page_cache(self, pages: int) -> None:
        self._replace("zoneinfo", r"(?s)(zone +Normal\n.*?nr_zone_inactive_file) \d+", rf"\g<1> {pages}")
        self._replace("zoneinfo", r"(?s)(zone +Normal\n.*?nr_zone_active_file) \d+", r"\g<1> 0")
        self._replace("zoneinfo", r"(?s)(zone +DMA32\n.*?pages free +)\d+", r"\g<1>10")
        self._replace("zoneinfo", r"(?s)(zone +DMA32\n.*?nr_zone_inactive_file) \d+", r"\g<1> 0")

    def _replace(self, file: str, pattern: str, by: str) -> None:
        path = self.proc / file
        changed, count = re.subn(pattern, by, path.read_text(), count=1)
        assert count == 1, pattern
        path.write_text(changed)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@asynccontextmanager
async def scanning(
    kernel: Kernel, bell: FakeBell | None, late: LateDoorbell | None = None, *, limit_s: float = LIMIT_S
) -> AsyncIterator[tuple[Scanner, Board, Listener]]:
    listener = Listener()
    board = Board(listener)
    sampler = Sampler(kernel.proc)
    scanner = Scanner(board, sampler, bell, CLASSIC, late)
    scanner.first_scan()
    try:
        with trio.fail_after(limit_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scanner.run)
                yield scanner, board, listener
                nursery.cancel_scope.cancel()
    finally:
        sampler.close()
        scanner.close()


def test_a_ring_brings_the_news_without_waiting_for_the_timer(kernel: Kernel) -> None:
    async def main() -> None:
        bell = FakeBell()
        async with scanning(kernel, bell) as (scanner, board, listener):
            scanner._delay_s = 1e9
            await trio.testing.wait_all_tasks_blocked()
            kernel.free_pages(10)
            kernel.page_cache(0)
            kernel.count("pgscan_kswapd", 10**9)
            bell.ring(shrink())
            await listener.told.wait()
            assert board.states[NORMAL].reason == "anon_scan"
            while not bell.paused:  # noqa: ASYNC110 - under pressure the timer alone counts
                await trio.sleep(0.001)
            kernel.free_pages(20_000_000)
            await listener.ended.wait()
            assert board.states[NORMAL].status == 0
            assert not bell.paused

    trio.run(main)


def test_a_ring_that_only_says_that_reclaim_begins_is_not_looked_into_at_once(kernel: Kernel) -> None:
    """The look waits for the news, but not for long, however often it rings."""

    async def main() -> None:
        bell = FakeBell()
        async with scanning(kernel, bell) as (scanner, _board, _listener):
            scanner._delay_s = 1e9
            await trio.testing.wait_all_tasks_blocked()
            before, rings = scanner.samples, 0
            while scanner.samples == before:
                bell.ring(direct_begin())
                rings += 1
                await trio.sleep(0.001)
            assert rings > 1

    trio.run(main)


def test_a_malformed_file_is_logged_once_and_tried_again(
    kernel: Kernel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RETRY_S", 0.01)

    async def main() -> None:
        bell = FakeBell()
        async with scanning(kernel, bell) as (scanner, _board, _listener):
            whole = (kernel.proc / "vmstat").read_text()
            (kernel.proc / "vmstat").write_text("pgscan_kswapd many\n")
            for _ in range(3):
                bell.ring()
                await trio.sleep(0.05)
            (kernel.proc / "vmstat").write_text(whole)
            before = scanner.samples
            while scanner.samples == before:
                bell.ring()
                await trio.sleep(0.01)

    trio.run(main)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "vmstat:1:" in errors[0]


def test_many_rings_without_evidence_do_not_keep_it_busy(kernel: Kernel) -> None:
    async def main() -> None:
        bell = FakeBell()
        async with scanning(kernel, bell) as (scanner, _board, _listener):
            began = trio.current_time()
            while trio.current_time() < began + 1:
                bell.ring()
                await trio.sleep(0.0005)
            # Left alone for twice as long after each ring: 0.1, 0.2, 0.4 … 20 ms, then anew.
            assert scanner.samples < 250

    trio.run(main)


class Memory:
    """Opens `trace`, after it has refused `refusals` times, as a kernel that is short of memory does."""

    def __init__(self, refusals: int = 0) -> None:
        self.trace = FakeBell("tracefs")
        self.refusals = refusals
        self.asked_s: list[float] = []

    async def open(self) -> FakeBell:
        self.asked_s.append(trio.current_time())
        if len(self.asked_s) <= self.refusals:
            raise NoKernelMemoryError("instances/memnotify-1", "cannot be made: Cannot allocate memory")
        return self.trace


def run_fast(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on a clock that leaps to the next thing that is due."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def put_under_pressure(kernel: Kernel) -> None:
    kernel.free_pages(10)
    kernel.page_cache(0)
    kernel.count("pgscan_kswapd", 10**9)
    kernel.count("pgscan_anon", 10**9)


async def until_woken_by(scanner: Scanner, name: str) -> None:
    while scanner.doorbell_name != name:  # noqa: ASYNC110
        await trio.sleep(1)


def test_the_trace_is_asked_for_again_until_there_is_memory_for_it(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        psi, memory = FakeBell("psi"), Memory(refusals=7)
        async with scanning(kernel, psi, LateDoorbell(memory.open), limit_s=DAY_S) as (scanner, board, listener):
            assert scanner.doorbell_name == "psi"
            await until_woken_by(scanner, "tracefs")
            assert psi.closed
            scanner._delay_s = 1e9
            await trio.testing.wait_all_tasks_blocked()
            put_under_pressure(kernel)
            memory.trace.ring(shrink())
            await listener.told.wait()
            assert board.states[NORMAL].reason == "anon_scan"
        assert memory.trace.closed
        pauses_s = [after - before for before, after in itertools.pairwise(memory.asked_s)]
        assert len(pauses_s) == memory.refusals
        assert pauses_s[0] < LONGEST_PAUSE_S <= pauses_s[-1]

    run_fast(main)
    assert [record.getMessage() for record in caplog.records] == ["woken by tracefs from now on, in place of psi"]


def test_the_timer_too_is_replaced_by_the_trace(kernel: Kernel) -> None:
    async def main() -> None:
        memory = Memory()
        async with scanning(kernel, None, LateDoorbell(memory.open), limit_s=DAY_S) as (scanner, _board, listener):
            assert scanner.doorbell_name == "timer"
            await until_woken_by(scanner, "tracefs")
            scanner._delay_s = 1e9
            await trio.testing.wait_all_tasks_blocked()
            put_under_pressure(kernel)
            memory.trace.ring(shrink())
            await listener.told.wait()

    run_fast(main)


def test_reclaim_while_the_doorbells_are_changed_is_not_lost(kernel: Kernel) -> None:
    """Neither of them rings for it: the old one is closed, and what the new one has seen by then is thrown away."""

    async def main() -> None:
        memory = Memory()

        async def open_while_reclaim_begins() -> FakeBell:
            bell = await memory.open()
            bell.ring(shrink())
            put_under_pressure(kernel)
            return bell

        late = LateDoorbell(open_while_reclaim_begins)
        async with scanning(kernel, FakeBell("psi"), late, limit_s=DAY_S) as (scanner, _board, listener):
            await listener.told.wait()
            await until_woken_by(scanner, "tracefs")

    run_fast(main)


def test_the_trace_is_not_asked_for_under_pressure(kernel: Kernel) -> None:
    async def main() -> None:
        memory = Memory()
        async with scanning(kernel, FakeBell("psi"), LateDoorbell(memory.open), limit_s=DAY_S) as (
            scanner,
            _board,
            listener,
        ):
            put_under_pressure(kernel)
            await listener.told.wait()
            await trio.sleep(20)
            assert not memory.asked_s
            kernel.free_pages(20_000_000)
            await listener.ended.wait()
            await until_woken_by(scanner, "tracefs")

    run_fast(main)


def test_a_refusal_that_does_not_pass_is_logged_and_the_last(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        asked = 0

        async def refuse() -> FakeBell:
            nonlocal asked
            asked += 1
            raise KernelFileError("tracefs is not mounted, or not for us to see")

        async with scanning(kernel, FakeBell("psi"), LateDoorbell(refuse), limit_s=DAY_S) as (
            scanner,
            _board,
            _listener,
        ):
            await trio.sleep(600)
            assert asked == 1
            assert scanner.doorbell_name == "psi"

    run_fast(main)
    assert [record.getMessage() for record in caplog.records] == [
        "no trace events: tracefs is not mounted, or not for us to see"
    ]


def test_a_trace_that_came_and_was_not_taken_yet_is_closed_when_the_server_stops(kernel: Kernel) -> None:
    """The scanner takes it at its next look at the zones, which may be a minute away."""

    async def main() -> None:
        memory, go_on = Memory(), trio.Event()

        async def open_slowly() -> FakeBell:
            trace = await memory.open()
            await go_on.wait()
            return trace

        async with scanning(kernel, None, LateDoorbell(open_slowly), limit_s=DAY_S) as (scanner, _board, _listener):
            while not memory.asked_s:  # noqa: ASYNC110
                await trio.sleep(1)
            go_on.set()
            await trio.testing.wait_all_tasks_blocked()
            assert scanner.doorbell_name == "timer"
            assert not memory.trace.closed
        assert memory.trace.closed

    run_fast(main)
