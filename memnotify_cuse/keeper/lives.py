"""When the keeper starts a server again, and when it gives up. No I/O: the time is an argument, in seconds.

    starting ──alive──▶ serving ──heartbeat──▶ serving
        │                  │
        │                  ├── silent for WATCHDOG_S, and GRACE_S more ──▶ to be killed
        └── silent for STARTING_S ──▶ to be killed

A server that dies is replaced, unless MAX_DEATHS of them have died within DEATHS_S: programs are better off without a
device than with one that hangs again and again.
"""

from __future__ import annotations

import math
from collections import deque

WATCHDOG_S = 5.5
"""A person's choice: how long programs may wait for an answer of a server that hangs. The server is heard of with each
sample, every 5 s at rest; half a second later the keeper looks, so that one look for each is enough."""
GRACE_S = 1.0
"""The keeper may have been stopped together with the server, and run first."""
STARTING_S = 20.0
"""On a machine that is short of memory a start takes long."""
MAX_DEATHS = 5
DEATHS_S = 10.0


class Lives:
    """The lives of one server after the other."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._heard_s = math.inf
        self.allowed_s = STARTING_S
        """For how long the server may be silent now."""
        self._warned_s: float | None = None
        self.count = 0

    def started(self, now_s: float) -> None:
        """A server was given what it is to serve: until then it may be silent."""
        self.count += 1
        self._heard_s, self.allowed_s, self._warned_s = now_s, STARTING_S, None

    def heard(self, at_s: float) -> None:
        """It has proved at `at_s` that it is alive. What was known already changes nothing."""
        if at_s > self._heard_s or self.allowed_s != WATCHDOG_S:
            self._heard_s, self.allowed_s, self._warned_s = at_s, WATCHDOG_S, None

    @property
    def serves(self) -> bool:
        """Whether the server has proved for the first time that it is alive."""
        return self.allowed_s == WATCHDOG_S

    def left_s(self, now_s: float) -> float:
        """How long it may yet be silent, for ever until it was started."""
        if self._warned_s is not None:
            return max(0.0, self._warned_s + GRACE_S - now_s)
        return max(0.0, self._heard_s + self.allowed_s - now_s)

    def hangs(self, now_s: float) -> bool:
        """Whether it has been silent for too long: asked when `left_s` is over."""
        if self.left_s(now_s) > 0:
            return False
        if self._warned_s is None:
            self._warned_s = now_s
            return False
        return True

    def died(self, now_s: float) -> bool:
        """It has died; whether another one is to be started."""
        self._deaths.append(now_s)
        return len(self._deaths) < MAX_DEATHS or now_s - self._deaths[0] > DEATHS_S
