"""From an open file's owner to signals sent. Runs in the worker thread only.

Every target is held by a pidfd from before it is checked until it was signalled, so a process id that is used again
is never hit.
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
from typing import Final

from memnotify_cuse.fasync.locate import Place
from memnotify_cuse.fasync.rules import effective_signal, may_signal, would_die
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.fileowner import FileOwner, OwnerKind, file_owner
from memnotify_cuse.kernel.pidfd import send_sigio, send_sigio_to_thread
from memnotify_cuse.kernel.process import read_thread_status
from memnotify_cuse.kernel.sigwait import awaited_signals

log = logging.getLogger(__name__)

BAND: Final = select.POLLIN | select.POLLRDNORM


@dataclass(slots=True, eq=False)
class Delivery:
    """One signal that is ready to be sent: to the process of `pidfd`, or to its thread `tid` (0: none)."""

    pidfd: int
    pid: int
    tid: int
    signal: int
    descriptor: int
    spare: bool
    proc: Path

    def send(self) -> None:
        """Send it and let go of the process; one that has ended meanwhile is no error."""
        try:
            self._send(self.signal)
        except OSError as error:
            if error.errno == errno.EAGAIN and self.signal != signal.SIGIO:
                # The queue of real-time signals is full: the kernel falls back to SIGIO, too (send_sigio_to_task()).
                self._try_sigio()
            elif error.errno != errno.ESRCH:
                log.info("process %d could not be signalled: %s", self.pid, error.strerror)
        finally:
            self.drop()

    def drop(self) -> None:
        """Let go of the process without signalling it."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _try_sigio(self) -> None:
        if self.spare and _is_deadly(signal.SIGIO, self.pid, self.tid, self.proc):
            return
        try:
            self._send(signal.SIGIO)
        except OSError as error:
            log.info("process %d could not be signalled: %s", self.pid, error.strerror)

    def _send(self, number: int) -> None:
        if self.tid:
            send_sigio_to_thread(self.pid, self.tid, number, descriptor=self.descriptor, band=BAND)
        else:
            send_sigio(self.pidfd, number, descriptor=self.descriptor, band=BAND)


def prepare(fd: int, place: Place, opener_uid: int, *, spare: bool, proc: Path = Path("/proc")) -> list[Delivery]:
    """The signals that a notification of the file behind `fd` asks for, each to somebody who may be sent it.

    `place` is where the descriptor was found, `opener_uid` who opened the file. With `spare`, programs that the
    signal would end are left out.
    """
    owner = file_owner(fd)
    if owner is None:
        return []
    deliveries = []
    for pid, tid in _members(owner, proc):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            status = read_thread_status(tid or pid, proc)
        except KernelFileError:
            os.close(pidfd)
            continue
        number = effective_signal(owner)
        # Asked again, now that the process is held: an owner that ended in between is none any more.
        unchanged = file_owner(fd) == owner
        allowed = may_signal(owner, opener_uid, status)
        deadly = spare and _is_deadly(number, pid, tid, proc)
        if unchanged and allowed and not deadly:
            deliveries.append(Delivery(pidfd, pid, tid, number, place.descriptor, spare, proc))
        else:
            os.close(pidfd)
    return deliveries


def _is_deadly(number: int, pid: int, tid: int, proc: Path) -> bool:
    """Whether the signal would end process `pid`: in its thread `tid`, or (0) in any that could take it."""
    try:
        threads = [tid] if tid else [int(entry) for entry in os.listdir(proc / str(pid) / "task")]
    except OSError:
        return False
    return any(_is_deadly_in(number, thread, proc) for thread in threads)


def _is_deadly_in(number: int, tid: int, proc: Path) -> bool:
    try:
        status = read_thread_status(tid, proc)
    except KernelFileError:
        return False
    return would_die(number, status) and would_die(number, status, awaited_signals(tid, proc))


def _members(owner: FileOwner, proc: Path) -> Iterator[tuple[int, int]]:
    """Process and thread (0: the process as a whole) of each that the owner stands for."""
    if owner.kind in (OwnerKind.PROCESS, OwnerKind.THREAD):
        try:
            # The id of any thread will do for its process.
            tgid = read_thread_status(owner.id, proc).tgid
        except KernelFileError:
            return
        yield tgid, owner.id if owner.kind == OwnerKind.THREAD else 0
    else:
        for entry in os.listdir(proc):
            if entry.isdigit():
                try:
                    if os.getpgid(int(entry)) == owner.id:
                        yield int(entry), 0
                except OSError:
                    continue
