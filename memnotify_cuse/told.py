"""A device that counts how many programs it tells, for the log."""

from __future__ import annotations

from collections.abc import Callable

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.accounts import Users
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile, Signalled
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.pressurelog import Told


class CountingDevice(Device):
    """The device, with `told`. A file that is waited on, or has an owner, counts as a program."""

    def __init__(
        self,
        page_kb: int,
        policy: Policy | None = None,
        users: Users | None = None,
        next_number: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(page_kb, policy, users, next_number)
        self._notifications = self._woken = self._signalled = 0
        self._waited = 0
        # The first of them: the others let programs ask, which then wait again.
        self.on_notified.append(self._count_woken)

    @property
    def told(self) -> Told:
        return Told(self._notifications, self._woken, self._signalled)

    def notified(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        self._notifications += 1
        self._waited = self.watchers
        super().notified(zones, now_ns)

    def signalled(self, file: OpenFile, now_ns: int) -> Signalled | None:
        before = super().signalled(file, now_ns)
        self._signalled += before is not None
        return before

    def not_signalled(self, file: OpenFile, before: Signalled) -> None:
        self._signalled -= 1
        super().not_signalled(file, before)

    def _count_woken(self) -> None:
        self._woken += self._waited - self.watchers
