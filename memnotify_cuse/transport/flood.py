"""Whether requests take more than their share of the server's time. No I/O: the time is an argument."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 0.1
FLOOD_SHARE: Final = 0.5
"""The part of a window from which on requests are a flood: then they take more than all else together."""


CPU_SHARE: Final = 0.9
"""And of the thread's own time, whatever it was for. Signals to a thousand owners take two thirds."""


class FloodGauge:
    """Adds up the time that requests take, window by window; `on_flood` is called at each change.

    True once a window was more than `FLOOD_SHARE` taken up by requests, False once one was not.
    """

    def __init__(
        self,
        on_flood: Callable[[bool], None] = lambda _flooded: None,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._on_flood = on_flood
        self._cpu_s = cpu_s
        self._cpu_began_s = cpu_s()
        self._began_s = 0.0
        self._busy_s = 0.0
        self.flooded = False

    def add(self, busy_s: float) -> None:
        """A request took `busy_s`."""
        self._busy_s += busy_s

    def update(self, now_s: float) -> None:
        """Judge the window if it is over."""
        passed_s = now_s - self._began_s
        if passed_s < WINDOW_S:
            return
        # A window that began before a pause is as long as the pause, and judged as a whole.
        cpu_s = self._cpu_s()
        flooded = self._busy_s > FLOOD_SHARE * passed_s or cpu_s - self._cpu_began_s > CPU_SHARE * passed_s
        self._began_s, self._busy_s, self._cpu_began_s = now_s, 0.0, cpu_s
        if flooded != self.flooded:
            self.flooded = flooded
            self._on_flood(flooded)
