"""The trace instances of a server, made by root: at its start, or later by a child of the keeper."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from memnotify_cuse.config import ServeError
from memnotify_cuse.keeper.channel import Channel
from memnotify_cuse.kernel.errors import KernelFileError, KernelFileGoneError, NoKernelMemoryError
from memnotify_cuse.kernel.kprobes import (
    EVENTS_FILE,
    FILTER,
    define_event,
    event_name,
    kprobes_problem,
    remove_stale_events,
)
from memnotify_cuse.kernel.tracefs import FCNTL_EVENTS, TraceInstance, find_tracefs, instance_name, remove_instance

log = logging.getLogger(__name__)

STRICT_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)
"""A start in a short shortage of memory gets over it; in a longer one the user that started the server has to know."""


def open_flags_trace(keeper_pid: int, undo: Callable[[str], None]) -> TraceInstance:
    """The trace instance of mode `strict`; `undo` takes note of it before it is made. Raises ServeError."""
    tracefs = find_tracefs()
    if tracefs is None:
        raise ServeError("--sigio strict needs tracefs, which is not mounted, or not for us to see")
    name = instance_name(keeper_pid, "fcntl")
    undo(f"instance {tracefs / 'instances' / name}")
    pauses = iter(STRICT_PAUSES_S)
    while True:
        try:
            return TraceInstance.create(tracefs, name, FCNTL_EVENTS)
        except KernelFileError as error:
            pause_s = next(pauses, None) if isinstance(error, NoKernelMemoryError) else None
            if pause_s is None:
                raise ServeError(f"--sigio strict: {error}") from error
        time.sleep(pause_s)


def open_file_trace(keeper_pid: int, undo: Callable[[str], None]) -> TraceInstance | None:
    """The trace instance of mode `auto`, with a kprobe event of our own; None where there are no kprobe events.

    `undo` takes note of both before they are made.
    """
    tracefs = find_tracefs()
    if tracefs is None or kprobes_problem(tracefs) is not None:
        return None
    name = instance_name(keeper_pid, "kprobe")
    event = event_name(keeper_pid)
    try:
        for stale in remove_stale_events(tracefs, own_pid=keeper_pid):
            log.info("removed the kprobe event %s that a killed server left behind", stale)
        # Undone in reverse order: an event cannot be removed while it is on in an instance.
        undo(f"kprobe {event} {tracefs / EVENTS_FILE}")
        undo(f"instance {tracefs / 'instances' / name}")
        define_event(tracefs, event)
        return TraceInstance.create(tracefs, name, {event: FILTER})
    except KernelFileGoneError as error:
        log.warning("--sigio auto cannot see O_ASYNC, and works as owner: %s", error)
        return None


def offer_trace(channel: Channel, path: str) -> int:
    """Make the trace instance `path`, and send it to the server, or say why there is none; 0 if there is.

    One that is there already is the server's, which asks because that one fails, and has closed it.
    """
    where = Path(path)
    try:
        remove_instance(where)
        instance = TraceInstance.create(where.parent.parent, where.name)
    except NoKernelMemoryError as error:
        channel.send("no-trace", f"again {error}")
    except (KernelFileError, OSError) as error:
        channel.send("no-trace", f"never {error}")
    else:
        pipe = instance.pipe
        channel.send("trace", path, tuple(fd for fd in (pipe.pipe, pipe.switch, pipe.events) if fd >= 0))
        return os.EX_OK
    return 1
