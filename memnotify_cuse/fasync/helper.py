"""The SIGIO helper: a process that touches other processes, for the server, which must not wait for any of them.

It holds nothing of the connection to the kernel, remembers nothing of one job in the next, and can be killed at any
moment. It is single-threaded and imports neither trio nor pyfuse3.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from memnotify_cuse.fasync.deliver import Delivery, NoOwnerError
from memnotify_cuse.fasync.jobs import (
    FANOUT_MEMBERS,
    FOUND_DESCRIPTORS,
    LISTED_PROCESSES,
    MARK_COUNT,
    MAX_JOBS,
    MESSAGE_BYTES,
    OWNER_SEARCH_S,
    SEARCH_DESCRIPTORS,
    TURN_S,
    Job,
    JobError,
    Kind,
    Report,
    Said,
    Status,
    decode_jobs,
    encode_report,
)
from memnotify_cuse.fasync.look import Here, LeftOutError, Looker, RefusedError
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.fileowner import FileOwner, OwnerKind, file_owner, mark_file
from memnotify_cuse.kernel.identity import Identities
from memnotify_cuse.kernel.process import read_thread_status

_NS_GET_PARENT: Final = 0xB702
_NS_GET_OWNER_UID: Final = 0xB704
"""include/uapi/linux/nsfs.h."""


class Helper:
    """Does jobs with `looker`. `mount` is the control file system's path."""

    def __init__(self, looker: Looker, mount: str | None = None) -> None:
        self._looker = looker
        self._mount = mount
        self._identities = Identities(looker.proc)
        self._until_s = math.inf
        self._done: dict[Kind, Callable[[Job], Iterator[Report]]] = {
            Kind.SEARCH: self._search,
            Kind.SIGNAL: self._signal,
            Kind.SEND: self._send,
            Kind.PROCESSES: self._processes,
            Kind.OWNER: self._owner,
            Kind.ASK: self._ask,
        }

    def begin_turn(self) -> None:
        """A user's turn begins: after `TURN_S` no other job is to be begun, and a search says where it goes on."""
        self._until_s = time.monotonic() + TURN_S

    @property
    def turn_is_over(self) -> bool:
        return time.monotonic() >= self._until_s

    def do(self, job: Job) -> Iterator[Report]:
        """The reports of a job, END last."""
        if job.kind is Kind.LEAVE_OUT:
            key = job.opener_uid or -job.pid
            (self._looker.left_out.add if job.count else self._looker.left_out.discard)(key)
            return
        try:
            yield from self._done[job.kind](job)
        except LeftOutError:
            yield Report(Said.END, job.id, Status.LEFT_OUT)
        except RefusedError:
            yield Report(Said.END, job.id, Status.REFUSED)
        except NoOwnerError:
            yield Report(Said.END, job.id, Status.NO_OWNER)
        except (KernelFileError, OSError):
            yield Report(Said.END, job.id, Status.GONE)
        finally:
            self._looker.leave()

    def _search(self, job: Job) -> Iterator[Report]:
        with self._looker.into(job.pid) as view:
            pid, uid, _ = view.process
            most = min(job.count, SEARCH_DESCRIPTORS)
            descriptors = [job.descriptor] if job.count == 1 else view.descriptors(job.descriptor, most + 1)
            if pid == os.getpid():
                descriptors = []
            more = descriptors[most] if len(descriptors) > most else 0
            found = 0
            for looked, descriptor in enumerate(descriptors[:most]):
                # What each of them takes is for the process to say: it may have thousands that take a while.
                if looked and self.turn_is_over:
                    more = descriptor
                    break
                if not view.may_be_ours(descriptor):
                    continue
                if found == FOUND_DESCRIPTORS:
                    more = descriptor
                    break
                found += 1
                with view.at(descriptor) as here:
                    if here is not None:
                        yield self._found(job, here, uid, job.mark and job.mark + found)
        yield Report(Said.END, job.id, pid=pid, uid=uid, descriptor=more)

    def _found(self, job: Job, here: Here, uid: int, mark: int) -> Report:
        if mark:
            # Before the owner is asked for: what is changed after this is seen.
            mark_file(here.fd, mark)
        owner = file_owner(here.fd)
        report = Report(
            Said.FOUND,
            job.id,
            owned=owner is not None,
            number=here.number,
            pid=here.pid,
            descriptor=here.descriptor,
            uid=uid,
            owner_pid=here.pid if _is_process(owner, here.pid) else self._owner_pid(owner),
            mark=mark,
        )
        if not mark or owner is None or owner.uid is None or owner.euid is None or not _is_process(owner, here.pid):
            return report
        return report._replace(
            identity=self._identity(owner, here.fd),
            signal=owner.signal,
            owner_uid=owner.uid,
            owner_euid=owner.euid,
        )

    def _identity(self, owner: FileOwner, fd: int) -> int:
        """The identity of the process that owns the file behind `fd`, 0 if it is not told."""
        try:
            pidfd = os.pidfd_open(owner.id)
        except OSError:
            return 0
        try:
            identity = self._identities.of(pidfd, owner.id)
            # The kernel names an owner only while it lives, so it has been that process since.
            return identity if file_owner(fd) == owner else 0
        except (KernelFileError, OSError):
            return 0
        finally:
            os.close(pidfd)

    def _send(self, job: Job) -> Iterator[Report]:
        try:
            pidfd = os.pidfd_open(job.pid)
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.EINVAL):
                raise NoOwnerError from None
            raise
        try:
            if self._identities.of(pidfd, job.pid) != job.identity:
                raise NoOwnerError
            owner = FileOwner(OwnerKind.PROCESS, job.pid, job.signal, job.owner_uid, job.owner_euid)
            delivery = Delivery(self._looker, None, job.descriptor, job.opener_uid, job.spare)
            signalled = delivery.send_to_known(owner, pidfd)
        except KernelFileError:
            raise NoOwnerError from None
        finally:
            os.close(pidfd)
        status = Status.OK if signalled else Status.SPARED if delivery.spared else Status.NOBODY
        yield Report(Said.END, job.id, status, owned=True, signalled=int(signalled))

    def _signal(self, job: Job) -> Iterator[Report]:
        with self._looker.into(job.pid) as view, view.at(job.descriptor) as here:
            if here is None or here.number != job.number:
                yield Report(Said.END, job.id, Status.GONE)
                return
            holder = view.process
            if job.mark:
                yield self._found(job, here, holder.uid, job.mark)
            owner = file_owner(here.fd)
            owner_pid = holder.pid if _is_process(owner, holder.pid) else self._owner_pid(owner)
            if owner_pid not in (0, holder.pid) and not job.elsewhere:
                # si_fd is to be the descriptor's number in the process that is signalled.
                better = self._in_owner(owner_pid, job)
                if better is not None:
                    yield better._replace(id=job.id)
                    here = here._replace(pid=better.pid, descriptor=better.descriptor)
            delivery = Delivery(self._looker, here.fd, here.descriptor, job.opener_uid, job.spare)
            if owner is not None and _is_process(owner, holder.pid):
                sent = delivery.send_to_holder(owner, view.pidfd, holder.status)
            else:
                sent = delivery.send(after_pid=job.after_pid, most=FANOUT_MEMBERS)
        yield Report(
            Said.END,
            job.id,
            Status.OK if sent.signalled else Status.NOBODY,
            owned=True,
            pid=sent.last_member,
            uid=holder.uid,
            signalled=sent.signalled,
            owner_pid=owner_pid,
        )

    def _in_owner(self, pid: int, job: Job) -> Report | None:
        """Where the owner itself has the file, None if it has it not, we may not look, or it takes too long.

        A process that was forked with the file has it under the same number, so that is looked at first.
        """
        turn_until_s, self._until_s = self._until_s, time.monotonic() + OWNER_SEARCH_S
        try:
            for index, (descriptor, count) in enumerate(((job.descriptor, 1), (0, SEARCH_DESCRIPTORS))):
                mark = job.mark and job.mark + index * (MARK_COUNT // 2)
                search = Job(Kind.SEARCH, pid=pid, descriptor=descriptor, count=count, mark=mark)
                found = next((each for each in self._search(search) if each.number == job.number), None)
                if found is not None:
                    return found
        except (LeftOutError, RefusedError, KernelFileError, OSError):
            return None
        finally:
            self._until_s = turn_until_s
        return None

    def _owner_pid(self, owner: FileOwner | None) -> int:
        if owner is None or owner.kind is OwnerKind.GROUP:
            return 0
        try:
            return read_thread_status(owner.id, self._looker.proc).tgid
        except KernelFileError:
            return 0

    def _processes(self, job: Job) -> Iterator[Report]:
        pids = sorted(int(entry) for entry in os.listdir(self._looker.proc) if entry.isdigit())
        listed = [pid for pid in pids if pid > job.pid][: min(job.count, LISTED_PROCESSES)]
        for pid in listed:
            try:
                status = self._looker.status(pid)
            except (KernelFileError, LeftOutError):
                continue
            yield Report(Said.PROCESS, job.id, pid=pid, uid=status.real_uid)
        yield Report(Said.END, job.id, pid=listed[-1] if listed and listed[-1] != pids[-1] else 0)

    def _ask(self, job: Job) -> Iterator[Report]:
        if self._mount is None:
            raise RefusedError
        with self._looker.on_ourselves():
            # What is asked of every file system anew, and of pyfuse3 of ours.
            try:
                os.statvfs(self._mount)
            except PermissionError:
                # It is in a folder that the server's user cannot enter.
                raise RefusedError from None
        yield Report(Said.END, job.id)

    def _owner(self, job: Job) -> Iterator[Report]:
        """Who made the user namespace of a thread."""
        self._looker.status(job.pid)
        namespace = os.open(self._looker.proc / str(job.pid) / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            own = os.stat("/proc/self/ns/user").st_ino
            if os.fstat(namespace).st_ino == own:
                yield Report(Said.END, job.id, Status.NO_OWNER)
                return
            namespace = _outermost(namespace, own)
            uid = int.from_bytes(fcntl.ioctl(namespace, _NS_GET_OWNER_UID, bytes(4)), sys.byteorder)
        finally:
            os.close(namespace)
        yield Report(Said.END, job.id, uid=uid)


def _is_process(owner: FileOwner | None, pid: int) -> bool:
    return owner is not None and owner.kind is OwnerKind.PROCESS and owner.id == pid


def _outermost(namespace: int, own: int) -> int:
    """The user namespace around `namespace` (which is closed) that was made in ours, of inode `own`."""
    while True:
        try:
            parent = fcntl.ioctl(namespace, _NS_GET_PARENT)
        except OSError:
            return namespace
        if os.fstat(parent).st_ino == own:
            os.close(parent)
            return namespace
        os.close(namespace)
        namespace = parent


def _received(ours: socket.socket) -> bytes:
    """The next message, nothing once the server has closed its end, whatever it has not read."""
    try:
        return ours.recv(MESSAGE_BYTES)
    except ConnectionResetError:
        return b""


def run(ours: socket.socket, looker: Looker, mount: str | None = None, done: int | None = None) -> int:
    """Do the jobs that come on `ours` until the server closes it.

    The eventfd `done` counts the messages with several jobs that are done: waking the server for each report would take
    it longer than the job takes here.
    """
    helper = Helper(looker, mount)
    while message := _received(ours):
        try:
            jobs = list(decode_jobs(message))
        except JobError:
            return 1
        if not all(_do(helper, jobs[:MAX_JOBS], ours)):
            return 0
        if done is not None and len(jobs) > 1:
            os.eventfd_write(done, 1)
    return 0


def _do(helper: Helper, jobs: list[Job], ours: socket.socket) -> Iterator[bool]:
    """Do the jobs of one message; for each message with reports whether it could be sent."""
    helper.begin_turn()
    reports: list[Report] = []
    for index, job in enumerate(jobs):
        if index and helper.turn_is_over and job.kind is not Kind.LEAVE_OUT:
            yield _send(ours, [*reports, Report(Said.END, job.id, Status.PUT_OFF)])
            return
        if job.kind is Kind.SEND:
            # It waits for no client, so the server need not know at once which one is under way.
            reports += helper.do(job)
            continue
        if reports:
            yield _send(ours, reports)
            reports = []
        for report in helper.do(job):
            yield _send(ours, [report])
    if reports:
        yield _send(ours, reports)


def _send(ours: socket.socket, reports: list[Report]) -> bool:
    try:
        ours.send(b"".join(map(encode_report, reports)))
    except OSError:
        return False
    return True
