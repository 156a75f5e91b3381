"""Logging of unexpected errors in requests. Users can provoke them as often as they like, so the log is bounded."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

MAX_KINDS: Final = 64
"""How many kinds of errors are told apart; those beyond are one kind."""

STEP: Final = 10
"""An error that comes back is mentioned at each power of this number of times."""


class ErrorLog:
    """Logs each kind of error with a traceback the first time. After that it is counted, and the count logged rarely.

    A kind is where it happened and the class of the exception.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._times: Counter[tuple[str, type[BaseException]]] = Counter()
        self._next_mention: dict[tuple[str, type[BaseException]], int] = {}

    @property
    def total(self) -> int:
        """How many errors there were."""
        return self._times.total()

    def unexpected(self, what: str, error: BaseException) -> None:
        """Take note of `error`; `what` says where it happened and what was answered."""
        kind = (what, type(error))
        if kind not in self._times and len(self._times) >= MAX_KINDS:
            kind = ("an error of yet another kind", Exception)
        self._times[kind] += 1
        times = self._times[kind]
        if times == 1:
            self._log.error("%s", kind[0], exc_info=error)
            self._next_mention[kind] = STEP
        elif times == self._next_mention[kind]:
            self._log.error("%s: %d times by now, last %r", kind[0], times, str(error)[:80])
            self._next_mention[kind] *= STEP
