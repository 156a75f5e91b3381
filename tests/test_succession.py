"""What a server notes down, and how the next one goes on: real state files, samples that are made up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from memnotify_cuse.board import Board, BoardListener, ZoneState
from memnotify_cuse.keeper.statefile import PRESSURE_BYTES, STATE_BYTES, StateFile, create_state
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.pressurelog import PressureLog
from memnotify_cuse.scanner.loop import Scanner
from memnotify_cuse.scanner.sample import Sample
from memnotify_cuse.succession import Succession
from tests.scanner.samples import CLASSIC, sample, zone

NORMAL = ZoneId(0, "Normal")
BATCH = 4000


class Killed(BaseException):
    """The server ends here."""


class Kernel:
    """Counters, of one zone."""

    def __init__(self) -> None:
        self.free_pages = 1500
        self.scanned_pages = 0

    def sample(self, events: tuple[TraceEvent, ...] | None = None) -> Sample:
        return sample(
            zone(free=self.free_pages),
            time_ms=time.monotonic_ns() // 1_000_000,
            pgscan_anon=self.scanned_pages,
            pgscan_kswapd=self.scanned_pages,
            pgsteal_anon=self.scanned_pages,
        )


class Server(BoardListener):
    """Scanner and board of one server, which is told of what it tells; `look` takes a sample."""

    def __init__(self, fd: int, kernel: Kernel) -> None:
        self.mortal = False
        self.told = 0
        self.ended = 0
        state = StateFile(fd)
        self._succession = Succession(state)
        log = PressureLog(page_kb=4)

        def watch(states: object, now_ns: int) -> None:
            log.changed(self.board.states, now_ns)
            self._succession.note()

        self.board = Board(self, watch=watch)
        scanner = Scanner(self.board, kernel, None, CLASSIC, on_sample=self._succession.note_sample)
        self._succession.of(self.board, scanner, log)
        self.look = scanner.first_scan
        self.look()
        # Until now it was the server's before.
        state.begin()
        self.resumed = [state.zone for state in self._succession.go_on(time.monotonic_ns())]
        self.board.tick(time.monotonic_ns())

    @property
    def zone(self) -> ZoneState:
        return self.board.states[NORMAL]

    def notified(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        if self.mortal:
            raise Killed
        self.told += 1

    def pressure_ended(self, zones: tuple[ZoneId, ...], now_ns: int) -> None:
        self.ended += 1


@pytest.fixture
def fd() -> Iterator[int]:
    made = create_state()
    yield made
    os.close(made)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def noted(fd: int) -> bytes:
    """All that says something of the pressure: the header, and where it is kept."""
    at = STATE_BYTES - 2 * PRESSURE_BYTES
    return os.pread(fd, 64, 0)[33:] + os.pread(fd, 2 * PRESSURE_BYTES, at)


def test_pressure_goes_on_until_the_threshold(fd: int, kernel: Kernel) -> None:
    first = Server(fd, kernel)
    kernel.scanned_pages += BATCH
    first.look()
    assert (first.resumed, first.told, first.zone.status, first.zone.raised) == ([], 1, 1, 1)
    following = Server(fd, kernel)
    assert following.resumed == [NORMAL]
    following.look()
    assert (following.told, following.zone.status, following.zone.raised) == (0, 1, 1)
    assert (following.zone.time_ns, following.zone.reason) == (first.zone.time_ns, "anon_scan")
    assert following.board.notifications == 1
    kernel.free_pages = 2001
    third = Server(fd, kernel)
    third.look()
    assert (third.ended, third.zone.status) == (1, 0)
    assert Server(fd, kernel).resumed == []


def test_evidence_whose_notification_was_cut_short_is_told_by_the_next_server(fd: int, kernel: Kernel) -> None:
    """Half of the programs may have been told: twice is better than not at all."""
    first = Server(fd, kernel)
    first.mortal = True
    kernel.scanned_pages += BATCH
    with pytest.raises(Killed):
        first.look()
    following = Server(fd, kernel)
    following.look()
    assert (following.told, following.zone.status, following.zone.raised) == (1, 1, 1)


def test_at_rest_nothing_is_written(fd: int, kernel: Kernel) -> None:
    server = Server(fd, kernel)
    before = noted(fd)
    for _ in range(5):
        kernel.free_pages -= 1
        server.look()
        server.board.tick(time.monotonic_ns())
    assert noted(fd) == before
    server.board.simulate(NORMAL, 10**12, time.monotonic_ns())
    assert noted(fd) != before


def test_a_sample_of_the_future_is_left_out(fd: int, kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    Server(fd, kernel)
    state = StateFile(fd)
    state.begin()
    state.note_sample(state.sample.replace(b'{"time_ns":', b'{"time_ns":9', 1))
    kernel.scanned_pages += BATCH
    following = Server(fd, kernel)
    following.look()
    assert following.told == 0
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["the scanner begins anew"]
    kernel.scanned_pages += BATCH
    Server(fd, kernel).look()
    assert len(caplog.records) == 1
