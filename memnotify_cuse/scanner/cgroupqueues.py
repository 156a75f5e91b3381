"""Which memory cgroup is to be looked at next: those that are due, users in turn. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from typing import Final

from memnotify_cuse.scanner.cgroupdomain import CgroupDomain

_SHARED: Final = -1
"""In place of a user."""

_Entry = tuple[int, int, CgroupDomain]


class Queues:
    """Domains by the time at which they are due, a queue for each user, and one for all that several users share."""

    def __init__(self) -> None:
        self._due: dict[int, list[_Entry]] = {}
        self._due_ns: dict[CgroupDomain, tuple[int, int]] = {}
        self._order = itertools.count()
        self._counts: Counter[int] = Counter()
        self._users: dict[CgroupDomain, int] = {}

    def count(self, domain: CgroupDomain) -> tuple[int, int]:
        """How many users there are, and how many domains that of `domain` has."""
        return len(self._counts), self._counts[self._users[domain]]

    def add(self, domain: CgroupDomain) -> None:
        """A domain to be looked at; it is due once that was `put`."""
        user = self._users[domain] = domain.user
        self._counts[user] += 1

    def put(self, domain: CgroupDomain, due_ns: int) -> None:
        """`domain` is due then, and not at the time that was said before."""
        user = _SHARED if domain.shared else domain.user
        if user != self._users[domain]:
            self._forget(domain)
            self._users[domain] = user
            self._counts[user] += 1
        entry = (due_ns, next(self._order), domain)
        self._due_ns[domain] = entry[:2]
        heapq.heappush(self._due.setdefault(user, []), entry)

    def remove(self, domain: CgroupDomain) -> None:
        """It is not looked at any more."""
        self._due_ns.pop(domain, None)
        self._forget(domain)

    def _forget(self, domain: CgroupDomain) -> None:
        user = self._users.pop(domain)
        self._counts[user] -= 1
        if not self._counts[user]:
            del self._counts[user]

    def first_ns(self) -> int | None:
        """When the first one is due, None if there is none."""
        self._drop_what_is_over()
        return min((queue[0][0] for queue in self._due.values()), default=None)

    def take(self, now_ns: int) -> CgroupDomain | None:
        """One that is due, of the user whose turn it is; None if none is."""
        self._drop_what_is_over()
        for user, queue in self._due.items():
            if queue[0][0] <= now_ns:
                domain = heapq.heappop(queue)[2]
                del self._due_ns[domain]
                # To the end of the turns.
                self._due[user] = self._due.pop(user)
                return domain
        return None

    def _drop_what_is_over(self) -> None:
        for user, queue in list(self._due.items()):
            while queue and self._due_ns.get(queue[0][2]) != queue[0][:2]:
                heapq.heappop(queue)
            if not queue:
                del self._due[user]
