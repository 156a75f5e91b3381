"""Users who are served in tasks of their own, some at the same time: a slow user keeps no other waiting."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

log = logging.getLogger(__name__)

SLOW_PART: Final = 4
"""One in so many of those who are served at the same time may be begun with although it is known as slow."""


class Line:
    """Users to be served, each once however often it is put in; one that is being served is served once more.

    `at_once` are served at the same time, beside those who turn out to be slow (`is_slow`) while they are.
    """

    def __init__(self, at_once: int, is_slow: Callable[[int], bool]) -> None:
        self._at_once = at_once
        self._is_slow = is_slow
        self._waiting: dict[int, None] = {}
        self._waiting_slow: dict[int, None] = {}
        self._serving: set[int] = set()
        self._again: set[int] = set()
        self._changed = trio.Event()

    def put(self, user: int) -> None:
        if user in self._serving:
            self._again.add(user)
        elif user not in self._waiting_slow:
            self._waiting[user] = None
        self.look_again()

    def serves(self, user: int) -> bool:
        """Whether a user is being served just now."""
        return user in self._serving

    def look_again(self) -> None:
        """A user may be known as slow by now, so that others can be served."""
        self._changed.set()

    async def serve(self, work: Callable[[int], Awaitable[None]]) -> None:
        """Do `work` for each user who is put in, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                while (user := self._next()) is not None:
                    self._serving.add(user)
                    nursery.start_soon(self._serve, user, work)
                await self._changed.wait()
                self._changed = trio.Event()

    def _next(self) -> int | None:
        slow = sum(map(self._is_slow, self._serving))
        while self._waiting and len(self._serving) - slow < self._at_once:
            user = next(iter(self._waiting))
            del self._waiting[user]
            if not self._is_slow(user):
                return user
            self._waiting_slow[user] = None
        if self._waiting_slow and slow < max(1, self._at_once // SLOW_PART):
            user = next(iter(self._waiting_slow))
            del self._waiting_slow[user]
            return user
        return None

    async def _serve(self, user: int, work: Callable[[int], Awaitable[None]]) -> None:
        try:
            await work(user)
        except Exception:
            log.exception("unexpected error while sending SIGIO; the notification is not repeated")
        finally:
            self._serving.discard(user)
        # Where there is nothing to wait for, the requests of others still have their turn.
        await trio.lowlevel.checkpoint()
        if user in self._again:
            self._again.discard(user)
            self.put(user)
        self.look_again()
