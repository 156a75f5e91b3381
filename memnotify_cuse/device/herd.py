"""Herd control: which of the files that wait one notification tells.

Those that wait in poll or a read (`watchers`) and those that have an owner who wants SIGIO (`subscribers`) share a
notification in proportion to their numbers, user by user (`Policy.shares`). A rise in level is not shared: it picks all
of the zone.

While a level is critical, notifications come sooner than a file can be told twice. Such a notification looks only at
the files that are back: they wait, and their program has answered since it was told. The others are as many as users
like, and are looked at as often as without it.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from memnotify_cuse.device.lines import Line, Lines, Offer, take_turns
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.device.pressure import Notification, Pressure, Topics
from memnotify_cuse.device.topics import About, Special

_STATE = frozenset[About]({Special.STATE})


class _Recent(NamedTuple):
    """A notification: when it was, what whose level did not rise in it, and how many watchers of that each user had."""

    time_ns: int
    topics: Topics
    waited: dict[int, int]


def _without(recent: _Recent, topics: Topics) -> _Recent:
    return recent._replace(topics=recent.topics - topics)


class Herd:
    """The files that wait, and whose turn it is. `guard_ns(user)` is for how long a file that was told is left alone.

    `_recent` are the notifications that subscribers may yet be signalled of: the last one, and others of the same
    interval that were about something else. `_back` are the watchers and subscribers that await no answer.
    """

    def __init__(self, policy: Policy, pressure: Pressure, guard_ns: Callable[[int], int]) -> None:
        self.watchers = Lines()
        self.subscribers = Lines()
        self._back = Lines()
        self._rise_due = Lines()
        self._places = itertools.count(1)
        self._policy = policy
        self._pressure = pressure
        self._guard_ns = guard_ns
        self._recent: list[_Recent] = []
        self._looked_at_all_ns: dict[About, int] = {}
        self._only_back = False

    def remove(self, file: OpenFile) -> None:
        """`file` waits for nothing any more."""
        self.unwatch(file)
        self.unsubscribe(file)

    def watch(self, file: OpenFile) -> None:
        """`file` goes to the end of its user's line of watchers, or keeps its place."""
        self.watchers.add(file)
        self.answer_changed(file)

    def unwatch(self, file: OpenFile) -> None:
        self.watchers.remove(file)
        self.answer_changed(file)

    def answer_changed(self, file: OpenFile) -> None:
        """Whether `file` waits, or whether it awaits an answer, may have changed."""
        if not file.awaits_answer and (file in self.watchers or file in self.subscribers):
            self._back.add(file)
        else:
            self._back.remove(file)

    def about_changed(self, file: OpenFile, before: About) -> None:
        """`file` was about `before`."""
        for lines in (self.watchers, self.subscribers, self._back, self._rise_due):
            lines.about_changed(file, before)

    def give_memory_back(self) -> None:
        for lines in (self.watchers, self.subscribers, self._back, self._rise_due):
            lines.give_memory_back()

    def move(self, user: int, owner: int) -> None:
        """The files of `user` are `owner`'s from now on."""
        for lines in (self.watchers, self.subscribers, self._back, self._rise_due):
            lines.move(user, owner)
        for recent in self._recent:
            if user in recent.waited:
                recent.waited[owner] = recent.waited.get(owner, 0) + recent.waited.pop(user)

    def pick_watchers(self, notification: Notification, now_ns: int) -> list[OpenFile]:
        """The watchers to be woken, in turn."""
        risen = notification.risen
        topics = notification.topics - risen
        long_ago_ns = now_ns - self._policy.guard_step_ns
        looked_ns = (self._looked_at_all_ns.get(topic, long_ago_ns) for topic in topics)
        soon = all(long_ago_ns < at_ns <= now_ns for at_ns in looked_ns)
        self._only_back = soon and bool(self._pressure.critical)
        if not self._only_back:
            recent = {topic: ns for topic, ns in self._looked_at_all_ns.items() if long_ago_ns < ns <= now_ns}
            self._looked_at_all_ns = {**recent, **dict.fromkeys(topics, now_ns)}
        latest = _Recent(now_ns, topics, self.watchers.count(topics))
        others = (_without(each, topics) for each in self._recent if long_ago_ns < each.time_ns <= now_ns)
        self._recent = [latest, *(each for each in others if each.topics)]
        all_risen: list[OpenFile] = []
        if risen:
            for line in self.subscribers.in_turn():
                for file in _about(line, risen):
                    self._rise_due.add(file)
            all_of_each = (Offer(_about(line, risen), sys.maxsize) for line in self.watchers.in_turn())
            all_risen = take_turns(all_of_each, sys.maxsize)
        shares, (most, _) = self._shares(topics, latest.waited)
        offers = (
            Offer(
                (file for file in self._due(line, self.watchers, topics, now_ns) if not file.awaits_answer),
                shares[line.user][0],
            )
            for line in self.watchers.in_turn()
            if line.user in shares
        )
        return all_risen + take_turns(offers, most)

    def awaits(self, topics: Topics) -> bool:
        """Whether a file about any of `topics` waits that has been answered since it was told."""
        return bool(self._back.count(topics))

    def pick_changed(self) -> tuple[list[OpenFile], bool]:
        """The watchers of `state` to be woken of changes, in turn, and whether more are to be woken."""
        lines = self.watchers.in_turn()
        due = {line.user: [file for file in _about(line, _STATE) if self._is_change_due(file)] for line in lines}
        for line in self.subscribers.in_turn():
            for file in _about(line, _STATE):
                self._expect_signal_of_rise(file)
        picked = take_turns(
            (Offer(iter(files), len(files)) for files in due.values()),
            sys.maxsize if self._policy.herd_divisor is None else self._policy.herd_max,
        )
        return picked, len(picked) < sum(map(len, due.values()))

    @property
    def signal_of_rise_is_due(self) -> bool:
        """Whether some subscriber has yet to be signalled of a rise, or of a change of state."""
        return bool(self._rise_due)

    def woken(self, file: OpenFile) -> None:
        """`file` was picked of the watchers: it waits no more, and its user has had its turn."""
        self.unwatch(file)
        self.watchers.took_turn(file.user)

    def subscribe(self, file: OpenFile) -> None:
        """A new subscriber goes to the end of its user's line."""
        if self.subscribers.add(file):
            file.place = next(self._places)
            self.answer_changed(file)
            self._expect_signal_of_rise(file)

    def unsubscribe(self, file: OpenFile) -> None:
        self.subscribers.remove(file)
        self.answer_changed(file)
        self._rise_due.remove(file)

    def pick_subscribers(self, now_ns: int, signalled: Collection[OpenFile]) -> list[OpenFile]:
        """The subscribers whose turn it is, less those that were `signalled`; those of a rise come first."""
        passed_over = {file.number for file in signalled}
        risen = self._pick_risen(passed_over)
        passed_over.update(file.number for file in risen)
        waited: Counter[int] = Counter()
        for each in self._recent:
            waited.update(each.waited)
        topics = frozenset().union(*(each.topics for each in self._recent)) & self._pressure.topics
        told = Counter(file.user for file in signalled if file.about in topics)
        shares, (_, most) = self._shares(topics, waited)
        offers = (
            Offer(
                # Looking for owners can take longer than the guard time.
                (file for file in self._due(line, self.subscribers, topics, now_ns) if file.number not in passed_over),
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

    def _due(self, line: Line, of: Lines, topics: Topics, now_ns: int) -> Iterator[OpenFile]:
        """The files of `line`, one of `of`, about `topics`, that may be told again.

        Their guard time has passed, or they are back while it is critical.
        """
        if self._only_back:
            back = self._back.line_of(line.user)
            files = (file for file in _about(back, topics) if file in of) if back is not None else iter(())
        else:
            files = _about(line, topics)
        latest_ns = now_ns - self._guard_ns(line.user)
        critical = self._pressure.critical
        return (
            file
            for file in files
            if file.told_ns is None or file.told_ns <= latest_ns or (file.about in critical and not file.awaits_answer)
        )

    def _is_change_due(self, file: OpenFile) -> bool:
        return not file.awaits_answer and self._pressure.rise_of(file.about) > file.told_rise

    def _expect_signal_of_rise(self, file: OpenFile) -> None:
        if self._is_rise_due(file):
            self._rise_due.add(file)

    def _is_rise_due(self, file: OpenFile) -> bool:
        rise = self._pressure.rise_of(file.about)
        return rise > file.signalled_rise and (file.tried_rise < rise or file.tried_rise == self._pressure.notification)

    def _shares(self, topics: Topics, waited: Mapping[int, int]) -> tuple[dict[int, tuple[int, int]], tuple[int, int]]:
        """How many watchers and subscribers of each user one notification of `topics` tells, and of all users."""
        subscribers = self.subscribers.count(topics)
        shares = {
            user: self._policy.shares(waited.get(user, 0), subscribers.get(user, 0))
            for user in waited.keys() | subscribers.keys()
        }
        woken = sum(share[0] for share in shares.values())
        signalled = sum(share[1] for share in shares.values())
        return shares, self._policy.in_all(woken, signalled)


def _about(line: Line, topics: Topics) -> Iterator[OpenFile]:
    return (file for file in line.files.values() if file.about in topics)
