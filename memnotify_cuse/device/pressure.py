"""What there is to be told: of each zone under pressure its state now, and its last rise in level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.topics import Special, Topic, topics_at
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_CRITICAL, LEVELS

Topics = frozenset[Topic]


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


class Notification(NamedTuple):
    """What one notification is about, and of what of that the level has risen."""

    topics: Topics
    risen: Topics


class Pressure:
    """The zones under pressure that a notification has told of. `page_kb` is the page size in KiB.

    `topics` are those of which there is something to be told, `critical` those of them whose zone, or the worst one, is
    critical. `notification` counts the notifications, and the changes
    of state.
    """

    def __init__(self, page_kb: int) -> None:
        self._page_kb = page_kb
        self._pressed: dict[ZoneId, _Pressed] = {}
        self._zone_rises: dict[ZoneId, int] = {}
        self._state_change = 0
        self._rises: dict[Topic, int] = {}
        self._last: dict[Topic, int] = {}
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

    def update(self, zones: tuple[ZoneState, ...]) -> Notification:
        """Take in a notification about `zones`."""
        self.notification += 1
        self._pressed.update((state.zone, _Pressed(state, self._page_kb)) for state in zones)
        topics = _topics_of(self._pressed[state.zone] for state in zones)
        risen = _topics_of(self._pressed[state.zone] for state in zones if state.rises)
        self._last.update(dict.fromkeys(topics, self.notification))
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
        self._look()

    def record(self, topic: Topic) -> bytes:
        """What a file about `topic`, which is one of `topics`, is told now.

        Of several zones it is told of the one with the highest level, and of those the one furthest from being clear.
        """
        pressed = self._pressed[topic] if isinstance(topic, ZoneId) else self._worst
        return pressed.record if pressed is not None else b""

    def rise_of(self, topic: Topic) -> int:
        """The number of the notification with the last rise of `topic`, 0 where there was none."""
        return self._rises.get(topic, 0)

    def last_of(self, topic: Topic) -> int:
        """The number of the last notification about `topic`, 0 where there was none."""
        return self._last.get(topic, 0)

    def _look(self) -> None:
        """Find out what is to be told."""
        self.topics = _topics_of(self._pressed.values())
        self.critical = _topics_of(each for each in self._pressed.values() if each.state.level == LEVEL_CRITICAL)
        self._rises = {Special.STATE: self._state_change}
        for zone, rise in self._zone_rises.items():
            for topic in (zone, *topics_at(self._pressed[zone].level)):
                self._rises[topic] = max(rise, self._rises.get(topic, 0))
        self._worst = max(self._pressed.values(), key=lambda each: (each.level, each.state.target_pages), default=None)


def topics_of_states(zones: Iterable[ZoneState]) -> Topics:
    """What a notification about `zones` is about."""
    topics: set[Topic] = set()
    for state in zones:
        topics.add(state.zone)
        topics.update(topics_at(LEVELS.index(state.level)))
    return frozenset(topics)


def _topics_of(pressed: Iterable[_Pressed]) -> Topics:
    return topics_of_states(each.state for each in pressed)
