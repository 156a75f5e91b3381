"""What an open file is about: a zone, any zone, any zone from a level up, or each change of any zone's state.

A file that is about any zone is also about the limits of the memory cgroups that its opener is in: its *scope*.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple, TypeVar

from memnotify_cuse.domain import CgroupId, Scope
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_CRITICAL, LEVEL_MEDIUM, LEVELS

K = TypeVar("K")


class Special(Enum):
    """What is about no zone in particular; the value is its name."""

    MEDIUM = LEVEL_MEDIUM
    CRITICAL = LEVEL_CRITICAL
    STATE = "state"


class Scoped(NamedTuple):
    """Any zone, from a level up if there is one, or any cgroup of `scope`."""

    special: Special | None
    scope: Scope


Topic = ZoneId | Special | None
"""What a file is opened for. None: any zone, at any level."""

About = Topic | Scoped
"""What a file is told of."""

FROM_LEVEL: Final = {LEVELS.index(each.value): each for each in (Special.MEDIUM, Special.CRITICAL)}
"""The topics that are told from a level up, by that level as an index of `LEVELS`."""


def topics_at(level: int) -> list[Special | None]:
    """What is told when some zone has that level, beside the zone's own topic."""
    return [None, *(topic for least, topic in FROM_LEVEL.items() if level >= least)]


class ScopedTopics:
    """The scoped topics that there are open files about."""

    def __init__(self) -> None:
        self._files: dict[Scoped, int] = {}
        self._special: dict[Special | None, dict[Scoped, None]] = {}
        self._in: dict[CgroupId, dict[Scoped, None]] = {}

    def add(self, topic: Scoped) -> bool:
        """One more file about `topic`; whether it is the first."""
        self._files[topic] = self._files.get(topic, 0) + 1
        if self._files[topic] > 1:
            return False
        self._special.setdefault(topic.special, {})[topic] = None
        for cgroup in topic.scope:
            self._in.setdefault(cgroup, {})[topic] = None
        return True

    def remove(self, topic: Scoped) -> bool:
        """One file less; whether it was the last."""
        self._files[topic] -= 1
        if self._files[topic]:
            return False
        del self._files[topic]
        _remove(self._special, topic.special, topic)
        for cgroup in topic.scope:
            _remove(self._in, cgroup, topic)
        return True

    def told_of(self, zone: ZoneId, level: int) -> Iterator[About]:
        """Whatever is told of `zone`, which may be a cgroup, at that level, the zone itself first."""
        yield zone
        specials = topics_at(level)
        if isinstance(zone, CgroupId):
            yield from (topic for topic in self._in.get(zone, ()) if topic.special in specials)
            return
        for special in specials:
            yield special
            yield from self._special.get(special, ())


def _remove(of: dict[K, dict[Scoped, None]], key: K, topic: Scoped) -> None:
    del of[key][topic]
    if not of[key]:
        del of[key]
