"""From an open file's owner to signals sent. Runs in a helper only.

Every target is held by a pidfd from before it is looked at until it was signalled, so a process id that is used again
is never hit; a thread by one of its own (PIDFD_THREAD, Linux 6.9), or, on older kernels, compared by its start time.
Whether it may be signalled is asked through that pidfd as the last thing before the signal: a program that has become
another user's in the meantime, by exec of a set-uid program, is not signalled.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from memnotify_cuse.fasync.look import LeftOutError, Looker
from memnotify_cuse.fasync.rules import effective_signal, is_handled, may_signal, would_die
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.fileowner import FileOwner, OwnerKind, file_owner
from memnotify_cuse.kernel.pidfd import (
    Credentials,
    credentials,
    open_thread,
    send_sigio,
    send_sigio_to_thread,
)
from memnotify_cuse.kernel.process import ThreadStatus, read_start_time, read_thread_status
from memnotify_cuse.kernel.sigwait import waits_for_signals

log = logging.getLogger(__name__)

BAND: Final = select.POLLIN | select.POLLRDNORM
MAX_THREADS: Final = 256
"""A process with more threads, in which the signal is neither caught nor ignored, is taken to die of it."""


class Sent(NamedTuple):
    """How many were signalled, and the last member of a group that was looked at (0: all of them were)."""

    signalled: int
    last_member: int


class NoOwnerError(Exception):
    """The file has no owner, or another one by now."""


@dataclass(slots=True)
class Delivery:
    """Signals the owner of the file behind `fd`, whose descriptor in the process that holds it is `descriptor`.

    `fd` is None where the owner is known to be that of the file (`send_to_known`).
    """

    looker: Looker
    fd: int | None
    descriptor: int
    opener_uid: int
    spare: bool
    spared: bool = False
    """Whether a process was not signalled that would have died of it."""

    def send(self, *, after_pid: int, most: int) -> Sent:
        """Signal the owner; of a group at most `most` members, of those with ids above `after_pid`.

        Raises NoOwnerError.
        """
        owner = self._owner()
        if owner.kind is not OwnerKind.GROUP:
            return Sent(int(self._send_to(owner, owner.id)), 0)
        members = list(_members(self.looker.proc, owner.id, after_pid, most))
        signalled = 0
        try:
            for member in members:
                signalled += self._send_to(owner, member)
        except NoOwnerError:
            if not signalled:
                raise
            return Sent(signalled, 0)
        return Sent(signalled, members[-1] if len(members) == most else 0)

    def send_to_holder(self, owner: FileOwner, pidfd: int, status: ThreadStatus) -> Sent:
        """Signal the process that has the descriptor, which is the owner; `pidfd` held it before `status` was read.

        Raises NoOwnerError.
        """
        try:
            return Sent(int(self._checked_send(owner, pidfd, status, status.tgid, 0)), 0)
        except (KernelFileError, OSError) as error:
            _say(error, status.tgid)
            return Sent(0, 0)

    def send_to_known(self, owner: FileOwner, pidfd: int) -> bool:
        """Signal the process that is the owner, which `pidfd` holds. Nothing here waits for it."""
        try:
            if self.spare:
                status = read_thread_status(owner.id, self.looker.proc)
                return self._checked_send(owner, pidfd, status, owner.id, 0)
            return self._send(owner, pidfd, owner.id, 0, None)
        except (KernelFileError, OSError) as error:
            _say(error, owner.id)
            return False

    def _owner(self) -> FileOwner:
        owner = file_owner(self.fd) if self.fd is not None else None
        if owner is None:
            raise NoOwnerError
        return owner

    def _send_to(self, owner: FileOwner, task: int) -> bool:
        try:
            status = self.looker.status(task)
            if owner.kind is OwnerKind.THREAD:
                return self._send_to_thread(owner, task, status)
            pidfd = os.pidfd_open(status.tgid)
        except (KernelFileError, LeftOutError, OSError):
            return False
        try:
            held = read_thread_status(status.tgid, self.looker.proc)
            return self._checked_send(owner, pidfd, held, status.tgid, 0)
        except (KernelFileError, OSError) as error:
            _say(error, task)
            return False
        finally:
            os.close(pidfd)

    def _send_to_thread(self, owner: FileOwner, tid: int, status: ThreadStatus) -> bool:
        thread = open_thread(tid)
        if thread is not None:
            try:
                held = read_thread_status(tid, self.looker.proc)
                return self._checked_send(owner, thread, held, status.tgid, tid)
            finally:
                os.close(thread)
        # Held by its process, and within that told from a later thread of the same id by when it began.
        started = read_start_time(tid, self.looker.proc)
        pidfd = os.pidfd_open(status.tgid)
        try:
            held = read_thread_status(tid, self.looker.proc)
            return self._checked_send(owner, pidfd, held, status.tgid, tid, started)
        finally:
            os.close(pidfd)

    def _checked_send(
        self, owner: FileOwner, pidfd: int, status: ThreadStatus, pid: int, tid: int, started: int | None = None
    ) -> bool:
        """Signal the target, which `pidfd` held before `status` was read, if it may be."""
        number = effective_signal(owner)
        if not self._may(owner, Credentials(status.real_uid, status.effective_uid, status.saved_uid)):
            return False
        if self.spare and self._is_deadly(number, status, pid, tid):
            self.spared = True
            return False
        if self.fd is not None and file_owner(self.fd) != owner:
            raise NoOwnerError
        return self._send(owner, pidfd, pid, tid, started)

    def _send(self, owner: FileOwner, pidfd: int, pid: int, tid: int, started: int | None) -> bool:
        """Send the owner's signal, or SIGIO where no more of those can be queued."""
        number = effective_signal(owner)
        try:
            return self._send_now(owner, pidfd, pid, tid, number, started)
        except OSError as error:
            if error.errno != errno.EAGAIN or number == signal.SIGIO:
                raise
        # The queue of real-time signals is full: the kernel falls back to SIGIO, too (send_sigio_to_task()).
        if self.spare and self._is_deadly(signal.SIGIO, read_thread_status(tid or pid, self.looker.proc), pid, tid):
            return False
        return self._send_now(owner, pidfd, pid, tid, signal.SIGIO, started)

    def _send_now(self, owner: FileOwner, pidfd: int, pid: int, tid: int, number: int, started: int | None) -> bool:
        """Ask whether it may be signalled, and signal it. Nothing may come between the two."""
        if started is not None and read_start_time(tid, self.looker.proc) != started:
            return False
        users = credentials(pidfd)
        if users is None:
            status = read_thread_status(tid or pid, self.looker.proc)
            users = Credentials(status.real_uid, status.effective_uid, status.saved_uid)
        if not self._may(owner, users):
            return False
        if started is None:
            send_sigio(pidfd, number, descriptor=self.descriptor, band=BAND)
        else:
            send_sigio_to_thread(pid, tid, number, descriptor=self.descriptor, band=BAND)
        return True

    def _may(self, owner: FileOwner, users: Credentials) -> bool:
        return may_signal(owner, self.opener_uid, real_uid=users.real_uid, saved_uid=users.saved_uid)

    def _is_deadly(self, number: int, status: ThreadStatus, pid: int, tid: int) -> bool:
        """Whether the signal would end process `pid`: in its thread `tid`, or (0) in any that could take it."""
        if is_handled(number, status):
            return False
        if tid or status.threads == 1:
            return self._is_deadly_in(number, tid or pid, status)
        try:
            threads = os.listdir(self.looker.proc / str(pid) / "task")
        except OSError:
            return False
        return len(threads) > MAX_THREADS or any(self._is_deadly_in(number, int(thread)) for thread in threads)

    def _is_deadly_in(self, number: int, tid: int, status: ThreadStatus | None = None) -> bool:
        proc = self.looker.proc
        try:
            status = status or read_thread_status(tid, proc)
        except KernelFileError:
            return False
        if not would_die(number, status) or waits_for_signals(tid, proc):
            return False
        try:
            # While it waited in sigwaitinfo the signal was not blocked; it may have returned between the two looks.
            return would_die(number, read_thread_status(tid, proc))
        except KernelFileError:
            return False


def _say(error: Exception, task: int) -> None:
    if not isinstance(error, KernelFileError | ProcessLookupError):
        log.debug("process %d could not be signalled: %s", task, error)


def _members(proc: Path, group: int, after_pid: int, most: int) -> Iterator[int]:
    """The processes of a group, in the order of their ids."""
    found = 0
    for pid in sorted(int(entry) for entry in os.listdir(proc) if entry.isdigit()):
        if pid <= after_pid:
            continue
        try:
            if os.getpgid(pid) != group:
                continue
        except OSError:
            continue
        yield pid
        found += 1
        if found == most:
            return
