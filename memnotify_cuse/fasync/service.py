"""SIGIO: who has subscribed, and signals at each notification.

FUSE and CUSE have no fasync operation: the kernel accepts F_SETFL with O_ASYNC, drops the bit and tells the server
nothing. It does keep F_SETOWN and F_SETSIG in the open file, where they can be looked up. In mode `owner` a file is
armed as soon as it has an owner; in mode `strict` when O_ASYNC was set on it, learned from the trace event
syscalls:sys_enter_fcntl; in mode `auto` as in `owner` until it is known from kprobe events that O_ASYNC was set or
cleared (`exact`).

The looking and the signalling is done by helper processes (`pool`). What they find is remembered here: the place of
each open file, which the helper verifies before it signals. At a notification each user is served in a task of its own,
and the pool takes users in turn: first those who are known, then files that were never looked at, and some of those
that had no owner. Where a file cannot be found with those who opened and used it, all processes are searched, ever so
often.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeVar

import trio

from memnotify_cuse.board import CRITICAL_INTERVAL_NS
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile, Signalled
from memnotify_cuse.fasync.exact import FileCalls
from memnotify_cuse.fasync.jobs import LISTED_PROCESSES, MAX_JOBS, SEARCH_DESCRIPTORS, Job, Kind, Report, Said, Status
from memnotify_cuse.fasync.line import Line
from memnotify_cuse.fasync.pool import FEW_JOBS, Call, HelperPool
from memnotify_cuse.fasync.strict import AsyncFlags

log = logging.getLogger(__name__)

NEW_FOR_S: Final = 60.0
"""How long after its open a file without an owner is looked at again when another is opened."""

SURVEY_DELAYS_S: Final = (0.05, 0.5)
"""How long after an open its owner is looked for: programs set it soon after."""

MOST_AGAIN: Final = 1024
LEAST_AGAIN: Final = 16
"""How many files without an owner are looked at again after an open: of all users together, and of each at least."""

SURVEY_BUDGET: Final = 64
"""How many files of a user without an owner are looked at again at each notification."""

SEARCH_REST: Final = 9
"""After a search in vain, in a process or in all of them, no other for so many times as long, whatever it is for."""

NOT_IN_S: Final = 1.0
"""How long it is believed that an owner has no descriptor of its own."""

FLAGS_PAUSE_S: Final = 0.02
"""Least time between two looks at the calls of F_SETFL: each reads no more than one buffer full."""

CALLS_PAUSE_S: Final = 10.0
CALLS_AT_ONCE: Final = 300
"""Mode `auto`: the calls are read at each notification and after opens; else after such a pause, or a shorter one where
as many would be made meanwhile. A processor's buffer has room for four times as many.
"""
LOST_PAUSE_S: Final = 1.0
"""When more calls are made than can be read: nothing counts as known then, and reading on would not change that."""

IDLE_S: Final = 60.0
"""How long after the last open file was closed the helpers end."""

MAX_KNOWN_IDS: Final = 4096
"""Of how many user ids it is remembered whose they are, beside those of open files."""

SIGNALLED_TOGETHER: Final = 4 * MAX_JOBS
SENT_TOGETHER: Final = 16 * MAX_JOBS
"""How many of a user's files are signalled in one go: more where most owners are known, since that takes little."""

IDENTIFY_S: Final = 0.05
"""How long signals wait in mode `strict` until it is known of which files O_ASYNC was just set or cleared."""

TOGETHER_S: Final = CRITICAL_INTERVAL_NS / 1e9
"""Notifications of cgroups that are nearer to each other are taken as one. Each cgroup has a rate of its own, so there
may be hundreds of them a second, and each means a look at all open files."""

SIGNALLED_AT_ONCE: Final = 16
LOOKED_AT_AT_ONCE: Final = 4
SURVEYED_AT_ONCE: Final = 16
"""How many users are served at the same time: there may be as many as an attacker has ids."""

OTHERS_SERVED: Final = 64
"""How many users who have no signal to be sent are looked at, at each notification."""

MAX_ROUNDS: Final = 4
HELPERS_WITH_OWNERS: Final = 2
"""As soon as there is an owner to signal, a second helper stands by."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Descriptor number `descriptor` of process `pid`."""

    pid: int
    descriptor: int


@dataclass(slots=True)
class _Round:
    """Files whose owners are to be signalled, those of them that the device has noted as signalled, and those that are
    pending. `call` is what was posted for all of these at look number `look`, None where nothing was yet."""

    files: list[OpenFile]
    begun: dict[int, Signalled]
    pending: list[OpenFile]
    look: int = 0
    call: Call | None = None


