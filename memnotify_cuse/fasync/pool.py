"""The server's side of the SIGIO helpers: jobs are handed out by user in turn, and a helper that hangs is replaced.

A helper has 200 ms for each client. After a few of them the jobs of others go to a second helper, so that a client
which takes its time delays no other; after all of them the helper is killed, the user whose process it was at is
left out for a while (`leftout`), and what the helper had not begun is done by another. A helper that not even SIGKILL
ends is the keeper's to abandon. Users whose clients take less than that, but often, are known as slow (`slowness`), and
have one helper between them.

The keeper starts helpers: one at the beginning, a second one as soon as there is an owner to signal, so that none has
to be started at a notification.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio

from memnotify_cuse.accounts import FIRST_SUBORDINATE_UID, ROOT_UID
from memnotify_cuse.fasync.attention import OURSELVES, UNKNOWN_UID, Attention, Touched
from memnotify_cuse.fasync.jobs import (
    MAX_JOBS,
    MESSAGE_BYTES,
    Job,
    JobError,
    Kind,
    Report,
    Said,
    Status,
    decode_reports,
    encode_job,
)
from memnotify_cuse.fasync.leftout import LeftOut, key_of
from memnotify_cuse.fasync.slowness import Slowness
from memnotify_cuse.fasync.turns import UNKNOWN, Turns
from memnotify_cuse.fasync.turns import key_of as turn_key_of
from memnotify_cuse.keeper.channel import Channel

log = logging.getLogger(__name__)

CLIENT_S: Final = 0.2
"""How long a helper may take for one client."""
JOB_S: Final = 5.0
"""How long it may take for a job with many clients, such as a process group."""
PATIENCE_S: Final = 0.02
"""How long others wait for a helper that is at work before another one is used."""
MAX_HELPERS: Final = 4
MAX_BUSY: Final = 2
MAX_SLOW: Final = 1
"""How many helpers all users who are known as slow have together."""
FEW_JOBS: Final = 4
SIGNALS: Final = frozenset({Kind.SIGNAL, Kind.SEND})
HELD_UP: Final = "held up"
ASK_AGAIN_S: Final = 1.0
SPARE_S: Final = 10.0
"""How long helpers that were needed in a rush stay."""


NOBODY: Final = Touched(0, UNKNOWN_UID)


class Call:
    """Jobs that were posted, and the reports on each."""

    def __init__(self, count: int) -> None:
        self.done = trio.Event()
        self.reports: list[list[Report]] = [[] for _ in range(count)]
        self.left = count
        if not count:
            self.done.set()

    async def results(self) -> list[list[Report]]:
        """The reports on each job, END last, in the order of the jobs, once all are done."""
        await self.done.wait()
        return self.reports


@dataclass(slots=True, eq=False)
class _Waiting:
    """A job in the queue of its user; `index` is its place in its call."""

    user: int
    job: Job
    call: Call
    index: int


@dataclass(slots=True, eq=False)
class _Helper:
    """A helper process. `begun_ns` is when it began with the first of its jobs, `touched_ns` with this client.

    `done` is readable when it has done all of several jobs. It is `impatient` while others wait for it, `stuck` while
    it waits for a client itself, and has `waited` if it was during this job.
    """

    pid: int
    socket: socket.socket
    attention: Attention
    done: int
    jobs: deque[_Waiting] = field(default_factory=deque)
    left_out: set[int] = field(default_factory=set)
    begun_ns: int = 0
    touched_ns: int = 0
    checked_ns: int = 0
    touched: Touched = NOBODY
    impatient: bool = False
    stuck: bool = False
    waited: bool = False
    scope: trio.CancelScope | None = None


class HelperPool:
    """Has jobs done. `start` asks for a parent of helpers, which `connect` takes; `identifiers` are the helpers."""

    def __init__(self, start: Callable[[], object], identifiers: set[int]) -> None:
        self._start = start
        self._parent: Channel | None = None
        self._starting = False
        self._identifiers = identifiers
        self._helpers: list[_Helper] = []
        self._signals: Turns[_Waiting] = Turns()
        self._others: Turns[_Waiting] = Turns()
        self._wanted = 0
        self._ids = 0
        self._left_out = LeftOut()
        self._slowness = Slowness()
        self.on_slow: Callable[[], object] = lambda: None
        self._abandoned: dict[int, int] = {}
        self._asked: Call | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def helpers(self) -> int:
        return len(self._helpers)

    @property
    def left_out(self) -> set[int]:
        """Users whose processes are left out at present, and minus the ids of root's processes that are."""
        # And those in whose hands a helper is that not even SIGKILL has ended yet.
        return self._left_out.keys(time.monotonic_ns()) | set(self._abandoned.values())

    def is_slow(self, user: int) -> bool:
        """Whether a user's clients keep helpers waiting; `on_slow` is called when another user is found to be so."""
        return self._slowness.is_slow(turn_key_of(user), time.monotonic_ns())

    def none_to_be_had(self) -> None:
        """The keeper could not start a parent of helpers: it is asked again when there is something to do."""
        self._starting = False
        self._wanted = 0
        if self._nursery is not None:
            self._nursery.start_soon(self._ask_again)

    async def _ask_again(self) -> None:
        await trio.sleep(ASK_AGAIN_S)
        if self._wait:
            self.want(1)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for helper in self._helpers:
                nursery.start_soon(self._listen, helper)
            await trio.sleep_forever()

    def connect(self, parent: Channel) -> None:
        """Take in the parent of helpers that was asked for."""
        self._starting = False
        self._parent = parent
        if self._nursery is not None:
            self._nursery.start_soon(self._listen_to_parent, parent)
        for _ in range(self._wanted):
            parent.send("helper")

    def want(self, count: int) -> None:
        """Have at least so many helpers."""
        while self.helpers + self._wanted < min(count, MAX_HELPERS):
            self._wanted += 1
            if self._parent is not None:
                self._parent.send("helper")
        if self._wanted and self._parent is None and not self._starting:
            self._starting = True
            self._start()

    def dismiss_spare(self, count: int) -> None:
        """Let helpers that have been idle for a while end, down to `count`."""
        now_ns = time.monotonic_ns()
        for helper in list(self._helpers):
            idle = not helper.jobs and now_ns - helper.begun_ns > SPARE_S * 1e9
            if idle and self.helpers > count:
                self._forget(helper)

    def dismiss(self) -> bool:
        """Let all helpers end; False if they are at work."""
        if self._wait or any(helper.jobs for helper in self._helpers):
            return False
        if self._parent is None:
            return True
        for helper in list(self._helpers):
            self._forget(helper)
        self._disconnect(self._parent)
        self._wanted = 0
        return True

    def _disconnect(self, parent: Channel) -> None:
        trio.lowlevel.notify_closing(parent)
        parent.close()
        self._parent = None

    async def _listen_to_parent(self, parent: Channel) -> None:
        with contextlib.suppress(trio.ClosedResourceError, EOFError):
            while parent is self._parent:
                await trio.lowlevel.wait_readable(parent)
                while parent is self._parent and (message := parent.receive()) is not None:
                    word, pid, fds = message
                    if word == "helper":
                        self._add(int(pid), *fds)
                    elif word == "no-helper":
                        self._wanted = max(0, self._wanted - 1)
                        if self._nursery is not None and not self._helpers and not self._wanted:
                            self._nursery.start_soon(self._ask_again)
                    elif word == "gone":
                        self._abandoned.pop(int(pid), None)
                        if self._wait:
                            self.want(1)
            return
        if parent is self._parent:
            # It has died, and the helpers with it.
            self._disconnect(parent)
            self._abandoned.clear()
            if self._wanted or self._wait:
                self._wanted = 0
                self.want(1)

    def _add(self, pid: int, sock: int, page: int, done: int) -> None:
        helper = _Helper(pid, socket.socket(fileno=sock), Attention(page), done)
        os.close(page)
        helper.socket.setblocking(False)
        self._wanted = max(0, self._wanted - 1)
        self._helpers.append(helper)
        self._identifiers.add(pid)
        if self._nursery is not None:
            self._nursery.start_soon(self._listen, helper)
        self._hand_out()

    async def run_jobs(self, user: int, jobs: Iterable[Job]) -> list[list[Report]]:
        """The reports on each of `jobs`, END last, in their order. They are done in the turns of `user`."""
        return await self.post(user, jobs).results()

    def post(self, user: int, jobs: Iterable[Job]) -> Call:
        """Have `jobs` done, in the turns of `user`: at once by a helper that is idle."""
        listed = list(jobs)
        call = Call(len(listed))
        if not listed:
            return call
        waiting = []
        for index, job in enumerate(listed):
            self._ids = (self._ids + 1) & 0xFFFFFFFF
            waiting.append(_Waiting(user, replace(job, id=self._ids), call, index))
        self._line_of(listed[0]).put(waiting)
        self.want(1)
        self._hand_out()
        return call

    async def sees_answers(self, limit_s: float) -> bool | None:
        """Whether our own mount answers a helper in time; None if there is no idle one to ask, or it may not.

        An answer that did not come in time is waited for the next time.
        """
        if self._asked is None:
            if all(helper.jobs for helper in self._helpers):
                return None
            self._asked = self.post(ROOT_UID, [Job(Kind.ASK)])
        with trio.move_on_after(limit_s):
            ((end,),) = await self._asked.results()
            self._asked = None
            if end.status is Status.HELD_UP:
                return False
            return True if end.status is Status.OK else None
        return False

    def _hand_out(self) -> None:
        """Give each idle helper the next user's jobs; who waits too long for a busy one gets another."""
        for helper in self._helpers:
            if not self._wait:
                return
            if not helper.jobs:
                self._give(helper)
        if self._wait and all(helper.impatient for helper in self._helpers):
            # Two that have a lot to do are enough; of those that wait for a client there may be more.
            busy = sum(not helper.stuck for helper in self._helpers)
            if busy < MAX_BUSY and self._next(None) is not None:
                self.want(self.helpers + 1)

    def _give(self, helper: _Helper) -> None:
        next_ = self._next(helper)
        if next_ is None:
            return
        line, key = next_
        # Where others wait, a user whose clients are slow is not to have a helper for long.
        helper.jobs.extend(line.take(key, lambda: FEW_JOBS if self._wait else MAX_JOBS))
        now_ns = time.monotonic_ns()
        changes = self._changes(helper)
        try:
            if changes:
                helper.socket.send(changes)
            helper.socket.send(b"".join(encode_job(waiting.job) for waiting in helper.jobs))
        except OSError as error:
            log.debug("helper %d: %s", helper.pid, error)
        self._begin(helper, now_ns)

    @property
    def _wait(self) -> bool:
        """Whether there are jobs that no helper has been given."""
        return bool(self._signals or self._others)

    def _line_of(self, job: Job) -> Turns[_Waiting]:
        return self._signals if job.kind in SIGNALS else self._others

    def _next(self, helper: _Helper | None) -> tuple[Turns[_Waiting], int] | None:
        """Whose turn it is with `helper`, or with another one (None), and in which line: first of those with signals to
        be sent.

        No user has more than half of the helpers, nor all who are slow more than `MAX_SLOW`.
        """
        busy = [other for other in self._helpers if other is not helper and other.jobs]
        has = Counter(turn_key_of(other.jobs[0].user) for other in busy)
        now_ns = time.monotonic_ns()
        slow = sum(self._slowness.is_slow(key, now_ns) * count for key, count in has.items())

        def may(key: int) -> bool:
            return has[key] < MAX_HELPERS // 2 and (slow < MAX_SLOW or not self._slowness.is_slow(key, now_ns))

        searching = sum(other.jobs[0].job.kind not in SIGNALS for other in busy)
        lines = [self._signals]
        # Where there are several helpers, one is kept for signals.
        if self.helpers < 3 or searching + 1 < self.helpers:
            lines.append(self._others)
        for line in lines:
            key = line.next_key(may)
            if key is not None:
                return line, key
        return None

    def _changes(self, helper: _Helper) -> bytes:
        """What the helper has not been told yet of who is left out."""
        keys = self.left_out
        if keys == helper.left_out:
            return b""
        changed = [(key, 1) for key in keys - helper.left_out] + [(key, 0) for key in helper.left_out - keys]
        # What does not fit is told with the next jobs.
        changed = changed[:MAX_JOBS]
        helper.left_out = helper.left_out ^ {key for key, _ in changed}
        return b"".join(
            encode_job(Job(Kind.LEAVE_OUT, opener_uid=max(key, 0), pid=max(-key, 0), count=count))
            for key, count in changed
        )

    def _begin(self, helper: _Helper, now_ns: int) -> None:
        """The helper begins with the first of its jobs now, if it has any."""
        helper.begun_ns = helper.touched_ns = helper.checked_ns = now_ns
        helper.impatient = helper.stuck = helper.waited = False
        helper.touched = helper.attention.read()
        if helper.scope is not None:
            helper.scope.deadline = trio.current_time() + PATIENCE_S if helper.jobs else math.inf

    async def _listen(self, helper: _Helper) -> None:
        while helper in self._helpers:
            left_s = math.inf
            if helper.jobs:
                since_ns, allowed_s = (helper.touched_ns, CLIENT_S) if helper.stuck else (helper.checked_ns, PATIENCE_S)
                left_s = allowed_s - (time.monotonic_ns() - since_ns) / 1e9
            with trio.CancelScope(deadline=trio.current_time() + max(0.0, left_s)) as scope:
                helper.scope = scope
                try:
                    # Of several jobs the last report tells of all: each turn of the event loop takes as long as a job.
                    await trio.lowlevel.wait_readable(helper.done if len(helper.jobs) > 1 else helper.socket)
                except trio.ClosedResourceError:
                    return
            late = scope.cancelled_caught
            helper.scope = None
            if helper not in self._helpers:
                return
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(helper.done)
            try:
                if not self._receive(helper):
                    self._lose(helper, "ended")
                elif late and helper.jobs:
                    self._check(helper)
            except Exception:
                log.exception("unexpected error with SIGIO helper %d", helper.pid)

    def _receive(self, helper: _Helper) -> bool:
        """Take in all reports that have come; False if the helper is gone."""
        while True:
            try:
                message = helper.socket.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return True
            except OSError:
                return False
            try:
                reports = list(decode_reports(message))
            except JobError:
                return False
            if not reports:
                return False
            for report in reports:
                self._take(helper, report)

    def _take(self, helper: _Helper, report: Report) -> None:
        waiting = helper.jobs[0] if helper.jobs else None
        if waiting is None or waiting.job.id != report.id:
            return
        if report.status is Status.PUT_OFF:
            # And all after it in the same message.
            self._line_of(waiting.job).put_back(list(helper.jobs))
            helper.jobs.clear()
            self._begin(helper, time.monotonic_ns())
            self._hand_out()
            return
        self._note(waiting, report)
        if report.said is Said.END:
            self._count_wait(helper)
            helper.jobs.popleft()
            self._begin(helper, time.monotonic_ns())
            if not helper.jobs:
                self._hand_out()

    def _note(self, waiting: _Waiting, report: Report) -> None:
        call = waiting.call
        call.reports[waiting.index].append(report)
        if report.said is Said.END:
            call.left -= 1
            if not call.left:
                call.done.set()

    def _check(self, helper: _Helper) -> None:
        """The helper is slow: let others be served by another one, or end it."""
        now_ns = helper.checked_ns = time.monotonic_ns()
        touched = helper.attention.read()
        goes_on = touched != helper.touched
        waits = touched.pid != OURSELVES and not _is_runnable(helper.pid)
        hangs = waits and not goes_on and now_ns - helper.touched_ns >= CLIENT_S * 1e9
        if hangs or now_ns - helper.begun_ns >= JOB_S * 1e9:
            self._replace(helper)
        else:
            helper.impatient, helper.stuck = True, waits
            helper.waited |= waits and touched.pid > 0
            if goes_on or not waits:
                helper.touched, helper.touched_ns = touched, now_ns
            self._hand_out()

    def _replace(self, helper: _Helper) -> None:
        if self._parent is not None:
            self._parent.send("replace", str(helper.pid))
        helper.waited = True
        self._lose(helper, HELD_UP)

    def _count_wait(self, helper: _Helper) -> None:
        """The first job of a helper is over: what it has waited is counted to whose job it was."""
        if not helper.waited or not helper.jobs:
            return
        now_ns = time.monotonic_ns()
        key = turn_key_of(helper.jobs[0].user)
        if key == UNKNOWN:
            if helper.touched.uid == UNKNOWN_UID:
                return
            key = turn_key_of(helper.touched.uid)
        if self._slowness.note(key, (now_ns - helper.begun_ns) / 1e9, now_ns):
            log.info("processes of user %d keep SIGIO helpers waiting: they have their turns with one of them", key)
            self.on_slow()

    def _lose(self, helper: _Helper, why: str) -> None:
        """Do without a helper from now on; its first job, if it had one, has failed, the others are done by another."""
        touched = helper.attention.read()
        self._forget(helper)
        if helper.jobs:
            self._count_wait(helper)
            first = helper.jobs.popleft()
            if touched.pid > 0:
                key = key_of(first.user if touched.uid == UNKNOWN_UID else touched.uid, touched.pid)
                self._blame(key, touched.pid)
                if why == HELD_UP and self._parent is not None:
                    self._abandoned[helper.pid] = key
            self._note(first, Report(Said.END, first.job.id, Status.HELD_UP))
            if helper.jobs:
                self._line_of(helper.jobs[0].job).put_back(list(helper.jobs))
        log.info("SIGIO helper %d %s; another takes its place", helper.pid, why)
        self.want(1)
        self._hand_out()

    def _forget(self, helper: _Helper) -> None:
        self._helpers.remove(helper)
        self._identifiers.discard(helper.pid)
        for waited_for in (helper.socket, helper.done):
            trio.lowlevel.notify_closing(waited_for)
        helper.socket.close()
        os.close(helper.done)
        helper.attention.close()

    def _blame(self, key: int, pid: int) -> None:
        seconds = self._left_out.blame(key, time.monotonic_ns())
        whose = f"process {-key} of root" if key < 0 else f"the processes of user {key}"
        if key == FIRST_SUBORDINATE_UID:
            whose += " and above"
        log.warning(
            "process %d did not let SIGIO be delivered within %d ms: %s are left out for %g s",
            pid,
            int(CLIENT_S * 1000),
            whose,
            seconds,
        )


def _is_runnable(helper_pid: int) -> bool:
    """Whether a helper waits for nothing but a CPU, which is no client's fault."""
    try:
        return "\nState:\tR" in Path(f"/proc/{helper_pid}/status").read_text(errors="replace")
    except OSError:
        return False
