"""What there is to be told: of each zone under pressure its state now, and its last rise in level.

A memory cgroup is told of as a zone is, to files that have it in their scope.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.topics import About, Scoped, ScopedTopics, Special
from memnotify_cuse.domain import CgroupId
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_CRITICAL, LEVELS

Topics = frozenset[About]


class _Pressed:
    """A zone under pressure. Its record is made when a program is told, and may be told to a thousand files."""

    __slots__ = ("_page_kb", "_record", "level", "state")

    def __init__(self, state: ZoneState, page_kb: int) -> None:
        self.state = state
        self.level = LEVELS.index(state.level)
        self._page_kb = page_kb
        self._record = b""

    @property
    def record(self) -> bytes:
        self._record = self._record or self.state.record(self._page_kb).format()
        return self._record


class _Last(NamedTuple):
    """The last notification about something: its number, and when it was (0: before this server)."""

    number: int
    time_ns: int


_NEVER: Final = _Last(0, 0)


class Notification(NamedTuple):
    """What one notification is about, and of what of that the level has risen."""

    topics: Topics
    risen: Topics


class Pressure:
    """The zones under pressure that a notification has told of. `page_kb` is the page size in KiB, `scoped` the topics
    with a scope that there are files about.

    `topics` are those of which there is something to be told, `critical` those of them whose zone, or the worst one, is
    critical. `notification` counts the notifications, and the changes
    of state.
    """

    def __init__(self, page_kb: int, scoped: ScopedTopics | None = None) -> None:
        self._page_kb = page_kb
        self._scoped = scoped if scoped is not None else ScopedTopics()
        self._pressed: dict[ZoneId, _Pressed] = {}
        self._zone_rises: dict[ZoneId, int] = {}
        self._state_change = 0
        self._rises: dict[About, int] = {}
        self._last: dict[About, _Last] = {}
        self._worst: _Pressed | None = None
        self.topics: Topics = frozenset()
        self.critical: Topics = frozenset()
        self.notification = 0

    def follow(self, states: Mapping[ZoneId, ZoneState]) -> None:
        """Take in the states of all zones: what is told from now on says this."""
        changed = False
        for zone, pressed in self._pressed.items():
            state = states.get(zone)
            if state is not None and state is not pressed.state and state != pressed.state:
                self._pressed[zone] = _Pressed(state, self._page_kb)
                changed = True
        if changed:
            self._look()

    def update(self, zones: tuple[ZoneState, ...], now_ns: int = 0) -> Notification:
        """Take in a notification about `zones`."""
        self.notification += 1
        self._pressed.update((state.zone, _Pressed(state, self._page_kb)) for state in zones)
        topics = self.topics_of(zones)
        risen = self.topics_of(state for state in zones if state.rises)
        last = _Last(self.notification, now_ns)
        self._last.update((topic, last) for topic in topics if not isinstance(topic, Scoped))
        self._zone_rises.update((state.zone, self.notification) for state in zones if state.rises)
        self._look()
        return Notification(topics, risen)

    def state_changed(self) -> None:
        """The state of some zone has changed, which all who follow states are to be told of."""
        self.notification += 1
        self._state_change = self.notification
        self._look()

    def end(self, zones: tuple[ZoneId, ...]) -> None:
        """`zones` are clear: what was not told of them is not told any more."""
        for zone in zones:
            self._pressed.pop(zone, None)
            self._zone_rises.pop(zone, None)
        self._forget_gone()
        self._look()

    def record(self, topic: About) -> bytes:
        """What a file about `topic`, which is one of `topics`, is told now.

        Of several zones it is told of the one with the highest level, and of those the one furthest from being clear.
        """
        if isinstance(topic, ZoneId):
            return self._pressed[topic].record
        pressed = [self._worst] if self._worst is not None else []
        if isinstance(topic, Scoped):
            pressed += [self._pressed[cgroup] for cgroup in topic.scope if cgroup in self._pressed]
        return max(pressed, key=_how_bad).record if pressed else b""

    def rise_of(self, topic: About) -> int:
        """The number of the notification with the last rise of `topic`, 0 where there was none."""
        return self._rises.get(topic, 0)

    def last_of(self, topic: About) -> int:
        """The number of the last notification about `topic`, 0 where there was none."""
        return self._last_of(topic).number

    def last_ns_of(self, topic: About) -> int | None:
        """When that was, None where there was none."""
        return self._last_of(topic).time_ns or None

    def _last_of(self, topic: About) -> _Last:
        if isinstance(topic, Scoped):
            # It may be newer than the notification.
            return max(self._last.get(each, _NEVER) for each in (topic.special, *topic.scope))
        return self._last.get(topic, _NEVER)

    def topics_of(self, zones: Iterable[ZoneState]) -> Topics:
        """What a notification about `zones` is about."""
        topics: set[About] = set()
        for state in zones:
            topics.update(self._scoped.told_of(state.zone, LEVELS.index(state.level)))
        return frozenset(topics)

    def scopes_changed(self) -> None:
        """There are topics with another scope."""
        self._look()

    def _forget_gone(self) -> None:
        """Drop what was known of cgroups that are not under pressure: there may be any number of them."""
        for topic in [each for each in self._last if isinstance(each, CgroupId) and each not in self._pressed]:
            del self._last[topic]

    def _look(self) -> None:
        """Find out what is to be told."""
        pressed = self._pressed.values()
        self.topics = self.topics_of(each.state for each in pressed)
        self.critical = self.topics_of(each.state for each in pressed if each.state.level == LEVEL_CRITICAL)
        self._rises = {Special.STATE: self._state_change}
        for zone, rise in self._zone_rises.items():
            for topic in self._scoped.told_of(zone, self._pressed[zone].level):
                self._rises[topic] = max(rise, self._rises.get(topic, 0))
        zones = (each for each in pressed if not isinstance(each.state.zone, CgroupId))
        self._worst = max(zones, key=_how_bad, default=None)


def _how_bad(pressed: _Pressed) -> tuple[int, int]:
    return pressed.level, pressed.state.target_pages
