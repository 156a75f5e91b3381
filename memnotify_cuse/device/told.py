"""How much was told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Told:
    """Counts since the start: notifications, files woken by them in poll or read, and sent SIGIO."""

    notifications: int = 0
    woken: int = 0
    signalled: int = 0

    def __sub__(self, other: Told) -> Told:
        return Told(
            self.notifications - other.notifications, self.woken - other.woken, self.signalled - other.signalled
        )
