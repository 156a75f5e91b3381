"""What each process may do: the table of capabilities, and how a process comes down to its row.

| process | capabilities | because |
|---|---|---|
| keeper | SYS_ADMIN | it unmounts at the end, and makes and removes trace instances |
|        | DAC_OVERRIDE | it removes the mount point that was made, whoever owns the folder |
|        | KILL | it ends its children, which are of another user |
|        | SETUID, SETGID, SYS_PTRACE, | the parent of the helpers, its child, becomes what it is by them |
|        | IPC_LOCK, DAC_READ_SEARCH | |
| server | none | what it needs is opened before it gives them up |
|        | SYS_NICE | only where the limit of real-time priority cannot be raised (no CAP_SYS_RESOURCE) |
| parent of helpers | IPC_LOCK, and those of a helper | the helpers that it forks lock their memory first |
| helper | SYS_PTRACE | to duplicate a client's descriptor (pidfd_getfd) |
|        | KILL | to signal other users' processes |
|        | DAC_READ_SEARCH | only with a character device, or before Linux 5.14: to look at /proc/PID/fd |

Server and helpers are of the user `memnotify` where there is one, else of an id that no user has.
"""

from __future__ import annotations

import errno
import os
import resource

from memnotify_cuse.kernel.capabilities import (
    Capability,
    become_user,
    bound_to,
    keep_only,
    permitted,
    set_no_new_privs,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

Identity = tuple[int, int]
"""User and group id."""

USER = "memnotify"
FIRST_DYNAMIC_UID = 61184
LAST_DYNAMIC_UID = 65519
"""Ids that no user has: systemd gives them out to services for as long as these run (DynamicUser=)."""

DESCRIPTORS = 65536
"""RLIMIT_NOFILE: clients cost the server none, but a bound that is too low for helpers would be a pity."""
LEAST_DESCRIPTORS = 64
"""With less the server does not start. It has 24 files open at rest, and opens some for a moment."""
OOM_SCORE_ADJ = -900

KEEPER = frozenset(
    {
        Capability.SYS_ADMIN,
        Capability.DAC_OVERRIDE,
        Capability.KILL,
        Capability.SETUID,
        Capability.SETGID,
        Capability.SYS_PTRACE,
        Capability.IPC_LOCK,
        Capability.DAC_READ_SEARCH,
    }
)
HELPER = frozenset({Capability.SYS_PTRACE, Capability.KILL})
FORKER = HELPER | {Capability.IPC_LOCK}
BY_DEVICE = frozenset({Capability.DAC_READ_SEARCH})


def choose_identity() -> Identity | None:
    """Who server and helpers are to be. For root only; may ask the name service."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        entry = pwd.getpwnam(USER)
        return entry.pw_uid, entry.pw_gid
    except KeyError:
        pass
    for uid in range(FIRST_DYNAMIC_UID + os.getpid() % 4000, LAST_DYNAMIC_UID + 1):
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid, uid
    return None


def raise_limits() -> None:
    """Raise what the processes forked from here need, as far as that is permitted; `server_keeps` sees what is not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(hard, DESCRIPTORS), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, max(soft, DESCRIPTORS)), wanted))
            break
        except (ValueError, OSError):
            continue
    try:
        resource.setrlimit(resource.RLIMIT_RTPRIO, (1, max(1, resource.getrlimit(resource.RLIMIT_RTPRIO)[1])))
    except (ValueError, OSError):
        # `server_keeps` has what is needed then.
        return


def too_few_descriptors() -> str | None:
    """What is wrong with the limit of open files after `raise_limits`, None if nothing is."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit >= LEAST_DESCRIPTORS:
        return None
    return f"only {limit} files may be open (ulimit -n, LimitNOFILE=); the server needs {LEAST_DESCRIPTORS}"


def lower_oom_score() -> None:
    """Keep the OOM killer away from this process and its children. Raises OSError."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(OOM_SCORE_ADJ))


def oom_score_is_lowered() -> bool:
    """Whether the OOM killer keeps away from this process, as `lower_oom_score` has it."""
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read()) <= OOM_SCORE_ADJ


def server_keeps() -> frozenset[Capability]:
    """The capabilities that the server needs for want of limits."""
    if resource.getrlimit(resource.RLIMIT_RTPRIO)[0] >= 1:
        return frozenset()
    return frozenset({Capability.SYS_NICE})


def reduce_keeper() -> None:
    """Come down to the keeper's row. An ordinary user's keeper has nothing to lose, and needs fusermount3."""
    if os.geteuid() != 0:
        return
    bound = KEEPER | server_keeps()
    if permitted() >> Capability.SETPCAP & 1:
        bound_to(bound)
    keep_only(bound)
    set_no_new_privs()


def reduce_child(identity: Identity | None, keep: Collection[Capability]) -> bool:
    """Become `identity` with only the capabilities `keep`, for good. False if this machine has no such user id."""
    if permitted() >> Capability.SETPCAP & 1:
        bound_to(keep)
    changed = True
    if identity is not None:
        try:
            become_user(*identity, keep)
        except OSError as error:
            # A user namespace, as of a container, may have no such id, and a container's root no right to change.
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            changed = False
    keep_only(keep)
    set_no_new_privs()
    return changed
