"""Which memory cgroup is to be looked at next: those that are due, users in turn. Pure."""

from __future__ import annotations

import heapq
import itertools
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

    def __len__(self) -> int:
        return len(self._due_ns)

    def put(self, domain: CgroupDomain, due_ns: int) -> None:
        """`domain` is due then, and not at the time that was said before."""
        user = _SHARED if domain.shared else domain.user
        entry = (due_ns, next(self._order), domain)
        self._due_ns[domain] = entry[:2]
        heapq.heappush(self._due.setdefault(user, []), entry)

    def remove(self, domain: CgroupDomain) -> None:
        """It is not looked at any more."""
        self._due_ns.pop(domain, None)

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
