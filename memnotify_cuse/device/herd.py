"""Herd control: which of the files that wait one notification tells.

Those that wait in poll or a read (`watchers`) and those that have an owner who wants SIGIO (`subscribers`) share a
notification in proportion to their numbers, user by user (`Policy.shares`). A rise in level is not shared: it picks all
of the zone.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator

from memnotify_cuse.device.lines import Line, Lines, Offer, take_turns
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.device.pressure import Pressure
from memnotify_cuse.kernel.zoneinfo import ZoneId

_Zones = frozenset[ZoneId | None]


class Herd:
    """The files that wait, and whose turn it is. `guard_ns(user)` is for how long a file that was told is left alone.

    `_zones` are those of the last notification whose level did not rise in it, `_waited` is how many watchers of them
    each user had then.
    """

    def __init__(self, policy: Policy, pressure: Pressure, guard_ns: Callable[[int], int]) -> None:
        self.watchers = Lines()
        self.subscribers = Lines()
        self._rise_due = Lines()
        self._places = itertools.count(1)
        self._policy = policy
        self._pressure = pressure
        self._guard_ns = guard_ns
        self._zones: _Zones = frozenset()
        self._waited: dict[int, int] = {}

    def remove(self, file: OpenFile) -> None:
        """`file` waits for nothing any more."""
        self.watchers.remove(file)
        self.unsubscribe(file)

    def give_memory_back(self) -> None:
        for lines in (self.watchers, self.subscribers, self._rise_due):
            lines.give_memory_back()

    def move(self, user: int, owner: int) -> None:
        """The files of `user` are `owner`'s from now on."""
        for lines in (self.watchers, self.subscribers, self._rise_due):
            lines.move(user, owner)
        if user in self._waited:
            self._waited[owner] = self._waited.get(owner, 0) + self._waited.pop(user)

    def pick_watchers(self, zones: _Zones, risen: _Zones, now_ns: int) -> list[OpenFile]:
        """A notification of `zones`, of which the level of `risen` has risen: the watchers to be woken, in turn."""
        self._zones = zones - risen
        self._waited = self.watchers.count(self._zones)
        everybody: list[OpenFile] = []
        if risen:
            for line in self.subscribers.in_turn():
                for file in _about(line, risen):
                    self._rise_due.add(file)
            all_of_each = (Offer(_about(line, risen), sys.maxsize) for line in self.watchers.in_turn())
            everybody = take_turns(all_of_each, sys.maxsize)
        shares, (most, _) = self._shares(self._zones)
        offers = (
            Offer(
                (file for file in self._due(line, self._zones, now_ns) if not file.awaits_answer),
                shares[line.user][0],
            )
            for line in self.watchers.in_turn()
            if line.user in shares
        )
        return everybody + take_turns(offers, most)

    def woken(self, file: OpenFile) -> None:
        """`file` was picked of the watchers: it waits no more, and its user has had its turn."""
        self.watchers.remove(file)
        self.watchers.took_turn(file.user)

    def subscribe(self, file: OpenFile) -> None:
        """A new subscriber goes to the end of its user's line."""
        if self.subscribers.add(file):
            file.place = next(self._places)
            self._expect_signal_of_rise(file)

    def unsubscribe(self, file: OpenFile) -> None:
        self.subscribers.remove(file)
        self._rise_due.remove(file)

    def pick_subscribers(self, now_ns: int, signalled: Collection[OpenFile]) -> list[OpenFile]:
        """The subscribers whose turn it is, less those that were `signalled`; those of a rise come first."""
        passed_over = {file.number for file in signalled}
        risen = self._pick_risen(passed_over)
        passed_over.update(file.number for file in risen)
        zones = self._zones & self._pressure.records.keys()
        told = Counter(file.user for file in signalled if file.zone in zones)
        shares, (_, most) = self._shares(zones)
        offers = (
            Offer(
                # Looking for owners can take longer than the guard time.
                (file for file in self._due(line, zones, now_ns) if file.number not in passed_over),
                shares[line.user][1] - told[line.user],
                owed=line.user not in told,
            )
            for line in self.subscribers.in_turn()
            if line.user in shares
        )
        return risen + take_turns(offers, most - told.total())

    def took_place(self, file: OpenFile) -> None:
        """`file` is signalled: it goes to the end of its line, and its user has had its turn."""
        file.signalled_rise = self._pressure.notification
        self._rise_due.remove(file)
        if file in self.subscribers:
            self.subscribers.to_end(file)
            file.place = next(self._places)

    def give_place_back(self, file: OpenFile, place: int, turn: int, *, since: int) -> None:
        """`file` was not signalled after all: undo `took_place`. `since` is the turn that its user had by it."""
        file.tried_rise = 0
        if file in self.subscribers:
            file.place = place
            self.subscribers.put_back(file, lambda other: other.place > place)
            self.subscribers.give_turn_back(file.user, turn, since=since)
            self._expect_signal_of_rise(file)

    def _pick_risen(self, signalled: Collection[int]) -> list[OpenFile]:
        """Subscribers to whom a rise is due. Who cannot be told is tried again for the length of a notification."""
        if not self._rise_due:
            return []
        for line in self._rise_due.in_turn():
            for file in list(line.files.values()):
                if not self._is_rise_due(file):
                    self._rise_due.remove(file)
        offers = (
            Offer((file for file in line.files.values() if file.number not in signalled), sys.maxsize)
            for line in self._rise_due.in_turn()
        )
        picked = take_turns(offers, sys.maxsize)
        for file in picked:
            file.tried_rise = self._pressure.notification
        return picked

    def _due(self, line: Line, zones: _Zones, now_ns: int) -> Iterator[OpenFile]:
        """The files of `line` about `zones` whose guard time has passed."""
        latest_ns = now_ns - self._guard_ns(line.user)
        return (file for file in _about(line, zones) if file.told_ns is None or file.told_ns <= latest_ns)

    def _expect_signal_of_rise(self, file: OpenFile) -> None:
        if self._is_rise_due(file):
            self._rise_due.add(file)

    def _is_rise_due(self, file: OpenFile) -> bool:
        rise = self._pressure.rise_of(file.zone)
        return rise > file.signalled_rise and (file.tried_rise < rise or file.tried_rise == self._pressure.notification)

    def _shares(self, zones: _Zones) -> tuple[dict[int, tuple[int, int]], tuple[int, int]]:
        """How many watchers and subscribers of each user one notification of `zones` tells, and of all users."""
        subscribers = self.subscribers.count(zones)
        shares = {
            user: self._policy.shares(self._waited.get(user, 0), subscribers.get(user, 0))
            for user in self._waited.keys() | subscribers.keys()
        }
        woken = sum(share[0] for share in shares.values())
        signalled = sum(share[1] for share in shares.values())
        return shares, self._policy.in_all(woken, signalled)


def _about(line: Line, zones: _Zones) -> Iterator[OpenFile]:
    return (file for file in line.files.values() if file.zone in zones)
