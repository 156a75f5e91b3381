"""What wakes the scanner when the kernel starts to reclaim: a trace instance, or a PSI trigger.

The trace tells at once, and says for each batch of pages whether it was anonymous; PSI tells that programs have
been stalling for a while. Where neither can be had, the timer of `cadence` alone must do.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from memnotify_cuse.kernel.errors import KernelFileError, NoKernelMemoryError
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


class Doorbell(Protocol):
    """Something with a descriptor that becomes readable; `name` is what `status` and `doctor` call it."""

    name: str

    def fileno(self) -> int: ...

    def drain(self) -> tuple[TraceEvent, ...] | None:
        """Silence it, and say what it knows: trace events since the last time; None if it has none."""
        ...

    def pause(self, *, paused: bool) -> None:
        """Stop, or go on, taking note of what the kernel does: during heavy reclaim there is a lot to note."""

    def close(self) -> None: ...


class TraceDoorbell:
    """The vmscan events of a trace instance of our own."""

    name = "tracefs"

    def __init__(self, pipe: TracePipe, close: Callable[[], None] | None = None) -> None:
        self._pipe = pipe
        self._close = close or pipe.close
        self._parser = TraceParser()
        self._paused = False

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

    def pause(self, *, paused: bool) -> None:
        if paused != self._paused:
            if not paused:
                self.drain()
            self._pipe.set_tracing(not paused)
            self._paused = paused

    def close(self) -> None:
        self._close()


class PsiDoorbell:
    """A PSI trigger; its POLLPRI is made readable by an epoll descriptor around it."""

    name = "psi"

    def __init__(self, trigger: int) -> None:
        self._trigger = trigger
        self._epoll = select.epoll()
        self._epoll.register(trigger, select.EPOLLPRI)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def drain(self) -> tuple[TraceEvent, ...] | None:
        self._epoll.poll(0)
        return None

    def pause(self, *, paused: bool) -> None:
        pass

    def close(self) -> None:
        self._epoll.close()
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


def open_psi(proc: Path) -> Doorbell | None:
    """A PSI trigger; None, with a warning, if there is none."""
    try:
        return PsiDoorbell(open_memory_trigger(proc, stall_us=PSI_STALL_US, window_us=PSI_WINDOW_US))
    except (KernelFileError, OSError) as error:
        log.warning("neither trace events nor a PSI trigger can be had; relying on a timer: %s", error)
        return None


def open_doorbell(proc: Path) -> Doorbell | None:
    """The best doorbell that this kernel and our rights allow; None, with a warning, if there is none."""
    trace = open_first_trace().instance
    return TraceDoorbell(trace.pipe, trace.close) if trace is not None else open_psi(proc)


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
