"""A queue in which users take turns: one item of each user that has any, then the next one of the first user.

A user who puts in thousands waits behind their own; whoever puts in one waits for one of each other user at most.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Items by user, first in first out within a user. Each has a key of its own, by which it can be taken back.

    `count` is how many there are: an attribute, because it is looked at with every request.
    """

    def __init__(self) -> None:
        # Ordered dictionaries, because the first entry of a dict is slow to find once many before it were removed.
        self._queues: OrderedDict[int, OrderedDict[int, T]] = OrderedDict()
        self._user_of: dict[int, int] = {}
        self.count = 0

    def put(self, user: int, key: int, item: T) -> None:
        """Queue `item` as the last one of `user`, in place of one that has the same key."""
        self.remove(key)
        queue = self._queues.get(user)
        if queue is None:
            queue = self._queues[user] = OrderedDict()
        queue[key] = item
        self._user_of[key] = user
        self.count += 1

    def next(self) -> tuple[int, T]:
        """Key and item of the next turn, which stays queued; LookupError if nothing is."""
        user = self._next_user()
        key = next(iter(self._queues[user]))
        return key, self._queues[user][key]

    def take(self) -> tuple[int, T]:
        """Remove the item of the next turn, whose user goes to the end; LookupError if nothing is queued."""
        user = self._next_user()
        queue = self._queues[user]
        key, item = queue.popitem(last=False)
        del self._user_of[key]
        self.count -= 1
        if queue:
            self._queues.move_to_end(user)
        else:
            del self._queues[user]
        return key, item

    def remove(self, key: int) -> T | None:
        """Take back the item of `key`; None if it is not queued."""
        user = self._user_of.pop(key, None)
        if user is None:
            return None
        item = self._queues[user].pop(key)
        self.count -= 1
        if not self._queues[user]:
            del self._queues[user]
        return item

    def _next_user(self) -> int:
        for user in self._queues:
            return user
        raise LookupError("nothing is queued")
