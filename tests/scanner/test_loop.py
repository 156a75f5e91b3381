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

from memnotify_cuse.board import Board, BoardListener, ZoneState
from memnotify_cuse.kernel import files
from memnotify_cuse.kernel.errors import KernelFileError, KernelFileGoneError, NoKernelMemoryError
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.scanner.deferred import LONGEST_PAUSE_S, DeferredSource
from memnotify_cuse.scanner.health import Health, Level
from memnotify_cuse.scanner.loop import Scanner
from memnotify_cuse.scanner.sample import Sampler
from memnotify_cuse.scanner.wakeup import LONGEST_RETRY_S
from tests.scanner.samples import CLASSIC, direct_begin, shrink

HOST = Path(__file__).parents[1] / "fixtures" / "host-6.18"
NORMAL = ZoneId(0, "Normal")
LIMIT_S = 30
DAY_S = 86_400
"""The limit on a clock that leaps."""


class Listener(BoardListener):
    def __init__(self) -> None:
        self.told = trio.Event()
        self.ended = trio.Event()

    def notified(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        self.told.set()

    def pressure_ended(self, zones: tuple[ZoneId, ...], now_ns: int) -> None:
        self.ended.set()


class FakeSource:
    """A wakeup source that reports when the test says so; tests/reclaim has the kernel make a real one report."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.is_trace = name != "psi"
        self.lost_events = 0
        self.broken: KernelFileError | None = None
        self.off = False
        self.closed = False
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.events: tuple[TraceEvent, ...] = ()
        self.paused = False

    def wake(self, *events: TraceEvent) -> None:
        self.events = events
        self._theirs.send(b"!")

    def fileno(self) -> int:
        return self._ours.fileno()

    def drain(self) -> tuple[TraceEvent, ...] | None:
        if self.broken is not None:
            raise self.broken
        try:
            self._ours.recv(100)
        except BlockingIOError:
            return ()
        return self.events

    def check(self) -> None:
        if self.off:
            raise KernelFileGoneError("tracing_on", "switched off from outside")

    def mend(self) -> None:
        if self.broken is not None:
            raise self.broken
        self.off = False

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

    def without_swap(self) -> None:
        for name in ("SwapTotal", "SwapFree"):
            self._replace("meminfo", rf"(?m)^{name}: .*$", f"{name}: 0 kB")

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
    kernel: Kernel,
    source: FakeSource | None,
    late: DeferredSource | None = None,
    *,
    limit_s: float = LIMIT_S,
    spare: FakeSource | None = None,
    open_spare: Callable[[], FakeSource | None] = lambda: None,
) -> AsyncIterator[tuple[Scanner, Board, Listener]]:
    listener = Listener()
    board = Board(listener)
    health = Health(trio.current_time)
    sampler = Sampler(kernel.proc, health, now_ns=now_ns)
    scanner = Scanner(
        board,
        sampler,
        source,
        CLASSIC,
        late,
        spare=spare,
        open_spare=open_spare,
        health=health,
        now_ns=now_ns,
    )
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


def now_ns() -> int:
    return int(trio.current_time() * 1e9)


def health_of(scanner: Scanner) -> Health:
    return scanner._health


def with_kernel_files_followed_at_once(act: Callable[[], None]) -> None:
    """On a clock that leaps, a second of the real one does not pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "FOLLOW_S", 0.0)
        act()


def test_a_ring_brings_the_news_without_waiting_for_the_timer(kernel: Kernel) -> None:
    async def main() -> None:
        source = FakeSource()
        async with scanning(kernel, source) as (scanner, board, listener):
            scanner._delay_s = 1e9
            await trio.testing.wait_all_tasks_blocked()
            kernel.free_pages(10)
            kernel.page_cache(0)
            kernel.count("pgscan_kswapd", 10**9)
            source.wake(shrink())
            await listener.told.wait()
            assert board.states[NORMAL].reason == "anon_scan"
            while not source.paused:  # noqa: ASYNC110 - under pressure the timer alone counts
                await trio.sleep(0.001)
            kernel.free_pages(20_000_000)
            await listener.ended.wait()
            assert board.states[NORMAL].status == 0
            assert not source.paused

    trio.run(main)


