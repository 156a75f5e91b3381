"""The wakeup source in use: the trace where there is one, else a PSI trigger, else a timer alone.

    trace ──it was switched off─────────▶ spare, while the trace is mended, and looked at again
    trace ──it cannot be read or mended──▶ spare, while another trace is asked for (`late`)
    spare (PSI) ──it hangs up───────────▶ timer, while another trigger is opened
    any ──the trace works───────────────▶ trace

All attempts are made while the scanner is awake anyway, ever more rarely.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from memnotify_cuse.kernel.errors import KernelFileError, MalformedKernelFileError
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.scanner.deferred import DeferredSource
from memnotify_cuse.scanner.health import LOST_EVENTS_SETTLED_S, PSI, TRACE, TRACE_EVENTS, Health
from memnotify_cuse.scanner.retry import Backoff
from memnotify_cuse.scanner.sources import WakeupSource

log = logging.getLogger(__name__)

CHECK_S: Final = 1.0
"""How often the trace is asked whether it is still on, at most: that takes 11 µs, and no event tells it."""
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 600.0
HELD_S: Final = 60.0
"""A trace that was switched off again sooner than this after it was mended is left alone for longer each time."""


class Wakeup:
    """`first` is what the scanner begins with, `spare` what stands in for it; `open_spare` opens another one.

    All of them, and what `late` has got, are closed by `close`.
    """

    def __init__(
        self,
        first: WakeupSource | None,
        health: Health,
        late: DeferredSource | None = None,
        *,
        spare: WakeupSource | None = None,
        open_spare: Callable[[], WakeupSource | None] = lambda: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trace = first if first is not None and first.is_trace else None
        self._spare = first if first is not None and not first.is_trace else spare
        self._open_spare = open_spare
        self._health = health
        self._late = late
        self._clock_s = clock_s
        self._parked = False
        self._mended = False
        self._spare_failed = False
        self._mending = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self._reopening = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self._mend_at_s = self._reopen_at_s = 0.0
        self._checked_s = clock_s()
        self._returned_s = clock_s() - HELD_S
        self._lost_events = 0
        self.lost_events = 0
        """Events that the kernel reported as lost, of all traces that there were."""

    @property
    def current(self) -> WakeupSource | None:
        """What to wait for, beside the timer."""
        return self._trace if self._trace is not None and not self._parked else self._spare

    @property
    def name(self) -> str:
        """What wakes the scanner at present."""
        return self.current.name if self.current is not None else "timer"

    def close(self) -> None:
        for source in (self._trace, self._spare, self._late):
            if source is not None:
                source.close()

    def drain(self) -> tuple[TraceEvent, ...] | None:
        """Silence it; the trace events since the last time, None if there is no trace, or they are not whole."""
        source = self.current
        if source is None:
            return None
        try:
            events = source.drain()
        except MalformedKernelFileError as error:
            self._health.failed(TRACE_EVENTS, error, settled_s=LOST_EVENTS_SETTLED_S)
            return None
        except (KernelFileError, OSError) as error:
            self._lose(source, error)
            return None
        if source is self._trace and not self._are_whole(source):
            return None
        return events

    def pause(self, *, paused: bool) -> None:
        """Let it note, or not, what the kernel does."""
        source = self.current
        if source is None:
            return
        try:
            source.pause(paused=paused)
        except (KernelFileError, OSError) as error:
            self._lose(source, error)

    def look_after(self) -> bool:
        """Mend what fails, if that is due; whether the scanner is woken by the trace anew.

        To be called before a sample is taken, which has in it what any of them could have told until then.
        """
        before = self.name
        better = self._late.take() if self._late is not None else None
        if better is not None:
            self._trace, self._parked, self._lost_events = better, False, 0
            self._took_over(before)
            return True
        now_s = self._clock_s()
        if now_s - self._checked_s < CHECK_S:
            return False
        self._checked_s = now_s
        if self._spare is not None:
            self._health.worked(PSI)
        elif self._spare_failed and now_s >= self._reopen_at_s:
            self._reopen_spare(now_s)
        if self._trace is None:
            return False
        if not self._parked:
            self._check(self._trace, now_s)
            return False
        if now_s >= self._mend_at_s and self._mend(self._trace, now_s):
            self._took_over(before)
            return True
        return False

    def calm(self) -> None:
        """The kernel does not reclaim just now: a good time to ask for a trace."""
        if self._late is not None:
            self._late.ask()

    def _check(self, trace: WakeupSource, now_s: float) -> None:
        try:
            trace.check()
        except (KernelFileError, OSError) as error:
            self._health.failed(TRACE, error)
            self._parked, self._mended = True, False
            self._have_a_spare()
            if now_s - self._returned_s >= HELD_S:
                self._mending.reset()
                self._mend(trace, now_s)
            else:
                self._mend_at_s = now_s + self._mending.next_pause_s()
        else:
            self._health.worked(TRACE)

    def _mend(self, trace: WakeupSource, now_s: float) -> bool:
        """Switch the trace on again, and at the next time see whether that lasted; whether it did."""
        try:
            if not self._mended:
                trace.mend()
                self._mended = True
                return False
        except (KernelFileError, OSError) as error:
            self._lose(trace, error)
            return False
        try:
            trace.check()
        except (KernelFileError, OSError) as error:
            self._health.failed(TRACE, error)
            self._mended = False
            self._mend_at_s = now_s + self._mending.next_pause_s()
            return False
        self._parked = False
        return True

    def _took_over(self, before: str) -> None:
        self._returned_s = self._clock_s()
        self._health.worked(TRACE)
        log.info("woken by %s from now on, in place of %s", self.name, before)
        self.pause(paused=False)
        if self._trace is None:
            return
        with contextlib.suppress(KernelFileError, OSError):
            # What is wrong with it will show when it is read the next time.
            self._trace.drain()
        # While it was not read, it may well have lost some.
        self._lost_events = self._trace.lost_events

    def _lose(self, source: WakeupSource, error: Exception) -> None:
        """Do without `source` until there is another one of its kind."""
        with contextlib.suppress(KernelFileError, OSError):
            source.close()
        if source is self._trace:
            self._health.failed(TRACE, error)
            self._trace = None
            self._have_a_spare()
            if self._late is not None:
                self._late.want()
        else:
            self._health.failed(PSI, error)
            self._spare, self._spare_failed = None, True
            self._reopen_at_s = self._clock_s() + self._reopening.next_pause_s()

    def _have_a_spare(self) -> None:
        if self._spare is None and not self._spare_failed:
            self._spare = self._open_spare()

    def _reopen_spare(self, now_s: float) -> None:
        self._spare = self._open_spare()
        if self._spare is None:
            self._reopen_at_s = now_s + self._reopening.next_pause_s()
            return
        self._spare_failed = False
        self._reopening.reset()

    def _are_whole(self, trace: WakeupSource) -> bool:
        """Whether no event of the trace was lost since the last time."""
        lost = trace.lost_events - self._lost_events
        self._lost_events = trace.lost_events
        self.lost_events += lost
        if not lost:
            self._health.worked(TRACE_EVENTS)
            return True
        reason = f"{self.lost_events} trace events were lost"
        self._health.failed(TRACE_EVENTS, reason, settled_s=LOST_EVENTS_SETTLED_S)
        return False
