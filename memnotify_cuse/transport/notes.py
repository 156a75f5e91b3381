"""Notes of one connection's open files in the state file (`keeper.statefile`), by which the next server knows them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import Notice, OpenFile
from memnotify_cuse.device.topics import Special, Topic
from memnotify_cuse.keeper.statefile import NEVER, FileFlag, KnownFile, StateFile, Told, Zone
from memnotify_cuse.kernel.zoneinfo import ZoneId

log = logging.getLogger(__name__)

FUSE, CUSE = 0, 1
"""The connections."""


SPECIAL = -2
"""In place of a node: the name is that of a `Special`."""


class Resumed(NamedTuple):
    """An open file of the server before, open again. `kh` 0: nobody has waited on it in poll."""

    file: OpenFile
    kh: int


class FileNotes:
    """The notes of `connection`; without a state file nothing is noted, and nothing known."""

    def __init__(self, state: StateFile | None, connection: int, device: Device) -> None:
        self._state = state
        self._connection = connection
        self._device = device

    def opened(self, file: OpenFile) -> None:
        """Call it after the reply: a file that was never opened would stay for good."""
        if self._state is not None:
            topic = _note_of(file.topic)
            tids = file.opener_tid, file.user_tid
            opened_ns = file.opened_ns or time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self._state.note_file(file.number, self._connection, file.uid, topic, *tids, file.cgroup, opened_ns)

    def taken_in(self, file: OpenFile) -> None:
        """A file that the server before had opened, and had no time to note."""
        if self._state is not None and self._state.has_room_for(file.number):
            self.opened(file)

    def waiting(self, file: OpenFile, kh: int) -> None:
        """Call it before the reply: who sleeps has to be woken. `kh` 0: in a held read."""
        if self._state is not None:
            self._state.note_waiting(file.number, kh, file.user_tid)

    def told(self, file: OpenFile) -> None:
        """Call it after the reply: what is told twice is not lost."""
        if self._state is None:
            return
        flags = (
            (FileFlag.WAITING if self._device.is_watched(file) else 0)
            | (FileFlag.PENDING if file.notice is not Notice.IDLE else 0)
            | (FileFlag.ANSWERED if file.notice is Notice.ANSWERED else 0)
            | (FileFlag.ANNOUNCED if file.announced else 0)
        )
        told_ns = file.told_ns if file.told_ns is not None else NEVER
        self._state.note_told(file.number, Told(told_ns, FileFlag(flags), file.queue, file.partial_bytes))

    def closed(self, file: OpenFile) -> None:
        if self._state is not None:
            self._state.forget_file(file.number)

    def resume(self, wake: Callable[[OpenFile], None]) -> Iterator[Resumed]:
        """Open all files of the connection that the server before has noted."""
        if self._state is None:
            return
        for known in self._state.files(self._connection):
            try:
                file = self._adopt(known, wake)
            except Exception:
                # It is taken in when it is used.
                log.exception("unexpected error in going on with open file %d", known.number)
                continue
            yield Resumed(file, known.kh)

    def _adopt(self, known: KnownFile, wake: Callable[[OpenFile], None]) -> OpenFile:
        file = self._device.adopt(known.number, known.uid, _topic_of(known.topic), wake)
        self._device.opened_by(file, known.opener_tid, known.cgroup, known.opened_ns)
        file.user_tid = known.user_tid
        told = known.told
        file.told_ns = told.told_ns if told.told_ns != NEVER else None
        if told.flags & FileFlag.PENDING:
            file.notice = Notice.ANSWERED if told.flags & FileFlag.ANSWERED else Notice.PENDING
        file.announced = bool(told.flags & FileFlag.ANNOUNCED)
        file.restore(told.queue, told.partial_bytes)
        self._device.restored(file)
        if told.flags & FileFlag.WAITING:
            self._device.watch(file)
        return file


def _note_of(topic: Topic) -> Zone | None:
    if isinstance(topic, Special):
        return SPECIAL, topic.value
    return (topic.node, topic.name) if topic is not None else None


def _topic_of(note: Zone | None) -> Topic:
    """What an open file is about; ValueError if there is no such thing."""
    if note is None:
        return None
    node, name = note
    return Special(name) if node == SPECIAL else ZoneId(node, name)
