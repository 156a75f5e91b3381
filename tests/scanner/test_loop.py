"""The loop around the rules: what wakes it, and what does not stop it."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from memnotify_cuse.board import Board, ZoneState
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.scanner import loop
from memnotify_cuse.scanner.loop import Scanner
from memnotify_cuse.scanner.sample import Sampler
from tests.scanner.samples import CLASSIC, shrink

HOST = Path(__file__).parents[1] / "fixtures" / "host-6.18"
NORMAL = ZoneId(0, "Normal")
LIMIT_S = 30


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

    name = "fake"

    def __init__(self) -> None:
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
async def scanning(kernel: Kernel, bell: FakeBell) -> AsyncIterator[tuple[Scanner, Board, Listener]]:
    listener = Listener()
    board = Board(listener)
    sampler = Sampler(kernel.proc)
    scanner = Scanner(board, sampler, bell, CLASSIC)
    scanner.first_scan()
    try:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scanner.run)
                yield scanner, board, listener
                nursery.cancel_scope.cancel()
    finally:
        sampler.close()
        bell.close()


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
            assert bell.paused, "under pressure the timer alone counts"
            kernel.free_pages(20_000_000)
            await listener.ended.wait()
            assert board.states[NORMAL].status == 0
            assert not bell.paused

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
