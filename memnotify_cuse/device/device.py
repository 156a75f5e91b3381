"""The device: open files, who is told when, and what they read. No I/O and no clock.

A transport opens and closes files, asks `poll` and `read`, and says who waits (`watch`). The board tells the
device about notifications; the device picks the watchers to be told and hands them to the transport's `wake`.
All times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.kernel.zoneinfo import ZoneId

Wake = Callable[[OpenFile], None]

_Records = dict[ZoneId | None, bytes]
"""What the open files of each zone (None: of all zones) are told."""


class TooManyOpenFilesError(Exception):
    """An open beyond the bound; `per_user` tells a user's own bound (EMFILE) from the device's (ENFILE)."""

    def __init__(self, *, per_user: bool) -> None:
        super().__init__("too many open files of one user" if per_user else "too many open files")
        self.per_user = per_user


class _Pressed(NamedTuple):
    """A zone under pressure. Its record is made once for each notification, which may tell a thousand files."""

    record: bytes
    missing_pages: int


class Device:
    """All open files of the device, for any number of transports. A `BoardListener`.

    `page_kb` is the page size in KiB. `wake(file)` is called for a file that was picked, once its record is in
    its queue: the transport ends its blocked reads and poll waits.

    SIGIO is somebody else's to send (`fasync`): `on_open` and `on_notified` say when there may be something to do,
    `subscribe` takes note of a file that has an owner, and `pick_subscribers` says whose turn it is. Each of
    `on_notified` is called once all of a notification's watchers were woken.
    """

    def __init__(self, page_kb: int, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self._page_kb = page_kb
        self._numbers = itertools.count(1)
        self._files: dict[int, OpenFile] = {}
        self._wake: dict[int, Wake] = {}
        self._open_by_uid: Counter[int] = Counter()
        self._watchers: dict[int, OpenFile] = {}
        self._pressed: dict[ZoneId, _Pressed] = {}
        self._pressed_records: _Records = {}
        self._subscribers: dict[int, OpenFile] = {}
        self._last_records: _Records = {}
        self._last_concerned = 0
        self.on_open: Callable[[], None] = lambda: None
        self.on_notified: list[Callable[[], None]] = []

    @property
    def files(self) -> list[OpenFile]:
        return list(self._files.values())

    @property
    def subscribers(self) -> int:
        """Open files whose owner is to get SIGIO, as far as is known."""
        return len(self._subscribers)

    @property
    def open_files(self) -> int:
        return len(self._files)

    @property
    def watchers(self) -> int:
        """Open files with somebody waiting in poll, select, epoll or a blocked read, as far as is known."""
        return len(self._watchers)

    def open(self, uid: int, zone: ZoneId | None, wake: Wake) -> OpenFile:
        """A new open file of the device of `zone` (None: of all zones), or `TooManyOpenFilesError`."""
        if len(self._files) >= self.policy.max_open:
            raise TooManyOpenFilesError(per_user=False)
        if self._open_by_uid[uid] >= self.policy.max_open_per_user:
            raise TooManyOpenFilesError(per_user=True)
        file = OpenFile(next(self._numbers), uid, zone)
        self._files[file.number] = file
        self._wake[file.number] = wake
        self._open_by_uid[uid] += 1
        self.on_open()
        return file

    def close(self, file: OpenFile) -> None:
        """Forget `file`; closing twice does nothing."""
        if self._files.pop(file.number, None) is None:
            return
        del self._wake[file.number]
        self._watchers.pop(file.number, None)
        self._subscribers.pop(file.number, None)
        self._open_by_uid[file.uid] -= 1
        if not self._open_by_uid[file.uid]:
            del self._open_by_uid[file.uid]

    def watch(self, file: OpenFile) -> None:
        """Somebody waits on `file`: it takes its place at the end of the queue, or keeps the one it has."""
        self._watchers.setdefault(file.number, file)

    def unwatch(self, file: OpenFile) -> None:
        """Nobody waits on `file` any more, as far as is known: it gives up its place."""
        self._watchers.pop(file.number, None)

    def poll(self, file: OpenFile, now_ns: int) -> bool:
        """Whether `file` is readable: the answer to poll, which starts guard and hold time when it is told."""
        self._expire_hold(file, now_ns)
        if not file.pending and self._may_be_told(file, now_ns):
            self._tell_of_pressure(file)
        if file.pending and file.answered_ns is None:
            file.answered_ns = file.told_ns = now_ns
            file.announced = True
        return file.pending or file.half_read

    def read(self, file: OpenFile, size: int, now_ns: int) -> bytes | None:
        """Up to `size` bytes of `file`'s records, b"" for a zero-length read, None where there is nothing."""
        if size == 0:
            return b""
        self._expire_hold(file, now_ns)
        if not file.queued_bytes and self._may_be_told(file, now_ns):
            self._tell_of_pressure(file)
        if not file.queued_bytes:
            return None
        if file.pending and file.answered_ns is None:
            file.answered_ns = file.told_ns = now_ns
        return file.take(size)

    def notified(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        """Tell the watchers whose turn it is. An unanswered record is brought up to date."""
        pressed = {state.zone: self._pressed_zone(state) for state in zones}
        self._pressed.update(pressed)
        self._pressed_records = _records_of(self._pressed)
        records = _records_of(pressed)
        for file in self._files.values():
            if file.pending and file.answered_ns is None and file.zone in records:
                file.put(records[file.zone])
        concerned = [file for file in self._watchers.values() if file.zone in records]
        eligible = (file for file in concerned if not self._awaits_answer(file) and self._guard_passed(file, now_ns))
        subscribers = sum(file.zone in records for file in self._subscribers.values())
        wanted, _ = self.policy.shares(len(concerned), subscribers)
        self._last_records, self._last_concerned = records, len(concerned)
        for file in itertools.islice(eligible, wanted):
            del self._watchers[file.number]
            file.put(records[file.zone])
            file.pending, file.answered_ns = True, None
            self._wake[file.number](file)
        for follow_up in self.on_notified:
            follow_up()

    def subscribe(self, file: OpenFile, *, subscribed: bool) -> None:
        """Take note of whether `file` has an owner who wants SIGIO. A new one goes to the end of the queue."""
        if not subscribed or file.number not in self._files:
            self._subscribers.pop(file.number, None)
        else:
            self._subscribers.setdefault(file.number, file)

    def is_subscribed(self, file: OpenFile) -> bool:
        return file.number in self._subscribers

    def pick_subscribers(self, now_ns: int, signalled: Collection[int] = ()) -> list[OpenFile]:
        """The SIGIO subscribers whose turn it is, for the notification that was just told.

        Files whose numbers are `signalled` were told of it already, and have had their places.
        """
        concerned = [
            file
            for file in self._subscribers.values()
            if file.zone in self._last_records and file.zone in self._pressed_records
        ]
        _, wanted = self.policy.shares(self._last_concerned, len(concerned))
        # Looking for owners can take longer than the guard time.
        due = (file for file in concerned if file.number not in signalled and self._guard_passed(file, now_ns))
        return list(itertools.islice(due, max(0, wanted - len(signalled))))

    def signalled(self, file: OpenFile, now_ns: int) -> bool:
        """`file`'s owner is about to get its signal: the file is told, and readable, as for a poll that was woken.

        False if it was closed meanwhile, or its pressure has ended: then it is not to be signalled.
        """
        if file.number not in self._files or file.zone not in self._pressed_records:
            return False
        # Who was woken in poll and has taken the record by now is not given another.
        if self._awaits_answer(file) or self._guard_passed(file, now_ns):
            self._tell_of_pressure(file)
            file.told_ns = now_ns
        if self._subscribers.pop(file.number, None) is not None:
            self._subscribers[file.number] = file
        return True

    def pressure_ended(self, zones: tuple[ZoneId, ...], now_ns: int) -> None:
        """Withdraw what nobody was answered yet, unless another zone of the file is still under pressure."""
        for zone in zones:
            self._pressed.pop(zone, None)
        self._pressed_records = _records_of(self._pressed)
        for file in self._files.values():
            if self._awaits_answer(file) and file.zone not in self._pressed_records:
                file.withdraw()

    def _awaits_answer(self, file: OpenFile) -> bool:
        return file.pending and file.answered_ns is None

    def _expire_hold(self, file: OpenFile, now_ns: int) -> None:
        if file.answered_ns is not None and now_ns - file.answered_ns >= self.policy.hold_ns:
            file.pending, file.answered_ns = False, None

    def _guard_passed(self, file: OpenFile, now_ns: int) -> bool:
        return file.told_ns is None or now_ns - file.told_ns >= self.policy.guard_ns(len(self._files))

    def _may_be_told(self, file: OpenFile, now_ns: int) -> bool:
        return file.zone in self._pressed_records and self._guard_passed(file, now_ns)

    def _tell_of_pressure(self, file: OpenFile) -> None:
        file.put(self._pressed_records[file.zone])
        file.pending, file.answered_ns = True, None

    def _pressed_zone(self, state: ZoneState) -> _Pressed:
        return _Pressed(state.record(self._page_kb).format(), state.target_pages)


def _records_of(pressed: Mapping[ZoneId, _Pressed]) -> _Records:
    """The record of each zone; for files of all zones that of the one which is furthest from being clear."""
    if not pressed:
        return {}
    worst = max(pressed.values(), key=lambda each: each.missing_pages)
    return {None: worst.record, **{zone: each.record for zone, each in pressed.items()}}
