"""The numbers of the device's semantics, in one place; defaults are those of the v6 mem_notify patch."""

from __future__ import annotations

from dataclasses import dataclass

from memnotify_cuse.accounts import Bounds


@dataclass(frozen=True, slots=True)
class Policy:
    """Guard time, herd control and bounds.

    `guard_step_ns` × the user's open files, at most `guard_max_ns`, is how long an open file is left alone after it
    was told. A file that is told within `hair_ns` of a notification counts as told at it, so that the next one is not
    missed by a hair. A notification wakes watchers / `herd_divisor` + 1 of each user's watchers, at most `herd_max` in
    all, or one of each user; `herd_divisor` None wakes all of them (for measurements). Opens beyond `max_open_per_user`
    or `max_open` are refused; `root_reserve` of the latter are for root alone.
    """

    guard_step_ns: int = 200_000_000
    guard_max_ns: int = 10_000_000_000
    hair_ns: int = 50_000_000
    herd_divisor: int | None = 16
    herd_max: int = 100
    max_open_per_user: int = 4096
    max_open: int = 32768
    root_reserve: int = 1024

    @property
    def open_bounds(self) -> Bounds:
        return Bounds(self.max_open, self.max_open_per_user, self.root_reserve)

    def guard_ns(self, open_files: int) -> int:
        """How long a file of a user with `open_files` is left alone after it was told."""
        return min(self.guard_step_ns * open_files, self.guard_max_ns)

    def wake_count(self, watchers: int) -> int:
        """How many of a user's `watchers` one notification wakes."""
        if self.herd_divisor is None:
            return watchers
        return min(watchers // self.herd_divisor + 1, self.herd_max)

    def shares(self, watchers: int, subscribers: int) -> tuple[int, int]:
        """How many of a user's files that wait in poll, and of its SIGIO subscribers, one notification tells.

        They share in proportion to their numbers; where there are any in a group, it is at least one of them.
        """
        wanted = self.wake_count(watchers + subscribers)
        if not watchers or not subscribers:
            return (wanted, 0) if watchers else (0, wanted if subscribers else 0)
        signalled = max(1, min(round(wanted * subscribers / (watchers + subscribers)), wanted - 1))
        return max(1, wanted - signalled), signalled

    def in_all(self, woken: int, signalled: int) -> tuple[int, int]:
        """How many files one notification tells in all, where the users' shares add up to `woken` and `signalled`."""
        if self.herd_divisor is None or woken + signalled <= self.herd_max:
            return woken, signalled
        most_signalled = round(self.herd_max * signalled / (woken + signalled))
        return self.herd_max - most_signalled, most_signalled
