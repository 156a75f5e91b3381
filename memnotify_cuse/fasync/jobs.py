"""What the server asks of a SIGIO helper, and what it is told: a codec of fixed structures, no I/O.

The two share a sequenced-packet socket. A message from the server holds one or more jobs; the helper does them one
after the other, and sends one or more reports for each, of which the last one is END. After 20 ms it says PUT_OFF to
the next one, and begins with none of the others: their user has another turn. Neither trusts the other beyond the form
of these.

    SEARCH     process `pid` (any of its threads will do), up to `count` descriptors from `descriptor` on, for open
    files
               of ours: a FOUND for each. END: `descriptor` is where to go on, 0 when there are no more.
    SIGNAL     open file `number`, which was found at `pid`, `descriptor`: signal its owner. END: `count` were
    signalled;
               of a group that has more members, `pid` is the last one that was looked at, and `after_pid` of the next
               job.
    PROCESSES  the processes with ids above `pid`, up to `count`: a PROCESS for each. END: `pid` is the last one, 0 at
               the end.
    OWNER      whose user namespace thread `pid` is in. END: `uid`, if `status` is OK.
    SEND       the owner of open file `number` is process `pid`, of `identity`: signal it. END: `count` were signalled.
    LEAVE_OUT  no reports: from now on the processes of user `opener_uid` are not touched (`count` 1), or are again (0).
               Of root's processes it is `pid` alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

MAX_JOBS: Final = 16
"""In one message: the last of a thousand should not keep the first one waiting."""

SEARCH_DESCRIPTORS: Final = 1024
FOUND_DESCRIPTORS: Final = 64
FANOUT_MEMBERS: Final = 32
LISTED_PROCESSES: Final = 64
"""How much one job does, so that a user with a lot of it does not keep others waiting."""

TURN_S: Final = 0.02
"""How long a helper goes on with one message: the jobs in it, and a search, are gone on with in another turn."""
OWNER_SEARCH_S: Final = 0.05
"""How long an owner's own descriptor is looked for, within the job of signalling it."""


MARK_FIRST: Final = 0xFF80 << 48
MARK_COUNT: Final = 1 << 16
"""A mark is the argument of a call of F_SETOWN_EX that fails: an address that no program has, on any architecture."""


class Kind(IntEnum):
    """Kinds of job."""

    SEARCH = 1
    SIGNAL = 2
    PROCESSES = 3
    OWNER = 4
    LEAVE_OUT = 5
    SEND = 7
    """Signal an owner of which all is known, with no look at the file."""
    ASK = 6
    """Ask our own mount something, to see that it is answered."""


class Said(IntEnum):
    """Kinds of report."""

    END = 1
    FOUND = 2
    PROCESS = 3