class SigioService:
    """Serves the owners of `device`'s open files; `run` until cancelled.

    With `flags` in mode `strict`, with `calls` in mode `auto`.
    """

    def __init__(
        self, device: Device, pool: HelperPool, flags: AsyncFlags | None = None, calls: FileCalls | None = None
    ) -> None:
        self._device = device
        self._pool = pool
        self._flags = flags
        self._calls = calls
        self._missed = False
        self._next_begin_s = 0.0
        self._is_to_begin = False
        self._opened = trio.Event()
        self._opened_first = trio.Event()
        self._lost = trio.Event()
        self._places: dict[int, Place] = {}
        self._elsewhere_until_s: dict[int, float] = {}
        self._seen: set[int] = set()
        self._rotation: dict[int, int] = {}
        self._told: set[int] = set()
        self._failed: set[int] = set()
        self._due: dict[int, list[OpenFile]] = {}
        self._begun: dict[int, _Round] = {}
        self._chosen: set[int] = set()
        self._of_user: dict[int, list[OpenFile]] = {}
        self._to_survey: dict[int, dict[int, OpenFile]] = {}
        # Apart from each other, so that no signal waits for a look at the files of others.
        self._signals = Line(SIGNALLED_AT_ONCE, pool.is_slow)
        self._others = Line(LOOKED_AT_AT_ONCE, pool.is_slow)
        self._surveys = Line(SURVEYED_AT_ONCE, pool.is_slow)
        pool.on_slow = self._note_slow
        self._others_from = 0
        self._searched: dict[int, float] = {}
        self._searching: dict[int, trio.Event] = {}
        self._searched_users: set[int] = set()
        self._search_changed = trio.Event()
        self._looks = itertools.count(1)
        self._looked: dict[int, int] = {}
        self._refused_once = False
        self._nursery: trio.Nursery | None = None
        device.on_open = self._note_open
        device.on_close = self._forget_closed

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._signals.serve, self._signal_user)
            nursery.start_soon(self._others.serve, self._look_at_user)
            nursery.start_soon(self._surveys.serve, self._survey)
            nursery.start_soon(self._search_everywhere)
            nursery.start_soon(self._look_after_helpers)
            nursery.start_soon(self._survey_after_opens)
            if self._flags is not None:
                nursery.start_soon(self._follow_flags, self._flags)
            if self._calls is not None:
                nursery.start_soon(self._follow_calls, self._calls)
            if self._missed:
                self.notified()
            await trio.sleep_forever()

    def notified(self, *, may_wait: bool = False) -> None:
        """The device has told of a notification: the subscribers whose turn it is are to be signalled.

        `may_wait`: for a moment, if there was another one just now, so that both are taken as one.
        """
        if self._nursery is None:
            self._missed = True
        elif not may_wait or trio.current_time() >= self._next_begin_s:
            self._begin()
        elif not self._is_to_begin:
            self._is_to_begin = True
            self._nursery.start_soon(self._begin_soon)

    async def _begin_soon(self) -> None:
        await trio.sleep_until(self._next_begin_s)
        self._begin()

    def _begin(self) -> None:
        self._is_to_begin = False
        self._next_begin_s = trio.current_time() + TOGETHER_S
        try:
            self._begin_notification()
        except Exception:
            log.exception("unexpected error in choosing who gets SIGIO; the notification is not repeated")

    def _note_open(self) -> None:
        newest = self._device.newest
        if self._calls is not None and newest is not None:
            self._calls.opened(newest.number)
        self._opened.set()
        self._opened_first.set()

    def _note_slow(self) -> None:
        for line in (self._signals, self._others, self._surveys):
            line.look_again()
        self._change_search()

    # Notifications.

    def _begin_notification(self) -> None:
        if self._flags is not None:
            self._flags.read()
        if self._calls is not None:
            self._read_calls(self._calls)
        self._told.clear()
        self._failed.clear()
        self._due = self._pick()
        self._chosen = set(self._due)
        self._of_user = defaultdict(list)
        for file in self._device.files:
            self._of_user[file.user].append(file)
        for user in self._worth_serving():
            try:
                self._begin_at_once(user)
            except Exception:
                log.exception("unexpected error while sending SIGIO; the notification is not repeated")
            self._serve_soon(user)

    def _begin_at_once(self, user: int) -> None:
        """Post the first of a user's signals: the task that takes in what comes of it waits for its turn."""
        due = self._due.get(user, [])
        idle = user not in self._begun and not self._signals.serves(user) and not self._pool.is_slow(user)
        if due and idle and self._flags is None and len(self._begun) < SIGNALLED_AT_ONCE:
            together = self._together
            self._due[user] = due[together:]
            signals = self._announce(due[:together])
            try:
                self._post(user, signals)
            except Exception:
                for file in signals.pending:
                    self._device.not_signalled(file, signals.begun[file.number])
                    self._told.discard(file.number)
                raise
            self._begun[user] = signals

    @property
    def _together(self) -> int:
        """How many of a user's files are signalled in one go: the pool divides them among its helpers."""
        return SIGNALLED_TOGETHER if self._calls is None else SENT_TOGETHER

    def _worth_serving(self) -> Iterator[int]:
        """Users with subscribers whose turn it is; and of those with files that have no owner some, in turn."""
        yield from list(self._due)
        others = []
        for user, files in self._of_user.items():
            if user not in self._due and not all(map(self._device.is_subscribed, files)):
                others.append(user)
        if len(others) > OTHERS_SERVED:
            start = self._others_from % len(others)
            self._others_from = start + OTHERS_SERVED
            others = (others + others)[start : start + OTHERS_SERVED]
        yield from others

    def _pick(self) -> dict[int, list[OpenFile]]:
        """Those whose turn it is, by user, but for those who could not be told of this notification."""
        due: dict[int, list[OpenFile]] = defaultdict(list)
        for file in self._device.pick_subscribers(time.monotonic_ns(), self._told):
            if file.number not in self._failed:
                due[file.user].append(file)
        return due

    def _serve_soon(self, user: int) -> None:
        """Have the user's signals sent, if it has any; else have its files looked at."""
        (self._signals if user in self._due else self._others).put(user)

    async def _signal_user(self, user: int) -> None:
        """Send the signals that are due, and have the user's other files looked at after that."""
        if self._flags is not None:
            await self._identify_all(self._flags, user)
        await self._signal_those_due(user, first=True)
        self._others.put(user)

    async def _look_at_user(self, user: int) -> None:
        """Look at the user's files that have no owner as yet, and signal those that turn out to have one."""
        files = self._of_user.get(user, ())
        if user not in self._chosen and any(self._is_subscribed_and_not_told(file) for file in files):
            # Found since the notification, by another look.
            await self._signal_those_due(user)
        looked_at = self._worth_a_look(user)
        for batch in _batches(looked_at):
            if await self._look(user, batch):
                await self._signal_those_due(user)
        if self._unplaced(looked_at):
            self._lost.set()

    async def _signal_those_due(self, user: int, *, first: bool = False) -> None:
        """Signal the subscribers of a user whose turn it is: `first`, those who were chosen at the notification."""
        due = self._due.pop(user, []) if first else self._pick().get(user, [])
        begun = self._begun.pop(user, None) if first else None
        for _ in range(MAX_ROUNDS):
            failed = len(self._failed)
            if begun is not None:
                await self._finish(user, begun)
                begun = None
            for batch in _batches(due, self._together):
                await self._finish(user, self._announce(batch))
            if len(self._failed) == failed:
                return
            # Others have their turn in place of those that could not be told.
            due = self._pick().get(user, [])

    def _announce(self, files: list[OpenFile]) -> _Round:
        """Have the device note `files` as signalled: those that are armed, and were not signalled meanwhile."""
        # What was chosen at the notification may have been signalled since, when another's turn came in its place.
        files = [file for file in files if file.number not in self._told and self._is_armed(file)]
        begun = {}
        for file in files:
            token = self._device.signalled(file, time.monotonic_ns())
            if token is not None:
                begun[file.number] = token
        self._told.update(begun)
        return _Round(files, begun, [file for file in files if file.number in begun])

    def _post(self, user: int, signals: _Round) -> None:
        """Post the jobs of all that are pending, if that can be done without looking for anything first."""
        if not signals.pending or self._unplaced(signals.pending):
            return
        jobs = [self._signal_job(file, 0, ()) for file in signals.pending]
        if self._calls is None or not self._calls.works or all(job.kind is Kind.SEND for job in jobs):
            signals.look = next(self._looks)
            signals.call = self._pool.post(user, jobs)

    async def _finish(self, user: int, signals: _Round) -> None:
        """Signal the owners of what is pending, and take note of those of which none could be."""
        files, begun, pending = signals.files, signals.begun, signals.pending
        after = dict.fromkeys((file.number for file in files), 0)
        counts: dict[int, int] = defaultdict(int)
        were_at: dict[int, int] = {}
        deadly: set[int] = set()
        while pending:
            if signals.call is not None:
                placed, look, results = pending, signals.look, await signals.call.results()
                signals.call = None
            else:
                lost = self._unplaced(pending)
                if lost:
                    await self._look(user, lost, were_at=were_at)
                placed = [file for file in pending if file.number in self._places]
                jobs = [self._signal_job(file, after[file.number], deadly) for file in placed]
                look = next(self._looks)
                results = await self._run_jobs(user, jobs)
            pending = []
            for file, reports in zip(placed, results, strict=True):
                end = self._take_in(file, reports, look)
                counts[file.number] += end.signalled
                if end.status in (Status.OK, Status.NOBODY) and end.pid:
                    after[file.number] = end.pid
                    pending.append(file)
                elif end.status is Status.SPARED and file.number not in deadly and self._wants_it_anyway(file):
                    deadly.add(file.number)
                    pending.append(file)
                elif end.status is Status.GONE:
                    # It was there before: with another process by now, or behind another number.
                    place = self._places.pop(file.number, None)
                    if place is not None and file.number not in were_at:
                        were_at[file.number] = place.pid
                        pending.append(file)
        for file in files:
            if counts[file.number] or file.number not in begun:
                continue
            self._device.not_signalled(file, begun[file.number])
            self._told.discard(file.number)
            is_placed = file.number in self._places
            armed = is_placed and self._device.is_subscribed(file)
            # To the end of the queue, or out of it.
            self._device.subscribe(file, subscribed=False)
            self._device.subscribe(file, subscribed=armed)
            if is_placed:
                self._failed.add(file.number)
            else:
                # It may be found in time for this notification.
                self._lost.set()

    def _is_subscribed_and_not_told(self, file: OpenFile) -> bool:
        return self._device.is_subscribed(file) and file.number not in self._told

    def _is_armed(self, file: OpenFile) -> bool:
        """Whether `file` signals its owner; O_ASYNC may have been cleared."""
        if self._may_be_set(file.number):
            return True
        self._device.subscribe(file, subscribed=False)
        return False

    def _may_be_set(self, number: int) -> bool:
        """Whether a file is armed if it has an owner."""
        if self._calls is not None:
            return not self._calls.is_cleared(number)
        return self._flags is None or self._flags.may_be_set(number)

    def _is_guess(self, number: int) -> bool:
        """Whether O_ASYNC was not seen to be set."""
        if self._calls is not None:
            return not self._calls.is_set(number)
        return self._flags is None or self._flags.is_guess(number)

    def _signal_job(self, file: OpenFile, after_pid: int, deadly: Collection[int]) -> Job:
        known = self._calls.owner(file.number) if self._calls is not None else None
        if known is not None:
            return Job(
                Kind.SEND,
                number=file.number,
                pid=known.pid,
                descriptor=known.descriptor,
                opener_uid=file.uid,
                spare=file.number not in deadly,
                identity=known.identity,
                signal=known.signal,
                owner_uid=known.uid,
                owner_euid=known.euid,
            )
        place = self._places[file.number]
        return Job(
            Kind.SIGNAL,
            number=file.number,
            pid=place.pid,
            descriptor=place.descriptor,
            opener_uid=file.uid,
            after_pid=after_pid,
            spare=self._is_guess(file.number),
            elsewhere=trio.current_time() < self._elsewhere_until_s.get(file.number, 0.0),
        )

    def _take_in(self, file: OpenFile, reports: list[Report], look: int) -> Report:
        """Note down what a helper says of `file` after it was to signal its owner; the last report."""
        *found, end = reports
        if end.status is not Status.OK:
            log.debug("open file %d of user %d: not signalled: %s", file.number, file.user, end.status.name)
        self._note_places(found, look, moves=True)
        place = self._places.get(file.number)
        looked = trio.current_time() >= self._elsewhere_until_s.get(file.number, 0.0)
        if looked and place is not None and end.owner_pid and end.owner_pid != place.pid:
            self._elsewhere_until_s[file.number] = trio.current_time() + NOT_IN_S
        if end.status is Status.NO_OWNER and self._is_news(file, look):
            self._device.subscribe(file, subscribed=False)
            known = self._calls.owner(file.number) if self._calls is not None else None
            if self._calls is not None and known is not None:
                self._calls.owner_is_gone(file.number, known)
        return end

    async def _look_after_helpers(self) -> None:
        """Have a helper from the first open file on, and none when there has been none for a while."""
        while True:
            self._opened_first = trio.Event()
            if not self._device.open_files and self._pool.dismiss():
                await self._opened_first.wait()
            self._pool.want(1)
            await trio.sleep(IDLE_S)
            self._pool.dismiss_spare(HELPERS_WITH_OWNERS if self._device.subscribers else 1)

    # Looking.

    def _worth_a_look(self, user: int) -> list[OpenFile]:
        """A user's files that were never looked at, and a few of those that had no owner, in turn."""
        open_files = (file for file in self._of_user.get(user, ()) if self._is_open(file))
        files = [file for file in open_files if not self._device.is_subscribed(file)]
        if self._flags is not None:
            return [file for file in files if self._flags.may_be_set(file.number)]
        files = [file for file in files if self._is_owner_open(file)]
        new = [file for file in files if self._is_new(file)]
        old = [file for file in files if not self._is_new(file)]
        if len(old) > SURVEY_BUDGET:
            start = self._rotation.get(user, 0) % len(old)
            if len(self._rotation) > MAX_KNOWN_IDS:
                self._rotation.clear()
            self._rotation[user] = start + SURVEY_BUDGET
            old = (old + old)[start : start + SURVEY_BUDGET]
        return new + old

    def _is_new(self, file: OpenFile) -> bool:
        """Whether a file was never looked at, or its owner changed since."""
        return file.number not in self._seen or (self._calls is not None and self._calls.owner_changed(file.number))

    async def _look(
        self, user: int, files: list[OpenFile], *, were_at: Mapping[int, int] = MappingProxyType({})
    ) -> bool:
        """Look whether `files` have owners, and take note of it; True if there is a new subscriber.

        `were_at` has the processes in which files were a moment ago: these are looked at whether or not they were just
        now, since it is new that a file is not where it was.
        """
        before = self._device.subscribers
        look = next(self._looks)
        await self._look_at_places(user, [file for file in files if file.number in self._places], look)
        lost = self._unplaced(files)
        for pid in {were_at[file.number]: None for file in lost if file.number in were_at}:
            self._searched.pop(pid, None)
            await self._search_process(user, pid)
        lost = self._unplaced(lost)
        for tid in {tid: None for file in lost for tid in (file.user_tid, file.opener_tid) if tid}:
            wanted = any(tid in (file.user_tid, file.opener_tid) for file in self._unplaced(lost))
            if wanted and await self._search_process(user, tid) is Status.REFUSED:
                self._note_refusal(tid)
        # A search that had begun before this look may have missed an owner.
        early = [file for file in lost if file.number in self._places and self._looked.get(file.number, 0) < look]
        await self._look_at_places(user, early, look)
        for file in self._unplaced(files):
            log.debug("open file %d of user %d: not found where it was opened and used", file.number, file.user)
        self._seen.update(file.number for file in files)
        self._forget_closed()
        return self._device.subscribers > before

    async def _look_at_places(self, user: int, known: list[OpenFile], look: int) -> None:
        """Look at files where they are known to be."""
        jobs = [
            Job(Kind.SEARCH, pid=place.pid, descriptor=place.descriptor, count=1) for place in self._places_of(known)
        ]
        for file, reports in zip(known, await self._run_jobs(user, jobs), strict=True):
            found = any(report.said is Said.FOUND and report.number == file.number for report in reports)
            if not found and self._is_news(file, look):
                self._places.pop(file.number, None)
                self._device.subscribe(file, subscribed=False)
            self._note_places(reports, look, moves=True)

    async def _search_process(self, user: int, tid: int) -> Status:
        """Look at all descriptors of a thread's process, unless that was done a moment ago; how it ended."""
        searching = self._searching.get(tid)
        if searching is not None:
            await searching.wait()
            return Status.OK
        if trio.current_time() < self._searched.get(tid, 0.0):
            return Status.OK
        done = self._searching[tid] = trio.Event()
        started_s = trio.current_time()
        look = next(self._looks)
        try:
            descriptor = 0
            while True:
                job = Job(Kind.SEARCH, pid=tid, descriptor=descriptor, count=SEARCH_DESCRIPTORS)
                ((*found, end),) = await self._run_jobs(user, [job])
                self._note_places(found, look, moves=False)
                descriptor = end.descriptor
                if end.status is not Status.OK or not descriptor:
                    return end.status
        finally:
            now_s = trio.current_time()
            self._searched = {known: until for known, until in self._searched.items() if until > now_s}
            self._searched[tid] = now_s + SEARCH_REST * (now_s - started_s)
            del self._searching[tid]
            done.set()

    async def _search_everywhere(self) -> None:
        """Search all processes when a file was not found where it should be; this takes a part of the time only."""
        while True:
            await self._lost.wait()
            self._lost = trio.Event()
            started_s = trio.current_time()
            try:
                async for processes in self._processes():
                    await self._search_processes(processes)
            except Exception:
                log.exception("unexpected error while looking for SIGIO subscribers")
            # Some of those that were found may be in time for the last notification.
            self._due = self._pick()
            for user in self._due:
                self._serve_soon(user)
            await trio.sleep(SEARCH_REST * (trio.current_time() - started_s))

    async def _search_processes(self, processes: list[Report]) -> None:
        """Look at the descriptors of some processes, in the turns of the users whose they are.

        Slow users are not waited for, but for the next search.
        """
        assert self._nursery is not None
        by_user: dict[int, list[int]] = defaultdict(list)
        for process in processes:
            by_user[self._device.users.of(process.uid)].append(process.pid)
        for user, pids in by_user.items():
            if user not in self._searched_users:
                self._searched_users.add(user)
                self._nursery.start_soon(self._search_all_of, user, pids)
        while any(user in self._searched_users and not self._pool.is_slow(user) for user in by_user):
            await self._search_changed.wait()

    async def _search_all_of(self, user: int, pids: list[int]) -> None:
        try:
            for batch in _batches(pids, FEW_JOBS):
                await self._search_processes_of(user, batch)
        except Exception:
            log.exception("unexpected error while looking for SIGIO subscribers")
        finally:
            self._searched_users.discard(user)
            self._change_search()

    def _change_search(self) -> None:
        """Who waits for the users whose processes are searched has to look again."""
        changed, self._search_changed = self._search_changed, trio.Event()
        changed.set()

    async def _search_processes_of(self, user: int, pids: list[int]) -> None:
        next_descriptor = dict.fromkeys(pids, 0)
        while next_descriptor:
            jobs = [
                Job(Kind.SEARCH, pid=pid, descriptor=descriptor, count=SEARCH_DESCRIPTORS)
                for pid, descriptor in next_descriptor.items()
            ]
            look = next(self._looks)
            results = await self._run_jobs(user, jobs)
            for pid, (*found, end) in zip(list(next_descriptor), results, strict=True):
                self._note_places(found, look, moves=False)
                next_descriptor[pid] = end.descriptor
                if end.status is not Status.OK or not end.descriptor:
                    del next_descriptor[pid]

    async def _processes(self) -> AsyncIterator[list[Report]]:
        """All processes, some at a time."""
        last = 0
        while True:
            ((*listed, end),) = await self._pool.run_jobs(0, [Job(Kind.PROCESSES, pid=last, count=LISTED_PROCESSES)])
            yield listed
            last = end.pid
            if end.status is not Status.OK or not last:
                return

    def _note_places(self, reports: Iterable[Report], look: int, *, moves: bool) -> None:
        """Take note of where files were found, and whether they have owners. `moves`: in place of where they were.

        Of two looks at a file the one that began later holds, also if its answer comes first.
        """
        for report in reports:
            file = self._device.file(report.number) if report.said is Said.FOUND else None
            if file is None or not self._is_news(file, look):
                continue
            if moves or file.number not in self._places:
                self._places[file.number] = Place(report.pid, report.descriptor)
            armed = report.owned and self._may_be_set(file.number)
            if armed != self._device.is_subscribed(file):
                log.debug(
                    "open file %d of user %d: %s", file.number, file.user, "has an owner" if armed else "has none"
                )
            self._device.subscribe(file, subscribed=armed)
        if self._device.subscribers:
            self._pool.want(HELPERS_WITH_OWNERS)

    def _is_news(self, file: OpenFile, look: int) -> bool:
        """Whether no later look than `look`, which is taken note of, has told of `file`."""
        if look < self._looked.get(file.number, 0):
            return False
        self._looked[file.number] = look
        return True

    def _note_refusal(self, tid: int) -> None:
        if not self._refused_once:
            self._refused_once = True
            log.warning(
                "no SIGIO for process %d and others like it: this server may not look at their descriptors "
                "(CAP_SYS_PTRACE; see memnotify doctor). poll and read are not affected",
                tid,
            )

    # After opens, and after F_SETFL.

    async def _survey_after_opens(self) -> None:
        # Only of those that are new: with thousands of open files, one more must not have all of them looked at. But a
        # program may open many before it sets an owner for the first of them. Nor of those that were opened since: as
        # long as open() has not returned, no process has a descriptor, and a search in vain holds up the next one.
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
                # In a function of its own, so that no closed file is kept by a variable of this one.
                self._survey_opened(done, newest)

    def _survey_opened(self, after: int, newest: int) -> None:
        """Look at the files that were opened after number `after`, up to `newest`."""
        new: dict[int, list[OpenFile]] = defaultdict(list)
        for file in self._device.files:
            if after < file.number <= newest and not self._device.is_subscribed(file):
                new[file.user].append(file)
        again = max(LEAST_AGAIN, MOST_AGAIN // max(1, len(new)))
        for user, files in new.items():
            self._survey_soon(user, self._never_seen_or_newest(files, again))

    def _survey_soon(self, user: int, files: list[OpenFile]) -> None:
        self._to_survey.setdefault(user, {}).update((file.number, file) for file in files)
        self._surveys.put(user)

    def _never_seen_or_newest(self, files: list[OpenFile], most: int) -> list[OpenFile]:
        """Those of a user's files that were never looked at, and of the others the newest."""
        seen = [file for file in files if file.number in self._seen]
        return [file for file in files if file.number not in self._seen] + seen[-most:]

    async def _survey(self, user: int) -> None:
        """Look at files of a user, after it is known whose its ids are."""
        files = [file for file in self._to_survey.pop(user, {}).values() if self._is_open(file)]
        for file in {file.uid: file for file in files if not self._device.users.knows(file.uid)}.values():
            await self._learn_owner(user, file)
        if self._flags is not None:
            files = [file for file in files if self._flags.may_be_set(file.number)]
        if self._calls is not None:
            self._read_calls(self._calls)
        files = [file for file in files if self._is_owner_open(file)]
        for batch in _batches(files):
            await self._look(user, batch)

    async def _learn_owner(self, user: int, file: OpenFile) -> None:
        """Whether the user is one of another's user namespace."""
        ((end,),) = await self._pool.run_jobs(user, [Job(Kind.OWNER, pid=file.opener_tid)])
        if end.status is Status.OK:
            self._device.users.count_to(file.uid, end.uid)
        elif end.status is Status.NO_OWNER:
            self._device.users.count_to(file.uid, file.uid)

    async def _follow_flags(self, flags: AsyncFlags) -> None:
        while True:
            await trio.lowlevel.wait_readable(flags.fileno())
            try:
                flags.read()
                await self._identify_all(flags)
                armed: dict[int, list[OpenFile]] = defaultdict(list)
                for file in self._device.files:
                    if flags.may_be_set(file.number) and not self._device.is_subscribed(file):
                        armed[file.user].append(file)
                for user, files in armed.items():
                    self._survey_soon(user, files)
            except Exception:
                log.exception("unexpected error while following O_ASYNC")
            # A program may call fcntl as fast as it can.
            await trio.sleep(FLAGS_PAUSE_S)

    async def _identify_all(self, flags: AsyncFlags, user: int | None = None) -> None:
        """Have it found out which files were meant, and wait for that a while: for `user`'s threads, or for all."""
        assert self._nursery is not None
        self._nursery.start_soon(self._identify_on, flags)
        with trio.move_on_after(IDENTIFY_S):
            await flags.identified(user)

    async def _identify_on(self, flags: AsyncFlags) -> None:
        try:
            await flags.identify(self._identify)
        except Exception:
            log.exception("unexpected error while following O_ASYNC")

    async def _identify(self, user: int, tid: int, descriptor: int) -> tuple[int | None, int]:
        """The number of the open file behind a descriptor, None if it is not of ours; and the user of the thread."""
        job = Job(Kind.SEARCH, pid=tid, descriptor=descriptor, count=1)
        look = next(self._looks)
        ((*found, end),) = await self._pool.run_jobs(user, [job])
        self._note_places(found, look, moves=True)
        return (found[0].number if found else None), end.uid

    # Mode `auto`: what the calls of fcntl say.

    async def _follow_calls(self, calls: FileCalls) -> None:
        """Read the calls often enough that none is overwritten, as long as there are open files."""
        pause_s = 0.0
        while calls.works:
            if not self._device.open_files:
                await self._opened.wait()
            else:
                await trio.lowlevel.wait_readable(calls.fileno())
            before, losses, before_s = calls.calls, calls.losses, trio.current_time()
            try:
                self._read_calls(calls)
            except Exception:
                log.exception("unexpected error while following O_ASYNC")
            rate = (calls.calls - before) / max(pause_s, FLAGS_PAUSE_S)
            pause_s = min(CALLS_PAUSE_S, max(FLAGS_PAUSE_S, CALLS_AT_ONCE / max(rate, 1e-9)))
            if calls.losses > losses:
                pause_s = max(pause_s, LOST_PAUSE_S)
            await trio.sleep_until(before_s + pause_s)

    def _read_calls(self, calls: FileCalls) -> None:
        """Take in what was called, and what is known of owners by that."""
        calls.read()
        for number in calls.take_changed():
            file = self._device.file(number)
            owned = calls.is_owned(number)
            if file is not None and (owned is not None or calls.is_cleared(number)):
                self._device.subscribe(file, subscribed=bool(owned) and not calls.is_cleared(number))

    def _is_owner_open(self, file: OpenFile) -> bool:
        """Whether a look may tell something new of a file without a subscriber: always, unless calls tell all of it."""
        calls = self._calls
        return calls is None or not (calls.is_cleared(file.number) or calls.is_owned(file.number) is not None)

    def _wants_it_anyway(self, file: OpenFile) -> bool:
        """Whether O_ASYNC is still set for a program that was just seen to be one that dies of the signal.

        One that clears O_ASYNC, and then takes its handler away, must not be signalled any more.
        """
        if self._calls is None:
            return False
        self._read_calls(self._calls)
        return self._calls.is_set(file.number)

    async def _run_jobs(self, user: int, jobs: list[Job]) -> list[list[Report]]:
        """Have jobs done by the pool; in mode `auto` with the files marked that are found."""
        calls = self._calls
        if calls is None or not calls.works:
            return await self._pool.run_jobs(user, jobs)
        marked = [replace(job, mark=calls.new_mark()) if job.kind is not Kind.SEND else job for job in jobs]
        try:
            results = await self._pool.run_jobs(user, marked)
            if any(report.mark for reports in results for report in reports):
                calls.read()
            for reports in results:
                for report in reports:
                    if report.mark:
                        calls.found(report)
            return results
        finally:
            calls.end_marks(job.mark for job in marked)

    # What is remembered.

    def _is_open(self, file: OpenFile) -> bool:
        return self._device.is_open(file)

    def _places_of(self, files: Iterable[OpenFile]) -> Iterator[Place]:
        return (self._places[file.number] for file in files)

    def _unplaced(self, files: Collection[OpenFile]) -> list[OpenFile]:
        return [file for file in files if file.number not in self._places and self._is_open(file)]

    def _forget_closed(self) -> None:
        """Drop what is known of files that are closed, now and then."""
        if self._device.users.known > MAX_KNOWN_IDS + 2 * self._device.open_files:
            self._device.users.forget_all_but({file.uid for file in self._device.files})
        if len(self._seen) + len(self._places) <= 3 * self._device.open_files + 64:
            return
        numbers = {file.number for file in self._device.files}
        self._due = _still_open(self._due, numbers)
        self._of_user = _still_open(self._of_user, numbers)
        # Made anew: a table keeps the room that it once needed, however few entries are left.
        self._seen = self._seen & numbers
        self._looked = {number: look for number, look in self._looked.items() if number in numbers}
        self._places = {number: place for number, place in self._places.items() if number in numbers}
        now_s = trio.current_time()
        self._elsewhere_until_s = {
            number: until for number, until in self._elsewhere_until_s.items() if number in numbers and until > now_s
        }
        if self._flags is not None:
            self._flags.forget_all_but(numbers)
        if self._calls is not None:
            self._calls.forget_all_but(numbers)


def _still_open(by_user: Mapping[int, list[OpenFile]], numbers: Collection[int]) -> dict[int, list[OpenFile]]:
    """Of files by user those that have one of the numbers."""
    remaining = ((user, [file for file in files if file.number in numbers]) for user, files in by_user.items())
    return {user: files for user, files in remaining if files}


def _batches(files: list[T], size: int = MAX_JOBS) -> list[list[T]]:
    return [files[start : start + size] for start in range(0, len(files), size)]
