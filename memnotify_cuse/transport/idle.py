"""Serving requests where the event loop would only wait: a turn of it takes several times as long as a request.

Before it waits, trio calls `before_io_wait` of its instruments, when no task can run. From there requests are served
until there is something else for the loop to do: its own epoll descriptor is watched beside the connections.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Final

import trio

from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.files import read_short_kernel_text
from memnotify_cuse.transport.connection import Connection

log = logging.getLogger(__name__)

LONGEST_WAIT_S: Final = 3600.0

TURNS: Final = 3
"""Of the event loop, after which a task that was started waits."""


class IdleServing(trio.abc.Instrument):
    """Serves `connections` while the event loop, which must be running, has nothing to do.

    `loop_fd` is the descriptor that the loop waits on, None where it is not known.
    """

    def __init__(self, connections: Sequence[Connection], loop_fd: int | None) -> None:
        self._connections = {connection.fileno(): connection for connection in connections}
        self._loop_fd = loop_fd
        self._task_can_run = False
        self._token = trio.lowlevel.current_trio_token()
        self._poll = select.poll()
        for connection in connections:
            self._poll.register(connection, select.POLLIN)
        if self._loop_fd is not None:
            self._poll.register(self._loop_fd, select.POLLIN)

    def begin(self) -> None:
        """Serve from now on; nothing is done where the loop's descriptor is not known."""
        if self._loop_fd is None:
            log.info("requests are served by the event loop: which descriptor it waits on is not known")
            return
        for connection in self._connections.values():
            connection.is_served_idle = True
        trio.lowlevel.add_instrument(self)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Some task can run."""
        self._task_can_run = True

    def before_io_wait(self, timeout: float) -> None:
        """The event loop is about to wait for `timeout` seconds."""
        loop_is_ready = False
        try:
            loop_is_ready = self._serve(time.monotonic() + min(timeout, LONGEST_WAIT_S))
        except Exception:
            log.exception("unexpected error; requests are served by the event loop from now on")
            trio.lowlevel.remove_instrument(self)
            for connection in self._connections.values():
                connection.is_served_idle = False
                connection.go_on()
        if timeout > 0 and not loop_is_ready:
            # It would wait for all of `timeout` once more, and for a task that can run by now. This has it not wait.
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(_nothing, idempotent=True)

    def _serve(self, deadline_s: float) -> bool:
        """Serve until then, or until there is something else to do; whether what the loop waits on is ready."""
        connections = self._connections
        self._task_can_run = False
        left_s = deadline_s - time.monotonic()
        while True:
            ready = self._poll.poll(max(0.0, left_s) * 1000)
            served = loop_is_ready = False
            for fd, _ in ready:
                connection = connections.get(fd)
                if connection is not None:
                    served = True
                    if not connection.serve_turn():
                        # The rest is for its task.
                        connection.go_on()
                        return False
                else:
                    loop_is_ready = True
            if not served:
                return loop_is_ready
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or self._task_can_run:
                return False


def _nothing() -> None:
    pass


async def epoll_of_this_loop() -> int | None:
    """The descriptor of the epoll instance that this event loop waits on; None where it cannot be told.

    It is the one that watches what a task of the loop waits for, by /proc/self/fdinfo. There may be others, such as the
    one by which the loop waits for a PSI trigger.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, ours)
            found = None
            for _ in range(TURNS):
                await trio.lowlevel.checkpoint()
                found = found or _epoll_that_watches(ours.fileno())
            nursery.cancel_scope.cancel()
    return found


def _epoll_that_watches(fd: int) -> int | None:
    try:
        numbers = [name for name in os.listdir("/proc/self/fd") if name.isdecimal()]
    except OSError:
        return None
    for number in numbers:
        # That of the listing itself is gone by now; before Linux 5.14 these files are closed to whoever was root.
        with contextlib.suppress(OSError, KernelFileError):
            if os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventpoll]":
                watched = read_short_kernel_text(f"/proc/self/fdinfo/{number}").splitlines()
                if any(line.split()[1:2] == [str(fd)] for line in watched if line.startswith("tfd:")):
                    return int(number)
    return None
