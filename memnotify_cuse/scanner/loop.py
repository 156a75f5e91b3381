"""The scanner: waits for a wakeup source or the timer, samples, and publishes to the board."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from memnotify_cuse.board import Board, ZoneState
from memnotify_cuse.carried import Carried, CarriedNode
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.scanner import choices
from memnotify_cuse.scanner.deferred import DeferredSource
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.health import SCANNER, ZONEINFO, Health
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.polling import FASTEST_FILL_KB_PER_S, PollingInterval
from memnotify_cuse.scanner.retry import Backoff
from memnotify_cuse.scanner.sample import Sample, SampleSource
from memnotify_cuse.scanner.sources import WakeupSource
from memnotify_cuse.scanner.wakeup import Wakeup
from memnotify_cuse.scanner.zones import ZoneTracker

log = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 0.1
LONGEST_RETRY_S: Final = 5.0
"""A sample that fails is tried again after this time: a look costs little, and without one no program is told."""

SETTLING_S: Final = 1.0
"""The longest time between samples while a source that failed has only just worked again."""

FIRST_PAUSE_S: Final = 0.001
"""The wakeup source also reports reclaim of file pages, maybe thousands of times a second: after each look that it
brought about it is left alone for twice as long as before, from this up to the time between samples. It is the
shortest time that trio can sleep for (epoll_wait(2) counts milliseconds)."""


SILENCE_S: Final = 0.001
"""How long after a look the wakeup source is silenced: that takes the kernel as long as answering a poll()."""


class Scanner:
    """Feeds `board` from `source`. `first_scan` must have succeeded before `run`.

    `first`, and `late` if there is to be a better one, are closed by `close`, as is `spare`, which stands in for a
    trace that fails; `open_spare` opens another one. `on_active` is called with whether the kernel reclaims, or a zone
    is under pressure. `health` is told of what fails, `on_sample` of each sample, once it was published. `now_ns` is
    the clock.
    """

    def __init__(
        self,
        board: Board,
        source: SampleSource,
        first: WakeupSource | None,
        machine: Machine,
        late: DeferredSource | None = None,
        *,
        spare: WakeupSource | None = None,
        open_spare: Callable[[], WakeupSource | None] = lambda: None,
        health: Health | None = None,
        headroom_kb: int | None = None,
        fill_kb_per_s: int = FASTEST_FILL_KB_PER_S,
        on_active: Callable[[bool], None] = lambda _active: None,
        on_sample: Callable[[Sample], None] = lambda _sample: None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._board = board
        self._source = source
        self._health = health or Health()
        self._wakeup = Wakeup(
            first, self._health, late, spare=spare, open_spare=open_spare, clock_s=lambda: now_ns() / 1e9
        )
        self._late = late
        self._on_sample = on_sample
        self._now_ns = now_ns
        self._new_tracker = partial(ZoneTracker, machine, headroom_kb)
        self._tracker = self._new_tracker()
        self._interval = PollingInterval(first is not None, machine.page_kb, fill_kb_per_s)
        self._delay_s = choices.ACTIVE_S
        self._raised = False
        self._on_active = on_active
        self._pause_s = 0.0
        self._woken_since_ns = 0
        self._mglru = machine.mglru
        self._one_node = True
        self.samples = 0

    @property
    def wakeup_name(self) -> str:
        """What wakes the scanner at present."""
        return self._wakeup.name

    @property
    def lost_events(self) -> int:
        """How many trace events were lost."""
        return self._wakeup.lost_events

    @property
    def mglru(self) -> bool:
        """Whether the kernel uses MGLRU at present."""
        return self._mglru

    def close(self) -> None:
        self._wakeup.close()

    def first_scan(self) -> None:
        """The first sample, from which all zones are known. Raises KernelFileError."""
        self._scan(self._wakeup.drain())

    @property
    def forecast(self) -> tuple[CarriedNode, ...]:
        """What the next scanner is to know of the nodes."""
        return self._tracker.forecast

    def go_on_from(self, sample: Sample | None, carried: Carried) -> tuple[ZoneState, ...]:
        """Take over from a scanner before this one; the zones as it saw them.

        `sample` is taken for the last one, so that what has changed since is seen by the next. Without it, what was
        carried holds of the sample that this scanner began with.
        """
        if sample is not None:
            self._tracker = self._new_tracker()
            self._tracker.go_on(sample, carried)
        else:
            self._tracker.go_on_with(carried.zones)
        self._delay_s = 0.0
        return self._tracker.states

    async def run(self) -> None:
        """Scan until cancelled. A kernel file that is gone or malformed is tried again."""
        async with trio.open_nursery() as nursery:
            if self._late is not None:
                nursery.start_soon(self._late.run)
            await self._run()

    async def _run(self) -> None:
        """Whatever fails is tried again, and the failure kept in `health`: this task must not end."""
        retry = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            try:
                woken = await self._wait()
                self._look(woken=woken)
            except KernelFileError as error:
                self._health.failed(ZONEINFO, error)
            except RecordingError:
                raise
            except Exception as error:
                if all(failure.source != SCANNER for failure in self._health.failures):
                    log.exception("unexpected error in a scan")
                self._health.failed(SCANNER, repr(error))
            else:
                retry.reset()
                continue
            await trio.sleep(retry.next_pause_s())

    async def _wait(self) -> bool:
        """Wait for the wakeup source or the timer; True if that woke it. Under pressure the timer alone counts."""
        source = self._wakeup.current
        if source is None or self._raised:
            # Who was just told comes first.
            await trio.sleep(min(SILENCE_S, self._delay_s))
            self._silence(silent=True)
            await trio.sleep(max(0.0, self._delay_s - SILENCE_S))
            return False
        if self._pause_s:
            await trio.sleep(self._pause_s)
        with trio.move_on_after(max(0.0, self._delay_s - self._pause_s)):
            await trio.lowlevel.wait_readable(source.fileno())
            return True
        return False

    def _look(self, *, woken: bool) -> None:
        """Sample, unless all there is to know is that reclaim begins: what it reclaims is about to be known."""
        if woken:
            self._on_active(True)
        events = self._wakeup.drain()
        if not woken and self._wakeup.look_after():
            # The sample that follows has in it what the new trace could have told until now.
            events = None
        now_ns = self._now_ns()
        if woken and self._is_only_a_beginning(events):
            self._woken_since_ns = self._woken_since_ns or now_ns
            left_s = choices.ACTIVE_S - (now_ns - self._woken_since_ns) / 1e9
            if left_s > 0:
                self._interval.woken(now_ns)
                self._delay_s = left_s
                return
        self._scan(events, woken=woken)

    def _is_only_a_beginning(self, events: tuple[TraceEvent, ...] | None) -> bool:
        """Whether the trace would tell of anonymous pages, and does not."""
        return not self._mglru and events is not None and not any(event.anon for event in events)

    def _longer_pause_s(self) -> float:
        return min(max(2 * self._pause_s, FIRST_PAUSE_S), choices.ACTIVE_S)

    def _scan(self, events: tuple[TraceEvent, ...] | None, *, woken: bool = False) -> None:
        sample = self._source.sample(events)
        self._health.worked(ZONEINFO)
        self._woken_since_ns = 0
        self.samples += 1
        self._follow_lru(sample)
        scan = self._tracker.update(sample)
        self._board.publish(scan.states, scan.moved, self._now_ns())
        # A scanner that goes on from it does not see again what it shows: so all of that must have been told.
        self._on_sample(sample)
        if woken:
            self._interval.woken(sample.time_ns)
        self._raised = any(state.under_pressure for state in scan.states)
        self._pause_s = self._longer_pause_s() if woken else 0.0
        self._interval.wakeup = self._wakeup.current is not None
        self._delay_s = self._interval.next_delay_s(
            now_ns=sample.time_ns,
            reclaiming=scan.measured.reclaim.scanned_pages > 0,
            raised=self._raised,
            zones=sample.zoneinfo.zones,
            forecasts=scan.measured.forecasts.values(),
        )
        if self._health.is_settling:
            self._delay_s = min(self._delay_s, SETTLING_S)
        active = self._raised or self._interval.is_active(sample.time_ns)
        self._on_active(active)
        if not active:
            self._wakeup.calm()
        self._one_node = len(sample.zoneinfo.nodes) == 1
        if not self._raised:
            self._silence(silent=False)
        self._health.worked(SCANNER)

    def _silence(self, *, silent: bool) -> None:
        """Let the wakeup source note, or not, what goes on under pressure, when the scanner does not wait for it
        anyway.

        With several nodes the events say which of them it is about; with one, counting pages is cheaper.
        """
        if self._one_node:
            self._wakeup.pause(paused=silent)

    def _follow_lru(self, sample: Sample) -> None:
        if sample.mglru is not None and sample.mglru != self._mglru:
            self._mglru = sample.mglru
            log.info("the kernel uses %s from now on", "MGLRU" if sample.mglru else "the classic LRU")
