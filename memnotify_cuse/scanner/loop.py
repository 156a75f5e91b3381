"""The scanner: waits for the doorbell or the timer, samples, and publishes to the board."""

from __future__ import annotations

import logging
import time
from typing import Final

import trio

from memnotify_cuse.board import Board
from memnotify_cuse.kernel.errors import KernelFileError, MalformedKernelFileError
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.scanner.cadence import WATCHFUL_S, Cadence
from memnotify_cuse.scanner.doorbell import Doorbell
from memnotify_cuse.scanner.evidence import Machine
from memnotify_cuse.scanner.sample import Sampler
from memnotify_cuse.scanner.zones import ZoneTracker

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.0005
"""The doorbell also rings for reclaim of file pages, maybe thousands of times a second: after each ring that
brought no evidence it is left alone for twice as long as before, from this up to the time between samples."""


class Scanner:
    """Feeds `board` from `sampler`. `first_scan` must have succeeded before `run`."""

    def __init__(self, board: Board, sampler: Sampler, doorbell: Doorbell | None, machine: Machine) -> None:
        self._board = board
        self._sampler = sampler
        self._doorbell = doorbell
        self._tracker = ZoneTracker(machine)
        self._cadence = Cadence(doorbell=doorbell is not None, page_kb=machine.page_kb)
        self._delay_s = WATCHFUL_S
        self._raised = False
        self._pause_s = 0.0
        self.samples = 0

    def first_scan(self) -> None:
        """The first sample, from which all zones are known. Raises KernelFileError."""
        self._scan()

    async def run(self) -> None:
        """Scan until cancelled. A kernel file that is gone or malformed is logged and tried again."""
        failed = False
        while True:
            rang = await self._wait()
            try:
                self._scan(rang=rang)
                failed = False
            except KernelFileError as error:
                if not failed:
                    log.error("cannot scan: %s", error)
                failed = True
                await trio.sleep(RETRY_S)

    async def _wait(self) -> bool:
        """Wait for the doorbell or the timer; True if it rang. Under pressure the timer alone counts."""
        if self._doorbell is None or self._raised:
            await trio.sleep(self._delay_s)
            return False
        if self._pause_s:
            await trio.sleep(self._pause_s)
        with trio.move_on_after(max(0.0, self._delay_s - self._pause_s)):
            await trio.lowlevel.wait_readable(self._doorbell.fileno())
            return True
        return False

    def _scan(self, *, rang: bool = False) -> None:
        sample = self._sampler.sample(self._drain())
        self.samples += 1
        scan = self._tracker.update(sample)
        if rang:
            self._cadence.rang(sample.time_ns)
        self._raised = any(state.under_pressure for state in scan.states)
        if self._doorbell is not None and len(sample.zoneinfo.nodes) == 1:
            # With several nodes the events say which of them it is about; with one, counting pages is cheaper.
            self._doorbell.pause(paused=self._raised)
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), WATCHFUL_S) if rang else 0.0
        self._delay_s = self._cadence.next_delay_s(
            now_ns=sample.time_ns,
            reclaiming=scan.reclaim.scanned_pages > 0,
            raised=self._raised,
            zones=sample.zoneinfo.zones,
        )
        self._board.publish(scan.states, scan.moved, time.monotonic_ns())

    def _drain(self) -> tuple[TraceEvent, ...] | None:
        if self._doorbell is None:
            return None
        try:
            return self._doorbell.drain()
        except MalformedKernelFileError as error:
            log.warning("a trace line was not understood: %s", error)
            return None
