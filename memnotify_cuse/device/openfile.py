"""One open file of the device: what it was told, when, and what is left to read.

What a program is told of a notification is a state of the open file (`Notice`), and `TRANSITIONS` is all that can
happen to it:

    idle ──told──▶ pending ──POLLIN answered──▶ answered ──answered again, read, or guard time over──▶ idle
                      │                             (guard time runs from the first answer)
                      └──pressure ended──▶ idle, record withdrawn

It is answered twice, since the first time need not be the one that the program gets: EPOLL_CTL_ADD asks, and epoll_wait
asks once more; an epoll descriptor that is itself polled asks when it is polled, and once more in its own epoll_wait.

The byte queue outlives the state: a record that POLLIN announced stays readable until it is read, or replaced
by the next one. A record that was read in part stays until its rest is read; the next one queues behind it.

There may be 32,000 of them, so each is small: what files have in common (user, record, callable) they share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

from memnotify_cuse.device.topics import About, Special, Topic
from memnotify_cuse.domain import Scope


class Notice(Enum):
    """Whether there is a notification that the program may be told of by an answer to poll."""

    IDLE = "idle"
    PENDING = "pending"
    ANSWERED = "answered"


class Event(Enum):
    """What happens to it."""

    TOLD = "told"
    ANSWERED = "answered"
    """POLLIN, or the first bytes of a read."""
    READ = "read"
    """Nothing is left to be read."""
    EXPIRED = "expired"
    """Guard time is over, and the program has not asked again."""
    WITHDRAWN = "withdrawn"
    """The pressure has ended before the program was told of it."""


TRANSITIONS: Final[Mapping[tuple[Notice, Event], Notice]] = MappingProxyType(
    {
        (Notice.IDLE, Event.TOLD): Notice.PENDING,
        (Notice.IDLE, Event.READ): Notice.IDLE,
        (Notice.PENDING, Event.TOLD): Notice.PENDING,
        (Notice.PENDING, Event.ANSWERED): Notice.ANSWERED,
        (Notice.PENDING, Event.WITHDRAWN): Notice.IDLE,
        (Notice.ANSWERED, Event.TOLD): Notice.PENDING,
        (Notice.ANSWERED, Event.ANSWERED): Notice.IDLE,
        (Notice.ANSWERED, Event.READ): Notice.IDLE,
        (Notice.ANSWERED, Event.EXPIRED): Notice.IDLE,
    }
)
"""What is not here cannot happen. A pending notification is answered by the read that reads it."""


@dataclass(slots=True, eq=False)
class Holder:
    """A user with open files. `counted_to` is the holder that they all went to once the user's owner was learned."""

    user: int
    open_files: int = 0
    counted_to: Holder | None = None


@dataclass(slots=True, eq=False)
class OpenFile:
    """State of one open file description. Times are CLOCK_MONOTONIC nanoseconds.

    `uid` opened it, as the kernel said; `holder` is the user that it is counted to. `topic` is what it was opened for,
    `scope` the cgroups with a limit that its opener is in, and `about` both in one: what it is told of. `wake` is the
    transport's, called once the file was picked. `notice` is what there is to be told; `told_ns` is the last time that
    the file was told (None: never), from which guard time counts. `announced` says that POLLIN was answered and nothing
    was read since: something must stay to be read. `opener_tid` and `user_tid` are the threads that opened it and that
    used it last (0: not visible to us), `cgroup` is the inode of the first cgroup of `scope` (0: none),
    `opened_ns` when it was opened (CLOCK_BOOTTIME), None where that is now.

    The numbers of notifications say which rise in level it has yet to be told of: `told_rise` is the notification that
    the file was last told of, `signalled_rise` the one that its owner was last signalled of, `tried_rise` the one in
    which it was last picked to be signalled of a rise. `place` is its place among the SIGIO subscribers, `signal` the
    last signal that may still be taken back (0: none). `read_change` is the last change that a file of the `state`
    device has read.
    """

    number: int
    uid: int
    topic: Topic
    holder: Holder
    wake: Callable[[OpenFile], None]
    told_rise: int = 0
    signalled_rise: int = 0
    tried_rise: int = 0
    notice: Notice = Notice.IDLE
    told_ns: int | None = None
    opener_tid: int = 0
    user_tid: int = 0
    announced: bool = False
    place: int = 0
    signal: int = 0
    read_change: int = 0
    scope: Scope = ()
    cgroup: int = 0
    opened_ns: int | None = None
    about: About = field(init=False)
    _queue: bytes = b""
    _partial_bytes: int = 0

    def __post_init__(self) -> None:
        self.about = self.topic

    @property
    def user(self) -> int:
        """The user that the file is counted to now."""
        holder = self.holder
        while holder.counted_to is not None:
            holder = holder.counted_to
        self.holder = holder
        return holder.user

    @property
    def awaits_answer(self) -> bool:
        """Whether a notification is pending that the program has not been told of by an answer."""
        return self.notice is Notice.PENDING

    def happens(self, event: Event) -> None:
        """Take note of what happens to the notice; KeyError for what cannot."""
        self.notice = TRANSITIONS[self.notice, event]

    @property
    def queued_bytes(self) -> int:
        return len(self._queue)

    @property
    def half_read(self) -> bool:
        """Whether a text was read in part, so that the file stays readable until its rest is read."""
        return self._partial_bytes > 0 or (self.topic is Special.STATE and bool(self._queue))

    @property
    def has_whole_record(self) -> bool:
        """Whether there is a record of which nothing was read yet."""
        return len(self._queue) > self._partial_bytes

    @property
    def queue(self) -> bytes:
        """What is left to read, of which the first `partial_bytes` are the rest of a record that was read in part."""
        return self._queue

    @property
    def partial_bytes(self) -> int:
        return self._partial_bytes

    def restore(self, queue: bytes, partial_bytes: int) -> None:
        """What an earlier server had left to read."""
        self._queue, self._partial_bytes = queue, partial_bytes

    def put(self, record: bytes) -> None:
        """Queue `record` in place of an unread one, behind one that was read in part."""
        self._queue = self._queue[: self._partial_bytes] + record if self._partial_bytes else record

    def withdraw(self) -> None:
        """Take back a pending notification that was not answered yet.

        Its record stays where it took the place of one that had been announced.
        """
        self.happens(Event.WITHDRAWN)
        if not self.announced:
            self._queue = self._queue[: self._partial_bytes]

    def take(self, size: int) -> bytes:
        """Read up to `size` bytes off the queue, of which an answer has been noted."""
        taken, self._queue = self._queue[:size], self._queue[size:]
        if taken:
            self.announced = False
            self._partial_bytes = 0 if taken.endswith(b"\n") else self._queue.find(b"\n") + 1
        if not self._queue:
            self.happens(Event.READ)
        return taken


@dataclass(frozen=True, slots=True)
class Signalled:
    """What a file was like before it was noted down as signalled, so that it can be put back.

    `signal` is that signal's number; `turn` and `next_turn` are the user's turn before and after.
    """

    signal: int
    notice: Notice
    told_ns: int | None
    told_rise: int
    signalled_rise: int
    place: int
    turn: int
    next_turn: int
