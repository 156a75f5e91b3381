"""SIGIO: who has subscribed, and signals at each notification.

FUSE and CUSE have no fasync operation: the kernel accepts F_SETFL with O_ASYNC, drops the bit and tells the server
nothing. It does keep F_SETOWN and F_SETSIG in the open file, where they can be looked up. In mode `owner` a file is
armed as soon as it has an owner; in mode `strict` when O_ASYNC was set on it, learned from the trace event
syscalls:sys_enter_fcntl.

A notification is served in three steps: find and verify in the worker thread, note down in the device who is told,
send in the worker thread. Files that nobody has looked at since they were opened, and some of those that had no owner,
are looked at before that; where they are many, whoever is known by then is signalled meanwhile.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import Final

import trio

from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.fasync.deliver import Delivery, prepare
from memnotify_cuse.fasync.locate import Locator
from memnotify_cuse.fasync.strict import AsyncFlags
from memnotify_cuse.fasync.worker import Worker
from memnotify_cuse.kernel.fileowner import FileOwner, OwnerKind, file_owner
from memnotify_cuse.kernel.statx import FileId, file_id

log = logging.getLogger(__name__)

NEW_FOR_S: Final = 60.0
"""How long after its open a file without an owner is looked at again when another is opened."""

SURVEY_DELAYS_S: Final = (0.05, 0.5)
"""How long after an open its owner is looked for: programs set it soon after."""

SURVEY_BUDGET: Final = 64
"""How many files without an owner are looked at again at each notification."""

MAX_ROUNDS: Final = 4
BATCH: Final = 16


class SigioMode(Enum):
    """When a file is armed: as soon as it has an owner, while O_ASYNC is set, or never."""

    OWNER = "owner"
    STRICT = "strict"
    OFF = "off"


class SigioService:
    """Serves the owners of `device`'s open files; `run` until cancelled. With `flags` in mode `strict`."""

    def __init__(self, device: Device, locator: Locator, worker: Worker, flags: AsyncFlags | None = None) -> None:
        self._device = device
        self._locator = locator
        self._worker = worker
        self._flags = flags
        self._wanted = trio.Event()
        self._opened = trio.Event()
        self._seen: set[int] = set()
        self._rotation = 0
        self._warned = False
        # What was found out in the thread is noted down in the same order: of two answers the later one holds.
        self._in_turn = trio.Lock()
        device.on_notified.append(lambda: self._wanted.set())
        device.on_open = lambda: self._opened.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._flags is None:
                nursery.start_soon(self._survey_after_opens)
            else:
                nursery.start_soon(self._follow_flags, self._flags)
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                try:
                    await self._serve_notification()
                except Exception:
                    log.exception("unexpected error while sending SIGIO; the notification is not repeated")

    async def _survey_after_opens(self) -> None:
        # Only of those that are new: with thousands of open files, one more must not have all of them looked at. But a
        # program may open many before it sets an owner for the first of them. Nor of those that were opened since: as
        # long as open() has not returned, nobody has a descriptor, and a search in vain holds up the next one.
        done = 0
        opened: deque[tuple[float, int]] = deque()
        while True:
            await self._opened.wait()
            self._opened = trio.Event()
            newest = max((file.number for file in self._device.files), default=done)
            opened.append((trio.current_time(), newest))
            while opened[0][0] < trio.current_time() - NEW_FOR_S:
                done = opened.popleft()[1]
            for delay_s in SURVEY_DELAYS_S:
                await trio.sleep(delay_s)
                new = [file for file in self._device.files if done < file.number <= newest]
                try:
                    await self._survey([file for file in new if not self._device.is_subscribed(file)])
                except Exception:
                    log.exception("unexpected error while looking for SIGIO subscribers")

    async def _follow_flags(self, flags: AsyncFlags) -> None:
        while True:
            await trio.lowlevel.wait_readable(flags.fileno())
            try:
                if await self._worker.run(flags.update):
                    await self._survey([file for file in self._device.files if flags.is_set(file.number)])
            except Exception:
                log.exception("unexpected error while following O_ASYNC")
                await trio.sleep(1)

    async def _serve_notification(self) -> None:
        if self._flags is not None:
            await self._worker.run(self._flags.update)
        signalled: set[int] = set()
        await self._survey(self._worth_a_look(), meanwhile=lambda: self._signal_those_due(signalled))
        await self._signal_those_due(signalled)

    async def _signal_those_due(self, signalled: set[int]) -> None:
        """Signal the known subscribers whose turn it is, and add them to those `signalled`."""
        for _ in range(MAX_ROUNDS):
            wanted = self._device.pick_subscribers(time.monotonic_ns(), signalled)
            if not wanted:
                break
            # In batches: the last of a thousand should not keep the first one waiting.
            for batch in _batches(wanted):
                async with self._in_turn:
                    signalled |= await self._signal_batch(batch)
            # Somebody else's turn comes in place of those who could not be told.

    async def _signal_batch(self, files: list[OpenFile]) -> set[int]:
        """Signal the owners of `files`; the numbers of those of which somebody was."""
        ready = await self._worker.run(self._prepare_all, files)
        now_ns = time.monotonic_ns()
        to_send: list[Delivery] = []
        to_drop: list[Delivery] = []
        told = set()
        for file, armed, deliveries in ready:
            if deliveries and self._device.signalled(file, now_ns):
                to_send += deliveries
                told.add(file.number)
                continue
            to_drop += deliveries
            # To the end of the queue, or out of it.
            self._device.subscribe(file, subscribed=False)
            self._device.subscribe(file, subscribed=armed)
        await self._worker.run(_send_all, to_send, to_drop)
        return told

    def _worth_a_look(self) -> list[OpenFile]:
        """Files that were never looked at, and a few of those that had no owner, in turn."""
        files = [file for file in self._device.files if not self._device.is_subscribed(file)]
        if self._flags is not None:
            return [file for file in files if self._flags.is_set(file.number)]
        new = [file for file in files if file.number not in self._seen]
        old = [file for file in files if file.number in self._seen]
        if len(old) > SURVEY_BUDGET:
            start = self._rotation % len(old)
            self._rotation += SURVEY_BUDGET
            old = (old + old)[start : start + SURVEY_BUDGET]
        return new + old

    async def _survey(self, files: list[OpenFile], *, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
        """Look whether `files` have owners, and take note of it.

        Where they are many that takes a while: `meanwhile` is for those who are known by then and should not have to
        wait.
        """
        if not files:
            return
        for batch in _batches(files):
            if meanwhile is not None and len(files) > BATCH:
                await meanwhile()
            async with self._in_turn:
                owned = await self._worker.run(self._find_owners, batch)
                for file in batch:
                    self._device.subscribe(file, subscribed=file.number in owned)
        self._warn_once()
        open_numbers = {file.number for file in self._device.files}
        self._seen = (self._seen | {file.number for file in files}) & open_numbers
        await self._worker.run(self._forget_all_but, open_numbers)

    def _warn_once(self) -> None:
        if self._locator.unreachable is not None and not self._warned:
            self._warned = True
            log.warning(
                "no SIGIO for process %d and others like it: this server may not look at their descriptors "
                "(CAP_SYS_PTRACE; see memnotify doctor). poll and read are not affected",
                self._locator.unreachable,
            )

    def _forget_all_but(self, open_numbers: set[int]) -> None:
        self._locator.forget_all_but(open_numbers)
        if self._flags is not None:
            self._flags.forget_all_but(open_numbers)

    def _find_owners(self, files: list[OpenFile]) -> set[int]:
        owned = set()
        for file in files:
            with self._locator.descriptor(file.number, _hints(file)) as found:
                if found is not None and self._is_armed(file, file_owner(found[1])):
                    owned.add(file.number)
        return owned

    def _prepare_all(self, files: list[OpenFile]) -> list[tuple[OpenFile, bool, list[Delivery]]]:
        """For each file whether it is armed, and the signals that are ready to be sent."""
        ready = []
        for file in files:
            armed, deliveries = False, list[Delivery]()
            prefer = 0
            with self._locator.descriptor(file.number, _hints(file)) as found:
                if found is not None:
                    place, fd = found
                    owner = file_owner(fd)
                    armed = self._is_armed(file, owner)
                    if owner is not None and owner.kind in (OwnerKind.PROCESS, OwnerKind.THREAD):
                        prefer = self._locator.tgid_of(owner.id) or 0
                    if prefer == place.pid:
                        prefer = 0
                    if armed and not prefer:
                        deliveries = prepare(fd, place, file.uid, spare=self._flags is None)
            if armed and prefer:
                with self._locator.descriptor(file.number, _hints(file), prefer=prefer) as found:
                    if found is not None:
                        deliveries = prepare(found[1], found[0], file.uid, spare=self._flags is None)
            ready.append((file, armed, deliveries))
        return ready

    def _is_armed(self, file: OpenFile, owner: FileOwner | None) -> bool:
        return owner is not None and (self._flags is None or self._flags.is_set(file.number))


def _batches(files: list[OpenFile]) -> list[list[OpenFile]]:
    return [files[start : start + BATCH] for start in range(0, len(files), BATCH)]


def _send_all(to_send: list[Delivery], to_drop: list[Delivery]) -> None:
    for delivery in to_send:
        delivery.send()
    for delivery in to_drop:
        delivery.drop()


def _hints(file: OpenFile) -> tuple[int, ...]:
    return (file.user_tid, file.opener_tid)


def device_id(path: Path) -> FileId:
    """What tells our files from others. Sends a request to the file system: not for the thread that serves it."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return file_id(fd)
    finally:
        os.close(fd)
