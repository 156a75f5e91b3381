"""Whose turn it is: jobs that wait for a helper, by user. Pure.

One user may have thousands of ids of the range that subordinate ids are given out from, so all of these share the turns
of one user, and take turns within them. So do threads of which no user is known as yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from memnotify_cuse.accounts import FIRST_SUBORDINATE_UID

UNKNOWN: Final = -1


class _OfUser(Protocol):
    @property
    def user(self) -> int: ...


T = TypeVar("T", bound=_OfUser)


def key_of(user: int) -> int:
    """Whose turns are those of `user`, which is below 0 for a thread of which no user is known."""
    return min(user, FIRST_SUBORDINATE_UID) if user >= 0 else UNKNOWN


@dataclass(slots=True)
class Turns(Generic[T]):
    """Jobs by user. `T` has a `user`."""

    _users: dict[int, dict[int, deque[T]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._users)

    def put(self, jobs: Iterable[T]) -> None:
        """Jobs to come after all others of their users."""
        for job in jobs:
            self._queue(job).append(job)

    def put_back(self, jobs: list[T]) -> None:
        """Jobs to come before all others of their users, in this order."""
        for job in reversed(jobs):
            self._queue(job).appendleft(job)

    def next_key(self, may: Callable[[int], bool]) -> int | None:
        """Whose turn it is, of those that `may` have one; None if there is none."""
        return next((key for key in self._users if may(key)), None)

    def take(self, key: int, most: Callable[[], int]) -> list[T]:
        """The next jobs of `key`, all of one user. They go to the end of the line then.

        `most` is asked how many, when only others than that user are still in line.
        """
        users = self._users.pop(key)
        user = next(iter(users))
        queue = users.pop(user)
        if users:
            self._users[key] = users
        limit = most()
        taken = [queue.popleft() for _ in range(min(limit, len(queue)))]
        if queue:
            self._users.setdefault(key, {})[user] = queue
        return taken

    def _queue(self, job: T) -> deque[T]:
        return self._users.setdefault(key_of(job.user), {}).setdefault(job.user, deque())
