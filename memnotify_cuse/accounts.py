"""What each user holds of something that there is only so much of: open files, held reads, places in a queue.

A user may hold up to a bound of its own, and never more than a share of what is left. The share is what keeps a stock
from being emptied by many users together: the fuller it is, the less each may take, and the next one to come still gets
something (the *dynamic thresholds* of shared switch buffers, Choudhury and Hahne 1998). A reserve is for root alone.

The user ids of a user namespace belong to the user who made it, where the kernel says who that is (`count_to`). Until
then each of them is a user of its own, and one user may have 65,536 of them. So all ids of the range that subordinate
ids are given out from may hold no more than a part of the stock together, which leaves the rest to those who log in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

ROOT_UID: Final = 0

FIRST_SUBORDINATE_UID: Final = 100_000
"""SUB_UID_MIN of login.defs(5), above UID_MAX: subuid(5) ranges and containers' users are from here on."""


class OverBoundError(Exception):
    """Nothing more for this user. `per_user`: the user holds its share; else the stock as a whole is used up."""

    def __init__(self, *, per_user: bool) -> None:
        super().__init__("the user's share is used up" if per_user else "all is used up")
        self.per_user = per_user


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much there is in all, how much one user may hold, and what is kept back for root.

    A user other than root may hold no more than 1/`share_divisor` of what is left beside the reserve, and the ids that
    may be subordinate ones no more than 1/`subordinate_divisor` of all beside it together.
    """

    total: int
    per_user: int
    root_reserve: int
    share_divisor: int = 4
    subordinate_divisor: int = 2


class Users:
    """Whose a user id is: its own, unless it is known to belong to the user namespace of another user.

    `of` changes by `count_to` alone, and only from the id itself to an owner, until the id is forgotten. So what was
    taken for `of(uid)` can be given back to `of(uid)`, if all that the id holds is moved when an owner is learned.
    """

    def __init__(self) -> None:
        self._owners: dict[int, int] = {}
        self._owning: set[int] = set()
        self._learned: list[Callable[[int, int], None]] = []

    @property
    def known(self) -> int:
        """Of how many ids something is known. Not a length, by which none would be as good as nothing."""
        return len(self._owners)

    def of(self, uid: int) -> int:
        """The user that `uid` is counted to."""
        return self._owners.get(uid, uid)

    def knows(self, uid: int) -> bool:
        return uid in self._owners

    def on_learned(self, call: Callable[[int, int], None]) -> None:
        """Have `call(user, owner)` called when all that is counted to `user` is to be counted to `owner`."""
        self._learned.append(call)

    def count_to(self, uid: int, owner: int) -> None:
        """Count `uid` to `owner` from now on. Root's namespaces are many users', and its ids stay their own.

        An id that is counted to an owner stays with it until it is forgotten, whatever is found of it later.
        """
        owner = self.of(owner)
        if uid == ROOT_UID or owner in (ROOT_UID, uid):
            self._owners.setdefault(uid, uid)
            return
        if self.of(uid) != uid:
            return
        self._owners[uid] = owner
        self._owning.add(owner)
        if uid in self._owning:
            self._owning.discard(uid)
            self._owners.update({each: owner for each, user in self._owners.items() if user == uid})
        for call in self._learned:
            call(uid, owner)

    def forget_all_but(self, uids: set[int]) -> None:
        """Drop what is known of ids that nothing is held by: there are as many as an attacker likes."""
        self._owners = {uid: owner for uid, owner in self._owners.items() if uid in uids}
        self._owning = {owner for uid, owner in self._owners.items() if owner != uid}


class Account:
    """How much each user holds of one stock. Users are those of `Users.of`."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._held: Counter[int] = Counter()
        self._held_by_subordinates = 0
        self.held = 0

    @property
    def users(self) -> int:
        """How many users hold something."""
        return len(self._held)

    def of(self, user: int) -> int:
        """How much `user` holds."""
        return self._held[user]

    def take(self, user: int) -> None:
        """One more for `user`, or `OverBoundError`."""
        bounds = self.bounds
        if user == ROOT_UID:
            left = bounds.total - self.held
            share = bounds.per_user
        else:
            left = bounds.total - bounds.root_reserve - self.held
            if user >= FIRST_SUBORDINATE_UID:
                theirs = (bounds.total - bounds.root_reserve) // bounds.subordinate_divisor
                left = min(left, theirs - self._held_by_subordinates)
            share = min(bounds.per_user, left // bounds.share_divisor)
        if left <= 0:
            raise OverBoundError(per_user=False)
        if self._held[user] >= max(share, 1):
            raise OverBoundError(per_user=True)
        self._add(user, 1)

    def add(self, user: int) -> None:
        """One more for `user`, whatever the bounds are: it holds it already."""
        self._add(user, 1)

    def give_back(self, user: int) -> None:
        """One less for `user`."""
        self._add(user, -1)

    def move(self, user: int, owner: int) -> None:
        """What `user` holds is counted to `owner`, over its bound if need be."""
        held = self._held[user]
        self._add(user, -held)
        self._add(owner, held)

    def _add(self, user: int, count: int) -> None:
        self.held += count
        if user >= FIRST_SUBORDINATE_UID:
            self._held_by_subordinates += count
        self._held[user] += count
        if not self._held[user]:
            del self._held[user]
