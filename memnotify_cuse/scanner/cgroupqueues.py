"""Which memory cgroup is to be looked at next: those that are due, users in turn. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterator

from memnotify_cuse.scanner.cgroupdomain import CgroupDomain

_Entry = tuple[int, int, CgroupDomain]


class Queues:
    """Domains by the time at which they are due, a queue for each user."""

    def __init__(self) -> None:
        self._due: dict[int, list[_Entry]] = {}
        self._due_ns: dict[CgroupDomain, tuple[int, int]] = {}
        self._order = itertools.count()
        self._counts: Counter[int] = Counter()
        self._users: dict[CgroupDomain, int] = {}

    def count(self, domain: CgroupDomain) -> tuple[int, int]:
        """How many users there are, and how many domains that of `domain` has."""
        return len(self._counts), self._counts[self._users[domain]]

    def add(self, domain: CgroupDomain, due_ns: int) -> None:
        """A domain to be looked at, then for the first time."""
        self._users[domain] = domain.user
        self._counts[domain.user] += 1
        self.put(domain, due_ns)

    def put(self, domain: CgroupDomain, due_ns: int) -> None:
        """`domain` is due then, or when it was due before, if that was sooner: it keeps its place."""
        before = self._due_ns.get(domain)
        if before is not None and before[0] <= due_ns:
            return
        user = domain.user
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

    def first_ns(self) -> int | None:
        """When the first one is due, None if there is none."""
        heads = [self._head_ns(user) for user in list(self._due)]
        return min((ns for ns in heads if ns is not None), default=None)

    def take_due(self, now_ns: int) -> Iterator[CgroupDomain]:
        """Those that are due by now, in rounds of one for each user; the next call goes on with the next user."""
        ready = deque(user for user in list(self._due) if self._is_due(user, now_ns))
        while ready:
            user = ready.popleft()
            if not self._is_due(user, now_ns):
                continue
            domain = heapq.heappop(self._due[user])[2]
            del self._due_ns[domain]
            # To the end of the turns.
            self._due[user] = self._due.pop(user)
            ready.append(user)
            yield domain

    def _is_due(self, user: int, now_ns: int) -> bool:
        head_ns = self._head_ns(user)
        return head_ns is not None and head_ns <= now_ns

    def _head_ns(self, user: int) -> int | None:
        """When the first one of a user is due, without those that are over; None, and no queue, if there is none."""
        queue = self._due.get(user)
        while queue and self._due_ns.get(queue[0][2]) != queue[0][:2]:
            heapq.heappop(queue)
        if queue:
            return queue[0][0]
        self._due.pop(user, None)
        return None

    def _forget(self, domain: CgroupDomain) -> None:
        user = self._users.pop(domain)
        self._counts[user] -= 1
        if not self._counts[user]:
            del self._counts[user]
