"""A device with users, for tests of what they may take from each other: times in ms, records of what was woken."""

from __future__ import annotations

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile, Signalled
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_LOW

NORMAL = ZoneId(0, "Normal")
DMA32 = ZoneId(0, "DMA32")
MS = 1_000_000

ALICE, BOB, CAROL = 1000, 1001, 1002


class UserBench:
    """A device, and the files that it woke since the last look."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.device = Device(page_kb=4, policy=policy)
        self._woken: list[OpenFile] = []

    def open(self, uid: int, zone: ZoneId | None = None) -> OpenFile:
        return self.device.open(uid, zone, self._woken.append)

    def sleepers(self, uid: int, count: int, zone: ZoneId | None = None) -> list[OpenFile]:
        """Open files with a program asleep in poll on each."""
        files = [self.open(uid, zone) for _ in range(count)]
        for file in files:
            self.device.watch(file)
        return files

    def subscribers(self, uid: int, count: int, zone: ZoneId | None = None) -> list[OpenFile]:
        """Open files with an owner who wants SIGIO."""
        files = [self.open(uid, zone) for _ in range(count)]
        for file in files:
            self.device.subscribe(file, subscribed=True)
        return files

    def notify(self, now_ms: int, zone: ZoneId = NORMAL, *, level: str = LEVEL_LOW, rises: bool = False) -> None:
        state = ZoneState(zone, 1, 50, 60, 0, "anon_scan", now_ms * MS, level=level, rises=rises)
        self.device.notified((state,), now_ms * MS)

    def woken(self) -> list[OpenFile]:
        woken, self._woken[:] = list(self._woken), []
        return woken

    def answer(self, files: list[OpenFile], now_ms: int) -> None:
        """The programs that were woken look, read, and go to sleep again."""
        for file in files:
            assert self.polls(file, now_ms)
            assert self.reads(file, now_ms)
            self.device.watch(file)

    def polls(self, file: OpenFile, now_ms: int) -> bool:
        return self.device.poll(file, now_ms * MS)

    def reads(self, file: OpenFile, now_ms: int) -> bytes | None:
        return self.device.read(file, 4096, now_ms * MS)

    def picks(self, now_ms: int, signalled: set[int] | None = None) -> list[OpenFile]:
        return self.device.pick_subscribers(now_ms * MS, signalled or set())

    def announces(self, file: OpenFile, now_ms: int) -> Signalled:
        """What is noted down just before `file`'s owner is signalled."""
        before = self.device.signalled(file, now_ms * MS)
        assert before is not None
        return before

    def signal(self, now_ms: int) -> list[OpenFile]:
        """All those whose turn it is are signalled."""
        picked = self.picks(now_ms)
        for file in picked:
            self.announces(file, now_ms)
        return picked