def test_a_ring_that_only_says_that_reclaim_begins_is_not_looked_into_at_once(kernel: Kernel) -> None:
    """The look waits for the news, but not for long, however often it wakes."""

    async def main() -> None:
        source = FakeSource()
        async with scanning(kernel, source) as (scanner, _board, _listener):
            scanner._delay_s = 1e9
            await trio.testing.wait_all_tasks_blocked()
            before, wakes = scanner.samples, 0
            while scanner.samples == before:
                source.wake(direct_begin())
                wakes += 1
                await trio.sleep(0.001)
            assert wakes > 1

    trio.run(main)


@pytest.mark.parametrize("fault", ["malformed", "empty"])
def test_a_zoneinfo_that_fails_is_logged_once_and_tried_again(
    fault: str, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """And is over once it has worked for a while, which is logged once as well."""
    file = kernel.proc / "zoneinfo"
    whole = file.read_text()

    async def main() -> None:
        async with scanning(kernel, FakeSource(), limit_s=DAY_S) as (scanner, _board, _listener):
            await trio.sleep(10)
            match fault:
                case "malformed":
                    file.write_text(whole.replace("pages free", "pages ????", 1))
                case "empty":
                    file.write_text("")
            await trio.sleep(60)
            assert health_of(scanner).level is Level.FAILING
            samples = scanner.samples
            file.write_text(whole)
            await trio.sleep(60)
            assert health_of(scanner).level is Level.OK
            assert scanner.samples > samples

    with_kernel_files_followed_at_once(lambda: run_fast(main))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert re.match(r"cannot scan: .*zoneinfo: |cannot scan: .*zoneinfo:\d+: ", said[0])
    assert said[1].startswith("scanning again, after ")


@pytest.mark.parametrize("name", ["vmstat", "meminfo"])
def test_without_another_file_it_goes_on(name: str, kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    """What was read last stands in for it: page cache that runs out shows in zoneinfo alone."""
    kernel.without_swap()
    file = kernel.proc / name
    whole = file.read_text()

    async def main() -> None:
        async with scanning(kernel, FakeSource(), limit_s=600) as (scanner, board, listener):
            file.write_text("pgscan_kswapd many\n" if name == "vmstat" else "SwapFree: all of it\n")
            await trio.sleep(60)
            assert health_of(scanner).level is Level.DEGRADED
            kernel.page_cache(0)
            for pages in range(3000, 10, -10):
                kernel.free_pages(pages)
                await trio.sleep(0.1)
            await listener.told.wait()
            assert board.states[NORMAL].reason == "file_exhausted"
            file.write_text(whole)
            await trio.sleep(60)
            assert health_of(scanner).level is Level.OK

    run_fast(main)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert f"{name}:1: " in said[0]
    assert said[1].startswith(f"{name}: works again, after ")


def test_an_error_of_our_own_does_not_end_the_scanner(
    kernel: Kernel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with scanning(kernel, FakeSource(), limit_s=DAY_S) as (scanner, _board, _listener):
            with monkeypatch.context() as patch:
                patch.setattr(scanner._board, "publish", lambda *_args: 1 / 0)
                await trio.sleep(60)
                assert health_of(scanner).level is Level.FAILING
            await trio.sleep(60)
            assert health_of(scanner).level is Level.OK

    run_fast(main)
    assert [record.getMessage()[:20] for record in caplog.records] == [
        "unexpected error in ",
        "cannot scan: ZeroDiv",
        "scanning again, afte",
    ]


def test_a_trace_that_is_switched_off_is_switched_on_again(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        trace, psi = FakeSource("tracefs"), FakeSource("psi")
        async with scanning(kernel, trace, spare=psi, limit_s=3600) as (scanner, _board, listener):
            await trio.sleep(10)
            trace.off = True
            while health_of(scanner).level is Level.OK:  # noqa: ASYNC110
                await trio.sleep(0.5)
            assert scanner.wakeup_name == "psi"
            await until_woken_by(scanner, "tracefs")
            assert not trace.off
            await trio.sleep(60)
            assert health_of(scanner).level is Level.OK
            put_under_pressure(kernel)
            trace.wake(shrink())
            await listener.told.wait()

    run_fast(main)
    assert [record.getMessage().partition(" (")[0].partition(", after")[0] for record in caplog.records][:3] == [
        "trace: tracing_on: switched off from outside; woken by a PSI trigger or a timer meanwhile",
        "woken by tracefs from now on, in place of psi",
        "trace: works again",
    ]


def test_the_spare_wakes_it_while_the_trace_is_off(kernel: Kernel) -> None:
    async def main() -> None:
        trace, psi = FakeSource("tracefs"), FakeSource("psi")
        trace.mend = lambda: None  # type: ignore[method-assign]
        async with scanning(kernel, trace, spare=psi, limit_s=3600) as (scanner, _board, listener):
            trace.off = True
            await until_woken_by(scanner, "psi")
            scanner._delay_s = 1e9
            await trio.testing.wait_all_tasks_blocked()
            put_under_pressure(kernel)
            psi.wake()
            await listener.told.wait()

    run_fast(main)


def test_a_trace_that_is_switched_off_again_and_again_is_left_alone_for_longer_each_time(kernel: Kernel) -> None:
    async def main() -> None:
        trace, mended_s = FakeSource("tracefs"), []
        trace.mend = lambda: mended_s.append(trio.current_time())  # type: ignore[method-assign]
        async with scanning(kernel, trace, spare=FakeSource("psi"), limit_s=DAY_S) as (scanner, _board, _listener):
            trace.off = True
            await trio.sleep(1700)
            assert scanner.wakeup_name == "psi"
        pauses_s = [after - before for before, after in itertools.pairwise(mended_s)]
        assert 9 < len(mended_s) < 20
        assert pauses_s[0] < 10 < LONGEST_RETRY_S * 3 / 4 <= pauses_s[-1] <= LONGEST_RETRY_S + 10

    run_fast(main)


def test_a_trace_that_cannot_be_read_is_replaced_by_another(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        trace, psi, memory = FakeSource("tracefs"), FakeSource("psi"), Memory(refusals=2)
        late = DeferredSource(memory.open, wanted=False)
        async with scanning(kernel, trace, late, spare=psi, limit_s=3600) as (scanner, _board, listener):
            await trio.sleep(100)
            assert not memory.asked_s
            trace.broken = KernelFileGoneError("trace_pipe", "cannot be read: No such device")
            await until_woken_by(scanner, "psi")
            assert trace.closed
            await until_woken_by(scanner, "tracefs")
            assert len(memory.asked_s) == 3
            await trio.sleep(60)
            assert health_of(scanner).level is Level.OK
            put_under_pressure(kernel)
            memory.trace.wake(shrink())
            await listener.told.wait()
            # And once more.
            kernel.free_pages(20_000_000)
            await listener.ended.wait()
            memory.trace.broken, memory.trace = trace.broken, FakeSource("tracefs")
            await until_woken_by(scanner, "psi")
            await until_woken_by(scanner, "tracefs")

    run_fast(main)
    said = [record.getMessage() for record in caplog.records if "trace:" in record.getMessage()]
    assert len(said) == 3
    assert "No such device" in said[0]
    assert "works again" in said[1]


def test_a_psi_trigger_that_hangs_up_leaves_the_timer_until_there_is_another(kernel: Kernel) -> None:
    async def main() -> None:
        psi, others = FakeSource("psi"), [None, None, FakeSource("psi")]
        async with scanning(kernel, psi, open_spare=lambda: others.pop(0), limit_s=DAY_S) as (
            scanner,
            _board,
            listener,
        ):
            psi.broken = KernelFileGoneError("pressure/memory", "the trigger hung up")
            await until_woken_by(scanner, "timer")
            await trio.sleep(1)
            assert not scanner._interval.wakeup, "or it would rest for longer than it may"
            assert health_of(scanner).level is Level.DEGRADED
            await until_woken_by(scanner, "psi")
            assert not others
            await trio.sleep(1)
            assert scanner._interval.wakeup
            await trio.sleep(60)
            assert health_of(scanner).level is Level.OK
            put_under_pressure(kernel)
            await listener.told.wait()

    run_fast(main)


def test_lost_trace_events_are_counted_and_counters_stand_in(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        trace = FakeSource("tracefs")
        async with scanning(kernel, trace, limit_s=3600) as (scanner, board, listener):
            trace.lost_events = 12
            put_under_pressure(kernel)
            trace.wake(direct_begin())
            await listener.told.wait()
            assert board.states[NORMAL].reason == "anon_scan"
            assert scanner.lost_events == 12
            kernel.free_pages(20_000_000)
            await listener.ended.wait()
            assert health_of(scanner).level is Level.DEGRADED
            await trio.sleep(60)
            assert health_of(scanner).level is Level.OK

    run_fast(main)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "trace-events: 12 trace events were lost; going by the counters meanwhile"
    assert len(said) == 2


def test_many_rings_without_evidence_do_not_keep_it_busy(kernel: Kernel) -> None:
    async def main() -> None:
        source = FakeSource()
        async with scanning(kernel, source) as (scanner, _board, _listener):
            began = trio.current_time()
            while trio.current_time() < began + 1:
                source.wake()
                await trio.sleep(0.0005)
            # Left alone for twice as long after each report: 0.1, 0.2, 0.4 … 20 ms, then anew.
            assert scanner.samples < 250

    trio.run(main)


class Memory:
    """Opens `trace`, after it has refused `refusals` times, as a kernel that is short of memory does."""

    def __init__(self, refusals: int = 0) -> None:
        self.trace = FakeSource("tracefs")
        self.refusals = refusals
        self.asked_s: list[float] = []

    async def open(self) -> FakeSource:
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
    while scanner.wakeup_name != name:  # noqa: ASYNC110
        await trio.sleep(1)


def test_the_trace_is_asked_for_again_until_there_is_memory_for_it(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        psi, memory = FakeSource("psi"), Memory(refusals=7)
        async with scanning(kernel, psi, DeferredSource(memory.open), limit_s=3600) as (scanner, board, listener):
            assert scanner.wakeup_name == "psi"
            await until_woken_by(scanner, "tracefs")
            assert not psi.closed, "it is kept to stand in"
            scanner._delay_s = 1e9
            await trio.testing.wait_all_tasks_blocked()
            put_under_pressure(kernel)
            memory.trace.wake(shrink())
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
        async with scanning(kernel, None, DeferredSource(memory.open), limit_s=3600) as (scanner, _board, listener):
            assert scanner.wakeup_name == "timer"
            await until_woken_by(scanner, "tracefs")
            scanner._delay_s = 1e9
            await trio.testing.wait_all_tasks_blocked()
            put_under_pressure(kernel)
            memory.trace.wake(shrink())
            await listener.told.wait()

    run_fast(main)


def test_reclaim_while_the_wakeup_sources_are_changed_is_not_lost(kernel: Kernel) -> None:
    """Neither of them wakes for it: the old one is closed, and what the new one has seen by then is thrown away."""

    async def main() -> None:
        memory = Memory()

        async def open_while_reclaim_begins() -> FakeSource:
            source = await memory.open()
            source.wake(shrink())
            put_under_pressure(kernel)
            return source

        late = DeferredSource(open_while_reclaim_begins)
        async with scanning(kernel, FakeSource("psi"), late, limit_s=3600) as (scanner, _board, listener):
            await listener.told.wait()
            await until_woken_by(scanner, "tracefs")

    run_fast(main)


def test_the_trace_is_not_asked_for_under_pressure(kernel: Kernel) -> None:
    async def main() -> None:
        memory = Memory()
        async with scanning(kernel, FakeSource("psi"), DeferredSource(memory.open), limit_s=DAY_S) as (
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

        async def refuse() -> FakeSource:
            nonlocal asked
            asked += 1
            raise KernelFileError("tracefs is not mounted, or not for us to see")

        async with scanning(kernel, FakeSource("psi"), DeferredSource(refuse), limit_s=DAY_S) as (
            scanner,
            _board,
            _listener,
        ):
            await trio.sleep(600)
            assert asked == 1
            assert scanner.wakeup_name == "psi"

    run_fast(main)
    assert [record.getMessage() for record in caplog.records] == [
        "no trace events: tracefs is not mounted, or not for us to see"
    ]


def test_a_trace_that_came_and_was_not_taken_yet_is_closed_when_the_server_stops(kernel: Kernel) -> None:
    """The scanner takes it at its next look at the zones, which may be a minute away."""

    async def main() -> None:
        memory, go_on = Memory(), trio.Event()

        async def open_slowly() -> FakeSource:
            trace = await memory.open()
            await go_on.wait()
            return trace

        async with scanning(kernel, None, DeferredSource(open_slowly), limit_s=DAY_S) as (scanner, _board, _listener):
            while not memory.asked_s:  # noqa: ASYNC110
                await trio.sleep(1)
            go_on.set()
            await trio.testing.wait_all_tasks_blocked()
            assert scanner.wakeup_name == "timer"
            assert not memory.trace.closed
        assert memory.trace.closed

    run_fast(main)
