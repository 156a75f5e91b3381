"""The numbers of the device's semantics, in one place; defaults are those of the v6 mem_notify patch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Guard time, hold time, herd control and bounds.

    `guard_step_ns` × open files, at most `guard_max_ns`, is how long an open file is left alone after it was
    told. `hold_ns` is how long POLLIN is repeated after its first answer. A notification wakes
    watchers / `herd_divisor` + 1 of the watchers, at most `herd_max`; `herd_divisor` None wakes all of them
    (for measurements). Opens beyond `max_open_per_user` or `max_open` are refused.
    """

    guard_step_ns: int = 200_000_000
    guard_max_ns: int = 10_000_000_000
    hold_ns: int = 50_000_000
    herd_divisor: int | None = 16
    herd_max: int = 100
    max_open_per_user: int = 4096
    max_open: int = 32768

    def guard_ns(self, open_files: int) -> int:
        return min(self.guard_step_ns * open_files, self.guard_max_ns)

    def wake_count(self, watchers: int) -> int:
        """How many of `watchers` one notification wakes."""
        if self.herd_divisor is None:
            return watchers
        return min(watchers // self.herd_divisor + 1, self.herd_max)

    def shares(self, watchers: int, subscribers: int) -> tuple[int, int]:
        """How many of those who wait in poll and of the SIGIO subscribers one notification tells.

        They share in proportion to their numbers; where there is somebody in a group, it is at least one of them.
        """
        wanted = self.wake_count(watchers + subscribers)
        if not watchers or not subscribers:
            return (wanted, 0) if watchers else (0, wanted if subscribers else 0)
        signalled = max(1, min(round(wanted * subscribers / (watchers + subscribers)), wanted - 1))
        return max(1, wanted - signalled), signalled
