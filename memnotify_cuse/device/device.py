"""The device: open files, which of them are told when, and what they read. No I/O and no clock.

A transport opens and closes files, asks `poll` and `read`, and says which are waited on (`watch`). The board tells the
device about notifications; the device picks the watchers to be told and hands them to the transport's `wake`.
All times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final

from memnotify_cuse.accounts import Account, Users
from memnotify_cuse.board import BoardListener, ChangesTold, ZoneState
from memnotify_cuse.device.changes import Changes
from memnotify_cuse.device.herd import Herd
from memnotify_cuse.device.openfile import Event, Holder, Notice, OpenFile, Signalled
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.device.pressure import Pressure
from memnotify_cuse.device.told import Told
from memnotify_cuse.device.topics import Scoped, ScopedTopics, Special, Topic
from memnotify_cuse.domain import Scope
from memnotify_cuse.kernel.zoneinfo import ZoneId

Wake = Callable[[OpenFile], None]

_ToldAs = tuple[int, Topic, str]
"""Which files are told of the same: those of one user about one thing, in one cgroup with a limit (its path)."""

TOLD_AND_CLOSED: Final = 4096
"""Of how many of these it is known what was told through a file that is closed by now."""


def _told_as(file: OpenFile) -> _ToldAs:
    return file.user, file.topic, file.scope[0].path if file.scope else ""


_COMPACT_FROM: Final = 1024
"""The tables of open files are made anew, for their memory, when they had so many and have a quarter of them left."""


class Device(BoardListener):
    """All open files of the device, for any number of transports.

    `page_kb` is the page size in KiB. `wake(file)` is called for a file that was picked, once its record is in
    its queue: the transport ends its blocked reads and poll waits.

    `users` says which user each file is counted to. `account` is what each of them holds; others who keep something for
    a user (the text files of the control file system) take from it as well.

    `fasync` sends SIGIO: `on_open` and `on_close` say when there may be something to do, `subscribe` takes note of a
    file that has an owner, and `pick_subscribers` says whose turn it is. After each tick of the board `take_told` says
    whether there are answers to be given, and signals to be sent. `scope_of` is asked for the cgroups of a file's
    opener, and `forget_scope` told when the file is closed. `on_changed` is told of a file when what it was told
    changes otherwise than by a call of its transport's. `next_number` gives the numbers of open files, each above the
    last.
    """

    def __init__(
        self,
        page_kb: int,
        policy: Policy | None = None,
        users: Users | None = None,
        next_number: Callable[[], int] | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self.users = users or Users()
        self.account = Account(self.policy.open_bounds)
        self.on_open: Callable[[], None] = lambda: None
        self.on_close: Callable[[], None] = lambda: None
        self.on_changed: Callable[[OpenFile], None] = lambda _file: None
        self.scope_of: Callable[[OpenFile], Scope] = lambda _file: ()
        self.forget_scope: Callable[[OpenFile], None] = lambda _file: None
        self._next_number = next_number or partial(next, itertools.count(1))
        self._signals = itertools.count(1)
        self._files: dict[int, OpenFile] = {}
        self._most_files = 0
        self._holders: dict[int, Holder] = {}
        self._wakes: dict[Wake, Wake] = {}
        self._unanswered: dict[int, OpenFile] = {}
        self._told_and_closed: dict[_ToldAs, int] = {}
        self._scoped = ScopedTopics()
        self._pressure = Pressure(page_kb, self._scoped)
        self._changes = Changes(page_kb)
        self._notifications = self._woken = self._signalled = 0
        self._has_told = self._has_told_of_machine = False
        self.told_of_cgroups_alone = False
        """Of what `take_told` has said last."""
        self._herd = Herd(self.policy, self._pressure, self._guard_ns)
        self.users.on_learned(self._count_to)

    @property
    def files(self) -> list[OpenFile]:
        return list(self._files.values())

    @property
    def newest(self) -> OpenFile | None:
        """The file that was opened last, of those that are open."""
        return next(reversed(self._files.values()), None)

    @property
    def subscribers(self) -> int:
        """Open files whose owner is to get SIGIO, as far as is known."""
        return len(self._herd.subscribers)

    @property
    def open_files(self) -> int:
        return len(self._files)

    @property
    def watchers(self) -> int:
        """Open files that are waited on in poll, select, epoll or a blocked read, as far as is known."""
        return len(self._herd.watchers)

    @property
    def told(self) -> Told:
        """What was told of pressure, in all."""
        return Told(self._notifications, self._woken, self._signalled)

    def file(self, number: int) -> OpenFile | None:
        """The open file of that number, None if there is none."""
        return self._files.get(number)

    def is_open(self, file: OpenFile) -> bool:
        return file.number in self._files

    def open_files_of(self, user: int) -> int:
        """How many open files are counted to `user`."""
        holder = self._holders.get(user)
        return holder.open_files if holder is not None else 0

    def open(self, uid: int, topic: Topic, wake: Wake) -> OpenFile:
        """A new open file of the device about `topic`, or `OverBoundError`.

        What its user was told of through a file that is closed by now, it is not told of once more.
        """
        user = self.users.of(uid)
        self.account.take(user)
        return self._add(self._next_number(), uid, topic, wake, self._told_and_closed.get((user, topic, ""), 0))

    def adopt(self, number: int, uid: int, topic: Topic, wake: Wake) -> OpenFile:
        """A file that was opened before this server: it is open, whatever its user's bound is."""
        self.account.add(self.users.of(uid))
        return self._add(number, uid, topic, wake, 0)

    def close(self, file: OpenFile) -> None:
        """Forget `file`; closing twice does nothing."""
        if self._files.pop(file.number, None) is None:
            return
        self._unanswered.pop(file.number, None)
        self._herd.remove(file)
        if isinstance(file.about, Scoped):
            self._scoped.remove(file.about)
        user = file.user
        if file.told_ns is not None and file.topic is not Special.STATE:
            self._note_told_and_closed(_told_as(file), file.told_rise)
        self.account.give_back(user)
        self._holders[user].open_files -= 1
        if not self._holders[user].open_files:
            del self._holders[user]
        self._give_memory_back()
        self.forget_scope(file)
        self.on_close()

    def _add(self, number: int, uid: int, topic: Topic, wake: Wake, told: int) -> OpenFile:
        user = self.users.of(uid)
        holder = self._holders.setdefault(user, Holder(user))
        holder.open_files += 1
        # A bound method is a new object each time it is named.
        wake = self._wakes.setdefault(wake, wake)
        if topic is Special.STATE:
            told = 0
        file = OpenFile(number, uid, topic, holder, wake, told_rise=told, signalled_rise=self._pressure.notification)
        self._files[file.number] = file
        self._most_files = max(self._most_files, len(self._files))
        self.on_open()
        return file

    def opened_by(self, file: OpenFile, tid: int, cgroup: int = 0, opened_ns: int | None = None) -> None:
        """Thread `tid` (0: not visible to us) has opened `file`, or was the first that was seen to use it.

        `cgroup` is the inode of the innermost cgroup with a limit that it was in then, and `opened_ns` when that was,
        as far as it was noted.
        """
        file.opener_tid = file.user_tid = tid
        file.cgroup, file.opened_ns = cgroup, opened_ns
        if not isinstance(file.topic, ZoneId) and file.topic is not Special.STATE:
            self.set_scope(file, self.scope_of(file))
            file.told_rise = max(file.told_rise, self._told_and_closed.get(_told_as(file), 0))

    def set_scope(self, file: OpenFile, scope: Scope) -> None:
        """These are the cgroups with a limit that the opener of `file` is in; a file about one zone has none."""
        topic = file.topic
        if scope == file.scope or isinstance(topic, ZoneId) or topic is Special.STATE or not self.is_open(file):
            return
        before, file.scope = file.about, scope
        file.about = Scoped(topic, scope) if scope else topic
        changed = isinstance(file.about, Scoped) and self._scoped.add(file.about)
        self._herd.about_changed(file, before)
        if isinstance(before, Scoped):
            self._scoped.remove(before)
        if changed:
            self._pressure.scopes_changed()
        if file.awaits_answer and not self._is_told_of(file):
            self._withdraw(file)
            self.on_changed(file)

    def restored(self, file: OpenFile) -> None:
        """What an adopted file was told has been set, as it was with the server before."""
        self._answer_changed(file)
        if file.topic is Special.STATE and file.told_ns is not None:
            # It was told of what it was like until now.
            file.told_rise = self._pressure.notification
            file.read_change = 0 if file.notice is not Notice.IDLE or file.announced else file.told_rise

    def is_watched(self, file: OpenFile) -> bool:
        return file in self._herd.watchers

    def watch(self, file: OpenFile) -> None:
        """A program waits on `file`: it takes its place at the end of its user's line, or keeps the one it has."""
        self._herd.watch(file)

    def unwatch(self, file: OpenFile) -> None:
        """No program waits on `file` any more, as far as is known: it gives up its place."""
        self._herd.unwatch(file)

    def poll(self, file: OpenFile, now_ns: int) -> bool:
        """Whether `file` is readable: the answer to poll, which starts the guard time when it is told.

        A notification is answered twice at most.
        """
        self._expire(file, now_ns)
        if (file.notice is Notice.IDLE or self._has_risen(file)) and self._may_be_told(file, now_ns):
            self._tell(file)
        match file.notice:
            case Notice.IDLE:
                return file.half_read
            case Notice.PENDING:
                self._answered(file, now_ns)
            case Notice.ANSWERED:
                file.happens(Event.ANSWERED)
        file.announced = True
        return True

    def read(self, file: OpenFile, size: int, now_ns: int) -> bytes | None:
        """Up to `size` bytes of `file`'s records, b"" for a zero-length read, None where there is nothing.

        A record says how its zone is now, as long as that is under pressure.
        """
        if size == 0:
            return b""
        self._expire(file, now_ns)
        if (not file.queued_bytes or self._has_risen(file)) and self._may_be_told(file, now_ns):
            self._tell(file)
        if file.topic is Special.STATE:
            self._queue_changes(file)
        elif file.has_whole_record and file.about in self._pressure.topics:
            file.put(self._pressure.record(file.about))
        if not file.queued_bytes:
            return None
        if file.awaits_answer:
            self._answered(file, now_ns)
        return file.take(size)

    def awaits(self, zones: tuple[ZoneState, ...]) -> bool:
        """Whether some file that waits about any of `zones` has been answered since it was told."""
        return self._herd.awaits(self._pressure.topics_of(zones))

    def notified(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        """Tell the watchers whose turn it is, all of them of a rise."""
        notification = self._pressure.update(zones, now_ns)
        self._notifications += 1
        picked = self._herd.pick_watchers(notification, now_ns)
        self._woken += len(picked)
        self._has_told_of_machine |= None in notification.topics
        self._wake(picked)

    def pressure_ended(self, zones: tuple[ZoneId, ...], now_ns: int) -> None:
        """Withdraw what no program was answered yet, unless another zone of the file is still under pressure."""
        self._pressure.end(zones)
        if not self._pressure.topics:
            self._told_and_closed.clear()
        self._withdraw_what_is_over()

    def resumed(self, zones: tuple[ZoneState, ...]) -> None:
        """`zones` are under pressure, and the server before has told of that: before its files are open here."""
        self._pressure.update(zones)

    def follow(self, states: Mapping[ZoneId, ZoneState]) -> None:
        """Take in the states of all zones: what is read from now on says this."""
        self._changes.follow(states)
        before = self._pressure.topics
        self._pressure.follow(states)
        if before - self._pressure.topics:
            self._withdraw_what_is_over()

    def changed(self, zones: tuple[ZoneId, ...]) -> ChangesTold:
        """The status or level of `zones` has changed: tell the watchers of `state`, some at a time, in turn.

        Call it again, for no zones, to tell those that are left.
        """
        if zones:
            self._pressure.state_changed()
            self._changes.changed(zones, self._pressure.notification)
        picked, more = self._herd.pick_changed()
        if picked or self._herd.signal_of_rise_is_due:
            self._has_told_of_machine = True
            self._wake(picked)
        return ChangesTold(len(picked), more=more)

    def take_told(self) -> bool:
        """Whether programs were told, or are to be signalled, since this was asked last."""
        told, self._has_told = self._has_told, False
        self.told_of_cgroups_alone, self._has_told_of_machine = not self._has_told_of_machine, False
        return told

    def subscribe(self, file: OpenFile, *, subscribed: bool) -> None:
        """Take note of whether `file` has an owner who wants SIGIO. A new one goes to the end of the line."""
        if subscribed and file.number in self._files:
            self._herd.subscribe(file)
        else:
            self._herd.unsubscribe(file)

    def is_subscribed(self, file: OpenFile) -> bool:
        return file in self._herd.subscribers

    def pick_subscribers(self, now_ns: int, signalled: Collection[int] = ()) -> list[OpenFile]:
        """The SIGIO subscribers whose turn it is, for the notification that was just told, users in turns.

        Those of a zone whose level has risen come first, all of them. Files whose numbers are `signalled` were told of
        the notification already, and have had their places.
        """
        told = [self._files[number] for number in signalled if number in self._files]
        return self._herd.pick_subscribers(now_ns, told)

    def signalled(self, file: OpenFile, now_ns: int) -> Signalled | None:
        """`file`'s owner is about to get its signal: the file is told, and readable, as for a poll that was woken.

        None if it was closed meanwhile, or its pressure has ended: then it is not to be signalled. If no signal is sent
        after all, `not_signalled` takes the answer.
        """
        if file.number not in self._files or not self._is_told_of(file):
            return None
        user, lines = file.user, self._herd.subscribers
        turn = lines.turn_of(user)
        before = (file.notice, file.told_ns, file.told_rise)
        place = (file.signalled_rise, file.place)
        # A program that was woken in poll and has taken the record by now is not given another.
        if file.awaits_answer or self._has_risen(file) or self._guard_passed(file, now_ns):
            self._tell(file)
            file.told_ns = self._told_ns(file, now_ns)
        self._signalled += 1
        self._herd.took_place(file)
        file.signal = next(self._signals)
        self.on_changed(file)
        return Signalled(file.signal, *before, *place, turn, lines.turn_of(user))

    def not_signalled(self, file: OpenFile, before: Signalled) -> None:
        """The signal that `signalled` announced was not sent: all is as before, unless the file was told meanwhile."""
        self._signalled -= 1
        if file.number not in self._files or file.signal != before.signal:
            return
        file.signal = 0
        if file.awaits_answer and before.notice is not Notice.PENDING:
            self._withdraw(file)
            file.notice = before.notice
        file.told_ns, file.told_rise, file.signalled_rise = before.told_ns, before.told_rise, before.signalled_rise
        self._herd.give_place_back(file, before.place, before.turn, since=before.next_turn)
        self.on_changed(file)

    def _count_to(self, user: int, owner: int) -> None:
        """All that is counted to `user` is `owner`'s from now on."""
        self.account.move(user, owner)
        for key in [key for key in self._told_and_closed if key[0] == user]:
            self._note_told_and_closed((owner, *key[1:]), self._told_and_closed.pop(key))
        holder = self._holders.pop(user, None)
        if holder is not None:
            into = self._holders.setdefault(owner, Holder(owner))
            into.open_files += holder.open_files
            holder.counted_to = into
        self._herd.move(user, owner)

    def _note_told_and_closed(self, told_as: _ToldAs, notification: int) -> None:
        known = self._told_and_closed.pop(told_as, 0)
        # The oldest ones are forgotten: a user may have any number of ids, and of cgroups. It is told once more.
        while len(self._told_and_closed) >= min(TOLD_AND_CLOSED, self.policy.max_open):
            del self._told_and_closed[next(iter(self._told_and_closed))]
        self._told_and_closed[told_as] = max(notification, known)

    def _give_memory_back(self) -> None:
        if not self._files:
            self._wakes.clear()
        if self._most_files >= _COMPACT_FROM and len(self._files) * 4 <= self._most_files:
            # A dict keeps the room that it once needed, however few entries are left.
            self._files, self._unanswered = dict(self._files), dict(self._unanswered)
            self._holders, self._most_files = dict(self._holders), len(self._files)
            self._herd.give_memory_back()

    def _expire(self, file: OpenFile, now_ns: int) -> None:
        """A notification is not answered once more, long after the first answer."""
        if file.notice is Notice.ANSWERED and self._guard_passed(file, now_ns):
            file.happens(Event.EXPIRED)

    def _guard_ns(self, user: int) -> int:
        return self.policy.guard_ns(self.open_files_of(user))

    def _guard_passed(self, file: OpenFile, now_ns: int) -> bool:
        """Whether it may be told again. While memory is about to end, each notification tells those that are back."""
        if file.told_ns is None or now_ns - file.told_ns >= self._guard_ns(file.user):
            return True
        return file.about in self._pressure.critical and self._pressure.last_of(file.about) > file.told_rise

    def _told_ns(self, file: OpenFile, now_ns: int) -> int:
        """When `file` was told that is told at `now_ns`: at the notification, so that none is missed by a hair."""
        notified_ns = self._pressure.last_ns_of(file.about)
        return now_ns if notified_ns is None or now_ns - notified_ns > self.policy.hair_ns else notified_ns

    def _has_risen(self, file: OpenFile) -> bool:
        return self._pressure.rise_of(file.about) > file.told_rise

    def _is_told_of(self, file: OpenFile) -> bool:
        """Whether there is anything to tell about what `file` is about."""
        return file.topic is Special.STATE or file.about in self._pressure.topics

    def _may_be_told(self, file: OpenFile, now_ns: int) -> bool:
        if not self._is_told_of(file):
            return False
        if self._has_risen(file):
            return True
        if file.topic is Special.STATE:
            return False
        if file.told_ns is None:
            return self._pressure.last_of(file.about) > file.told_rise
        return self._guard_passed(file, now_ns)

    def _tell(self, file: OpenFile) -> None:
        if file.topic is not Special.STATE:
            file.put(self._pressure.record(file.about))
        file.happens(Event.TOLD)
        file.signal = 0
        file.told_rise = self._pressure.notification
        self._answer_changed(file)

    def _answered(self, file: OpenFile, now_ns: int) -> None:
        file.happens(Event.ANSWERED)
        file.told_ns = self._told_ns(file, now_ns)
        file.signal = 0
        self._answer_changed(file)

    def _answer_changed(self, file: OpenFile) -> None:
        """Whether `file` awaits an answer may have changed."""
        if file.awaits_answer:
            self._unanswered[file.number] = file
        else:
            self._unanswered.pop(file.number, None)
        self._herd.answer_changed(file)

    def _wake(self, picked: list[OpenFile]) -> None:
        self._has_told = True
        for file in picked:
            self._herd.woken(file)
            self._tell(file)
            file.wake(file)

    def _queue_changes(self, file: OpenFile) -> None:
        """What has changed since `file` was read last, once that was read to its end."""
        if not file.queued_bytes:
            file.put(self._changes.since(file.read_change))
            file.read_change = self._pressure.rise_of(file.about)

    def _withdraw_what_is_over(self) -> None:
        for file in list(self._unanswered.values()):
            if not self._is_told_of(file):
                self._withdraw(file)
                self.on_changed(file)

    def _withdraw(self, file: OpenFile) -> None:
        file.withdraw()
        self._answer_changed(file)
