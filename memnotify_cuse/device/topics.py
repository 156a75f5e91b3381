"""What an open file is about: a zone, any zone, any zone from a level up, or each change of any zone's state."""

from __future__ import annotations

from enum import Enum
from typing import Final

from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_CRITICAL, LEVEL_MEDIUM, LEVELS


class Special(Enum):
    """What is about no zone in particular; the value is its name."""

    MEDIUM = LEVEL_MEDIUM
    CRITICAL = LEVEL_CRITICAL
    STATE = "state"


Topic = ZoneId | Special | None
"""None: any zone, at any level."""

FROM_LEVEL: Final = {LEVELS.index(each.value): each for each in (Special.MEDIUM, Special.CRITICAL)}
"""The topics that are told from a level up, by that level as an index of `LEVELS`."""


def topics_at(level: int) -> list[Topic]:
    """What is told when some zone has that level, beside the zone's own topic."""
    return [None, *(topic for least, topic in FROM_LEVEL.items() if level >= least)]