class Status(IntEnum):
    """How a job ended."""

    OK = 0
    GONE = 1
    """The process has ended, or the file is not at that place."""
    LEFT_OUT = 2
    """The process is of a user who is left out at present."""
    REFUSED = 3
    """The helper may not look at that process."""
    NO_OWNER = 4
    HELD_UP = 5
    """Never sent: the helper was killed while it did this job."""
    NOBODY = 6
    """There is an owner, but no process that may be signalled, or would survive it."""
    PUT_OFF = 7
    """Nothing was done of this job, nor of those after it in the same message: the turn was over."""

    SPARED = 8
    """The owner would have died of the signal, of a job of kind SEND."""


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to do.

    `spare`: signal no process that would die of it. `elsewhere`: the owner has no descriptor of its own. `mark`: the
    first of `MARK_COUNT` numbers to mark files with that are found, 0: not to. Those from `identity` on are the
    `KnownOwner`.
    """

    kind: Kind
    id: int = 0
    number: int = 0
    pid: int = 0
    descriptor: int = 0
    count: int = 0
    opener_uid: int = 0
    after_pid: int = 0
    spare: bool = True
    elsewhere: bool = False
    mark: int = 0
    identity: int = 0
    signal: int = 0
    owner_uid: int = 0
    owner_euid: int = 0


class KnownOwner(NamedTuple):
    """A process that is a file's owner, and has the file as `descriptor`; all that takes to signal it.

    `identity` tells it from others of the same id (`kernel.pidfd`); `signal` is 0 for plain SIGIO; `uid` and `euid` are
    those of who set the owner.
    """

    pid: int
    identity: int
    descriptor: int
    signal: int
    uid: int
    euid: int


class Report(NamedTuple):
    """One thing that was found out, about job `id`.

    FOUND: open file `number` is `descriptor` of process `pid`; `owned`: it has an owner, which is process `owner_pid`
    (0: a group, or not to be seen); `uid` is the real user of the process. `mark` is the number with which the file was
    marked, and from `identity` on (0: not to be told) it is the `KnownOwner`. PROCESS: `pid` and `uid`.
    """

    said: Said
    id: int
    status: Status = Status.OK
    owned: bool = False
    number: int = 0
    pid: int = 0
    descriptor: int = 0
    uid: int = 0
    signalled: int = 0
    owner_pid: int = 0
    mark: int = 0
    identity: int = 0
    signal: int = 0
    owner_uid: int = 0
    owner_euid: int = 0

    @property
    def known_owner(self) -> KnownOwner | None:
        """The owner, if it is the process that has the file, and all is told of it."""
        if not self.identity or self.owner_pid != self.pid:
            return None
        return KnownOwner(self.pid, self.identity, self.descriptor, self.signal, self.owner_uid, self.owner_euid)


class JobError(ValueError):
    """A message that holds no whole jobs or reports."""


_JOB: Final = struct.Struct("=BBHIQiiiIiQQII")
_REPORT: Final = struct.Struct("=BBHIQiiIiiQQHII")
_KINDS: Final = {int(kind): kind for kind in Kind}
_SAIDS: Final = {int(said): said for said in Said}
_STATUSES: Final = {int(status): status for status in Status}
_SPARE: Final = 1
_ELSEWHERE: Final = 2
MESSAGE_BYTES: Final = 64 * 1024


def encode_job(job: Job) -> bytes:
    flags = (_SPARE if job.spare else 0) | (_ELSEWHERE if job.elsewhere else 0)
    return _JOB.pack(
        job.kind,
        flags,
        job.signal,
        job.id,
        job.number,
        job.pid,
        job.descriptor,
        job.count,
        job.opener_uid,
        job.after_pid,
        job.mark,
        job.identity,
        job.owner_uid,
        job.owner_euid,
    )


def decode_jobs(message: bytes) -> Iterator[Job]:
    """The jobs in a message. Raises JobError."""
    if len(message) % _JOB.size:
        raise JobError(f"{len(message)} bytes are not whole jobs")
    for kind, flags, signal, ident, number, pid, descriptor, count, uid, after_pid, *known in _JOB.iter_unpack(message):
        mark, identity, owner_uid, owner_euid = known
        known_kind = _KINDS.get(kind)
        if known_kind is None:
            raise JobError(f"no job is of kind {kind}")
        if pid < 0 or descriptor < 0 or count < 0 or after_pid < 0:
            raise JobError("a number below 0")
        yield Job(
            known_kind,
            ident,
            number,
            pid,
            descriptor,
            count,
            uid,
            after_pid,
            spare=bool(flags & _SPARE),
            elsewhere=bool(flags & _ELSEWHERE),
            mark=mark,
            identity=identity,
            signal=signal,
            owner_uid=owner_uid,
            owner_euid=owner_euid,
        )


def encode_report(report: Report) -> bytes:
    return _REPORT.pack(
        report.said,
        report.status,
        report.owned,
        report.id,
        report.number,
        report.pid,
        report.descriptor,
        report.uid,
        report.signalled,
        report.owner_pid,
        report.mark,
        report.identity,
        report.signal,
        report.owner_uid,
        report.owner_euid,
    )


def decode_reports(message: bytes) -> Iterator[Report]:
    """The reports in a message. Raises JobError."""
    if len(message) % _REPORT.size:
        raise JobError(f"{len(message)} bytes are not whole reports")
    for said, status, owned, *others in _REPORT.iter_unpack(message):
        if said not in _SAIDS or status not in _STATUSES:
            raise JobError(f"a report of kind {said} and status {status}")
        ident, *rest = others
        yield Report(_SAIDS[said], ident, _STATUSES[status], bool(owned), *rest)
