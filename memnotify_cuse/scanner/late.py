"""A doorbell that could not be had at the start because memory was short: asked for again, ever more rarely.

A server that is started in a shortage, perhaps because the OOM killer ended the one before it, would do without the
trace for its life otherwise.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from memnotify_cuse.kernel.errors import KernelFileError, NoKernelMemoryError
from memnotify_cuse.scanner.doorbell import Doorbell

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 600.0


class LateDoorbell:
    """Opens a doorbell with `open_bell`, which is somebody else's work, while `run` runs.

    `ask` says that now would be a good time; it has no timer of its own, which would wake a machine at rest.
    """

    def __init__(self, open_bell: Callable[[], Awaitable[Doorbell]]) -> None:
        self._open_bell = open_bell
        self._bell: Doorbell | None = None
        self._asked = trio.Event()
        self._not_before_s = math.inf

    def ask(self) -> None:
        """Let it be tried, unless the last attempt was only just now."""
        if self._not_before_s < math.inf and trio.current_time() >= self._not_before_s:
            self._asked.set()

    def take(self) -> Doorbell | None:
        """The doorbell, once, if there is one by now."""
        bell, self._bell = self._bell, None
        return bell

    def close(self) -> None:
        """Close a doorbell that nobody has taken."""
        bell = self.take()
        if bell is not None:
            bell.close()

    async def run(self) -> None:
        """Until there is one, or a failure that does not pass."""
        self._not_before_s = trio.current_time() + FIRST_PAUSE_S
        pause_s = 2 * FIRST_PAUSE_S
        while True:
            await self._asked.wait()
            try:
                self._bell = await self._open_bell()
                return
            except NoKernelMemoryError as error:
                log.debug("still no trace events: %s", error)
            except (KernelFileError, OSError) as error:
                log.warning("no trace events: %s", error)
                return
            self._asked = trio.Event()
            self._not_before_s = trio.current_time() + pause_s
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
