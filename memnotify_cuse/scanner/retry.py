"""When to try again what failed: after twice as long each time."""

from __future__ import annotations


class Backoff:
    """The pauses between attempts, in seconds: from `first_s`, doubled, up to `longest_s`."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._pause_s = first_s

    def next_pause_s(self) -> float:
        """How long to wait before the next attempt."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self._longest_s)
        return pause_s

    def give_time(self) -> None:
        """The next pause is to be the longest: what failed is not likely to pass."""
        self._pause_s = self._longest_s

    def reset(self) -> None:
        """It has worked: begin anew."""
        self._pause_s = self._first_s
