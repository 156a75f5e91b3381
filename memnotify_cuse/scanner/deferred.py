"""A trace that is to be had later: asked for again, ever more rarely.

Either memory was short when the server started, perhaps because the OOM killer ended the one before it, or the trace
that it had cannot be read any more. Without this the server would do without one for its life.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from memnotify_cuse.kernel.errors import KernelFileError, NoKernelMemoryError
from memnotify_cuse.scanner.retry import Backoff
from memnotify_cuse.scanner.sources import WakeupSource

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 600.0


class DeferredSource:
    """Opens a trace with `open_source`, which is the keeper's work, while `run` runs and one is `wanted`.

    `ask` says that now would be a good time; it has no timer of its own, which would wake a machine at rest.
    """

    def __init__(self, open_source: Callable[[], Awaitable[WakeupSource]], *, wanted: bool = True) -> None:
        self._open_source = open_source
        self._source: WakeupSource | None = None
        self._asked = trio.Event()
        self._wanted = trio.Event()
        self._not_before_s = math.inf
        if wanted:
            self._wanted.set()

    def want(self) -> None:
        """There is to be one, from now on, until it was taken."""
        self._wanted.set()

    def ask(self) -> None:
        """Let it be tried, unless the last attempt was only just now."""
        if self._not_before_s < math.inf and trio.current_time() >= self._not_before_s:
            self._asked.set()

    def take(self) -> WakeupSource | None:
        """The trace, once, if there is one by now."""
        source, self._source = self._source, None
        return source

    def close(self) -> None:
        """Close a trace that was not taken."""
        source = self.take()
        if source is not None:
            source.close()

    async def run(self) -> None:
        """Open one whenever one is wanted."""
        while True:
            await self._wanted.wait()
            self._source = await self._open()
            self._wanted = trio.Event()

    async def _open(self) -> WakeupSource:
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        told = False
        while True:
            self._asked = trio.Event()
            self._not_before_s = trio.current_time() + backoff.next_pause_s()
            await self._asked.wait()
            self._not_before_s = math.inf
            try:
                return await self._open_source()
            except NoKernelMemoryError as error:
                log.debug("still no trace events: %s", error)
            except (KernelFileError, OSError) as error:
                if not told:
                    log.warning("no trace events: %s", error)
                told = True
                backoff.give_time()
