"""What wakes the scanner when the kernel starts to reclaim: a trace instance, or a PSI trigger.

The trace tells at once, and says for each batch of pages whether it was anonymous; PSI tells that programs have
been stalling for a while. Where neither can be had, the timer of `polling` alone must do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from memnotify_cuse.kernel.errors import KernelFileError, KernelFileGoneError, NoKernelMemoryError
from memnotify_cuse.kernel.pressure import open_memory_trigger
from memnotify_cuse.kernel.trace import TraceEvent, TraceParser
from memnotify_cuse.kernel.tracefs import (
    TRACEFS_CANDIDATES,
    TraceInstance,
    TracePipe,
    find_tracefs,
    instance_name,
    mount_tracefs,
    remove_stale_instances,
)

log = logging.getLogger(__name__)

PSI_STALL_US: Final = 50_000
PSI_WINDOW_US: Final = 2_000_000
"""Without CAP_SYS_RESOURCE the window must be a multiple of 2 s."""

MAX_READS: Final = 4


class WakeupSource(Protocol):
    """Something with a descriptor that becomes readable; `name` is what `status` and `doctor` call it."""

    name: str
    is_trace: bool
    """Whether it has trace events, and can be switched off and on."""

    @property
    def lost_events(self) -> int:
        """How many events the kernel has reported as lost."""
        ...

    def fileno(self) -> int: ...

    def drain(self) -> tuple[TraceEvent, ...] | None:
        """Silence it, and say what it knows: trace events since the last time; None if it has none.

        Raises KernelFileError: a MalformedKernelFileError if an event was not understood, another if it reports no
        more.
        """
        ...

    def check(self) -> None:
        """Raise KernelFileError if somebody has switched it off."""

    def mend(self) -> None:
        """Switch it on again. Raises KernelFileError."""

    def pause(self, *, paused: bool) -> None:
        """Stop, or go on, taking note of what the kernel does: during heavy reclaim there is a lot to note."""

    def close(self) -> None: ...


class TraceSource:
    """The vmscan events of a trace instance of our own."""

    name = "tracefs"
    is_trace = True

    def __init__(self, pipe: TracePipe, close: Callable[[], None] | None = None) -> None:
        self._pipe = pipe
        self._close = close or pipe.close
        self._parser = TraceParser()
        self._paused = False

    @property
    def lost_events(self) -> int:
        return self._parser.lost_events

    def fileno(self) -> int:
        return self._pipe.fileno()

    def drain(self) -> tuple[TraceEvent, ...] | None:
        events: list[TraceEvent] = []
        for _ in range(MAX_READS):
            data = self._pipe.read()
            if not data:
                break
            if not self._paused:
                events += self._parser.feed(data)
        return None if self._paused else tuple(events)

    def check(self) -> None:
        self._pipe.check(tracing=not self._paused)

    def mend(self) -> None:
        self._pipe.mend()
        self._paused = False

    def pause(self, *, paused: bool) -> None:
        if paused != self._paused:
            if not paused:
                self.drain()
            self._pipe.set_tracing(not paused)
            self._paused = paused

    def close(self) -> None:
        self._close()


class PsiSource:
    """A PSI trigger; its POLLPRI is made readable by an epoll descriptor around it."""

    name = "psi"
    is_trace = False
    lost_events = 0

    def __init__(self, trigger: int, path: Path) -> None:
        self._path = path
        self._trigger = trigger
        self._epoll = select.epoll()
        self._epoll.register(trigger, select.EPOLLPRI)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def drain(self) -> tuple[TraceEvent, ...] | None:
        if any(events & (select.EPOLLERR | select.EPOLLHUP) for _, events in self._epoll.poll(0)):
            # As the trigger of a FUSE server does that has ended, which would wake the scanner for ever.
            raise KernelFileGoneError(str(self._path), "the trigger hung up")
        return None

    def check(self) -> None:
        pass

    def mend(self) -> None:
        pass

    def pause(self, *, paused: bool) -> None:
        pass

    def close(self) -> None:
        if not self._epoll.closed:
            self._epoll.close()
            # That of a server that has ended says so when it is closed, and is closed.
            with contextlib.suppress(OSError):
                os.close(self._trigger)


class FirstTrace(NamedTuple):
    """A trace instance, or None; and whether there is none only because memory was short: `late` is for that."""

    instance: TraceInstance | None
    may_come: bool = False


def open_first_trace(pid: int | None = None) -> FirstTrace:
    """A trace instance of our own, named after process `pid`, if kernel and rights allow for one; else a warning."""
    try:
        return FirstTrace(_open_first_trace(pid or os.getpid()))
    except NoKernelMemoryError as error:
        log.warning("no trace events yet: %s", error)
        return FirstTrace(None, may_come=True)
    except (KernelFileError, OSError) as error:
        # Root can have them; if not, something is wrong.
        log.log(logging.WARNING if os.geteuid() == 0 else logging.INFO, "no trace events: %s", error)
        return FirstTrace(None)


def open_psi(proc: Path, *, spare: bool = False) -> WakeupSource | None:
    """A PSI trigger; None, with a warning, unless it is only to be a spare, if there is none."""
    try:
        trigger = open_memory_trigger(proc, stall_us=PSI_STALL_US, window_us=PSI_WINDOW_US)
        return PsiSource(trigger, proc / "pressure" / "memory")
    except (KernelFileError, OSError) as error:
        if not spare:
            log.warning("neither trace events nor a PSI trigger can be had; relying on a timer: %s", error)
        return None


def open_source(proc: Path) -> WakeupSource | None:
    """The best wakeup source that this kernel and our rights allow; None, with a warning, if there is none."""
    trace = open_first_trace().instance
    return TraceSource(trace.pipe, trace.close) if trace is not None else open_psi(proc)


def trace_path(pid: int) -> Path | None:
    """Where the trace instance of a server called `pid` would be."""
    tracefs = find_tracefs()
    return tracefs / "instances" / instance_name(pid) if tracefs is not None else None


def _open_first_trace(pid: int) -> TraceInstance:
    if find_tracefs() is None and os.geteuid() == 0:
        mount_tracefs(Path(TRACEFS_CANDIDATES[0]))
    tracefs = _find_tracefs()
    for name in remove_stale_instances(tracefs, own_pid=pid):
        log.info("removed the trace instance %s that a killed server left behind", name)
    return TraceInstance.create(tracefs, instance_name(pid))


def _find_tracefs() -> Path:
    tracefs = find_tracefs()
    if tracefs is None:
        raise KernelFileError("tracefs is not mounted, or not for us to see")
    return tracefs
