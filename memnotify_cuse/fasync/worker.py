"""One thread for everything that touches clients' descriptors, so that the server never waits on its own mount.

Closing a duplicate of a client's descriptor, or polling it, can send a request to the file system that it belongs to,
which may be ours: the event loop must be free to answer. The thread exists from the start, because starting one
takes memory, and it is needed when there is none.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import trio

T = TypeVar("T")

_Job = tuple[Callable[[], None], Callable[[], None]]


class Worker:
    """Runs calls one after the other in a thread of its own; `thread_id` is the kernel's id of that thread."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        started = threading.Event()
        self.thread_id = 0

        def run() -> None:
            self.thread_id = threading.get_native_id()
            started.set()
            while (job := self._jobs.get()) is not None:
                call, done = job
                call()
                done()

        self._thread = threading.Thread(target=run, name="fasync", daemon=True)
        self._thread.start()
        started.wait()

    async def run(self, call: Callable[..., T], *args: Any) -> T:  # noqa: ANN401 - passes them on
        """`call(*args)` in the thread; its result or exception. Cancelled, it does not wait for it."""
        token = trio.lowlevel.current_trio_token()
        finished = trio.Event()
        results: list[T] = []
        errors: list[Exception] = []

        def work() -> None:
            try:
                results.append(call(*args))
            except Exception as error:
                errors.append(error)

        def done() -> None:
            # The loop may have ended while the call was running.
            try:
                token.run_sync_soon(finished.set)
            except trio.RunFinishedError:
                return

        self._jobs.put((work, done))
        await finished.wait()
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        """Let the thread end after what it is doing; it is not waited for."""
        self._jobs.put(None)
