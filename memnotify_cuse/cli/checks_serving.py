"""Checks of ``memnotify doctor``: whether the device can be made, and the server be kept alive."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from memnotify_cuse.cli.common import DEFAULT_DEVICE, DEFAULT_MOUNT, device_path, mount_path
from memnotify_cuse.cli.host import Finding, Host
from memnotify_cuse.keeper.chardev import cuse_problem, is_served
from memnotify_cuse.keeper.children import ApartError, apart
from memnotify_cuse.keeper.mount import FSTYPE, PROBE_S, Occupant, occupant_of, occupant_of_mount
from memnotify_cuse.keeper.rights import (
    BY_DEVICE,
    HELPER,
    LEAST_DESCRIPTORS,
    lower_oom_score,
    raise_limits,
    too_few_descriptors,
)
from memnotify_cuse.kernel.capabilities import Capability
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.fdinfo import fdinfo_has_inodes
from memnotify_cuse.kernel.mountinfo import mount_at
from memnotify_cuse.kernel.pidfd import get_descriptor
from memnotify_cuse.residency import Realtime

_MIB = 1024 * 1024
# mlockall compares the limit with all that is mapped, touched or not (mm/mlock.c, SYSCALL_DEFINE1(mlockall)). A server
# has 32 MiB mapped.
_ENOUGH_MEMLOCK_BYTES = 48 * _MIB
_CHECK_S = 5.0
_SILENT = "a server that hangs, or was killed, is replaced within seconds: try again"


def fuse(machine: Host) -> Finding:
    """The transport that is used."""
    path = machine.root / "dev/fuse"
    try:
        os.close(os.open(path, os.O_RDWR))
    except FileNotFoundError:
        return Finding(
            "fail",
            "fuse",
            f"no {path}",
            "load the module (modprobe fuse), or pass the device into the container (--device /dev/fuse)",
        )
    except OSError as error:
        return Finding("fail", "fuse", f"{path}: {error.strerror}", "the server cannot mount anything")
    return Finding("ok", "fuse", f"{path} can be opened", "used to serve the device")


def pyfuse3(machine: Host) -> Finding:
    """The library that speaks FUSE; its C part needs libfuse3."""
    try:
        import pyfuse3 as library
    except ImportError as error:
        return Finding("fail", "pyfuse3", str(error), "pip install 'pyfuse3>=3.5' (Debian: needs libfuse3-3)")
    if not hasattr(library, "PollHandle"):
        return Finding("fail", "pyfuse3", f"{library.__version__} has no poll", "pip install 'pyfuse3>=3.5'")
    return Finding("ok", "pyfuse3", library.__version__, "serves the texts of the control file system")


def cuse(machine: Host) -> Finding:
    """The transport for a true character device; FUSE does without it, so its absence is nothing to warn about."""
    path = machine.root / "dev/cuse"
    problem = cuse_problem(path)
    if problem is not None:
        return Finding("ok", "cuse", problem, "the device will be a file (modprobe cuse may change that)")
    return Finding("ok", "cuse", f"{path} can be opened", "the device will be a character device")


def mounting(machine: Host) -> Finding:
    """Who may mount: root itself, or an ordinary user with the help of fusermount3. It is the user id that decides."""
    if machine.euid == 0:
        if machine.can(Capability.SYS_ADMIN):
            return Finding("ok", "mounting", "root, with CAP_SYS_ADMIN", "may mount without fusermount3")
        return Finding(
            "fail", "mounting", "root, without CAP_SYS_ADMIN", "may not mount: in a container, --cap-add SYS_ADMIN"
        )
    if not machine.could(Capability.SYS_ADMIN):
        return Finding(
            "fail",
            "mounting",
            "CAP_SYS_ADMIN is not to be had here",
            "no program may mount: give it to the container (--cap-add SYS_ADMIN)",
        )
    helper = shutil.which("fusermount3")
    if helper is None:
        return Finding("fail", "mounting", "not root, and no fusermount3", "run the server as root, or install fuse3")
    if not os.stat(helper).st_mode & stat.S_ISUID:
        return Finding("fail", "mounting", f"{helper} is not set-user-id root", "run the server as root, or repair it")
    return Finding(
        "ok",
        "mounting",
        f"{helper}",
        "a mount of one's own works (serve --device '' --mount DIR); /dev/mem_notify needs root",
    )


def device(machine: Host) -> Finding:
    """The path that programs ask for, and what is there, by the server's own rules."""
    path = _path_on(machine, device_path(DEFAULT_DEVICE))
    if machine.euid != 0:
        return Finding("warn", "device", f"{path} is for root to make", "without a node: serve --device '' --mount DIR")
    through_cuse = cuse_problem(machine.root / "dev/cuse") is None
    if is_served(path, machine.sys / "class/cuse"):
        return Finding("ok", "device", f"{path} is served (cuse)", "a second server needs another path")
    try:
        occupant = occupant_of(path, machine.proc)
    except (OSError, KernelFileError) as error:
        return Finding("warn", "device", f"{path}: {error}", "serve another path with --device")
    if occupant is Occupant.LIVE_MOUNT:
        return Finding("ok", "device", f"{path} is served (fuse)", "a second server needs another path")
    if occupant is Occupant.SILENT_MOUNT:
        return Finding("warn", "device", f"{path} is ours, and does not answer within {PROBE_S:g} s", _SILENT)
    if occupant in (Occupant.DEAD_MOUNT, Occupant.PLACEHOLDER):
        return Finding(
            "ok", "device", f"{path} is left from a server that was killed", "the next 'memnotify serve' cleans it up"
        )
    if occupant is Occupant.EMPTY_FILE and not through_cuse:
        return Finding("ok", "device", f"{path} is an empty file", "the server shows its device there, and leaves it")
    if occupant is not Occupant.NOTHING:
        return Finding(
            "warn",
            "device",
            f"{path} is {occupant.value}",
            "in the way: remove it, or serve another path with --device",
        )
    if not os.access(path.parent, os.W_OK):
        return Finding(
            "warn",
            "device",
            f"{path} does not exist, and we may not make it",
            "run the server as root, or without a node: serve --device '' --mount DIR",
        )
    return Finding("ok", "device", f"{path} is free", "'memnotify serve' makes it")


def mount_point(machine: Host) -> Finding:
    """Where the control file system is mounted, if nothing else is said."""
    path = _path_on(machine, _resolved(DEFAULT_MOUNT))
    elsewhere = "serve another directory with --mount"
    try:
        mounted = mount_at(path, machine.proc)
        if mounted is not None and mounted.fstype == FSTYPE:
            occupant = occupant_of_mount(path)
            if occupant is Occupant.DEAD_MOUNT:
                return Finding("ok", "mount", f"{path} is left from a server that was killed", "'serve' cleans it up")
            if occupant is Occupant.SILENT_MOUNT:
                return Finding("warn", "mount", f"{path} is ours, and does not answer within {PROBE_S:g} s", _SILENT)
            return Finding("ok", "mount", f"{path} is served", f"for a second server, {elsewhere}")
        if path.is_dir():
            return Finding("ok", "mount", f"{path} is a directory", "the server mounts over it, and leaves it")
        if os.path.lexists(path):
            return Finding("warn", "mount", f"{path} is not a directory", elsewhere)
    except (OSError, KernelFileError) as error:
        return Finding("warn", "mount", f"{path}: {error}", elsewhere)
    if not os.access(path.parent, os.W_OK):
        return Finding("warn", "mount", f"{path} does not exist, and we may not make it", elsewhere)
    return Finding("ok", "mount", f"{path} is free", "'memnotify serve' makes it")


def descriptors(machine: Host) -> Finding:
    """Whether the server may open enough files."""
    refusal = _in_a_child(too_few_descriptors) if machine.is_this else None
    if refusal is not None:
        return Finding("fail", "descriptors", refusal, "raise the limit")
    return Finding("ok", "descriptors", f"{LEAST_DESCRIPTORS} files or more may be open", "what the server needs")


def memlock(machine: Host) -> Finding:
    """Whether the server can keep itself in memory, where it must be when memory is short."""
    if machine.can(Capability.IPC_LOCK):
        return Finding("ok", "memlock", "CAP_IPC_LOCK", "the server locks itself into memory")
    if machine.memlock_bytes is None:
        return Finding("ok", "memlock", "RLIMIT_MEMLOCK is unlimited", "the server locks itself into memory")
    found = f"RLIMIT_MEMLOCK is {machine.memlock_bytes / _MIB:.0f} MiB, no CAP_IPC_LOCK"
    if machine.memlock_bytes >= _ENOUGH_MEMLOCK_BYTES:
        return Finding("ok", "memlock", found, "enough for the server to lock itself into memory")
    return Finding(
        "warn",
        "memlock",
        found,
        "the server may be swapped out just when it is needed, and tell late; "
        f"{_ENOUGH_MEMLOCK_BYTES / _MIB:.0f} MiB are enough (ulimit -l, LimitMEMLOCK=): the kernel counts all that it "
        "has mapped",
    )


def oom_score(machine: Host) -> Finding:
    """Whether the server can keep the OOM killer away from itself."""
    refusal = _in_a_child(_oom_score_refusal) if machine.is_this else None
    if refusal is None and (machine.is_this or machine.can(Capability.SYS_RESOURCE)):
        return Finding("ok", "oom_score", "may be lowered", "the server lowers its oom_score_adj, to be spared")
    return Finding(
        "warn",
        "oom_score",
        f"oom_score_adj cannot be lowered ({refusal or 'no CAP_SYS_RESOURCE'})",
        "the OOM killer may choose the server; systemd can do it (OOMScoreAdjust=)",
    )


def realtime(machine: Host) -> Finding:
    """Whether the server gets a CPU when all are busy with reclaim."""
    refusal = _in_a_child(Realtime().check) if machine.is_this else None
    if refusal is None and (machine.is_this or machine.can(Capability.SYS_NICE)):
        return Finding("ok", "realtime", "permitted", "the server has real-time priority while memory is reclaimed")
    return Finding(
        "warn",
        "realtime",
        refusal or "no CAP_SYS_NICE",
        "the server may tell late when all CPUs are busy (ulimit -r, LimitRTPRIO=1)",
    )


def sigio(machine: Host) -> Finding:
    """What the SIGIO helpers need: to look at another process's descriptors, and to signal it."""
    error = pidfd_getfd_error()
    if error is not None:
        return Finding("warn", "sigio", f"pidfd_getfd: {error}", "no program gets SIGIO here; poll and read work")
    needed = set(HELPER)
    if cuse_problem(machine.root / "dev/cuse") is None or not fdinfo_has_inodes():
        needed |= BY_DEVICE
    missing = ", ".join(f"CAP_{each.name}" for each in sorted(needed) if not machine.can(each))
    if missing and machine.euid == 0:
        # Root's helpers are of a user of their own, whose programs are none that listen.
        return Finding(
            "warn",
            "sigio",
            f"pidfd_getfd works, no {missing}",
            "no program gets SIGIO here; poll and read work; in a container: --cap-add",
        )
    if missing:
        return Finding(
            "warn",
            "sigio",
            f"pidfd_getfd works, no {missing}",
            f"SIGIO reaches programs of the same user only{_yama(machine)}",
        )
    return Finding(
        "ok",
        "sigio",
        "pidfd_getfd works",
        "SIGIO goes to programs that set an owner with F_SETOWN; whether O_ASYNC counts as well, see kprobes; "
        "--sigio strict asks for O_ASYNC in any case, and makes every system call of the machine about 40 ns slower",
    )


def _yama(machine: Host) -> str:
    try:
        scope = (machine.proc / "sys/kernel/yama/ptrace_scope").read_text().strip()
    except OSError:
        return ""
    return "" if scope == "0" else f", and with Yama's ptrace_scope at {scope} not even those"


def pidfd_getfd_error() -> str | None:
    """Try pidfd_getfd(2) on a descriptor of our own; return what is wrong, None when it works."""
    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError as error:
        return error.strerror or str(error)
    try:
        os.close(get_descriptor(pidfd, pidfd))
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(pidfd)
    return None


def _resolved(path: str) -> Path:
    """As the server takes it. The last step asks a mount there, which may not answer: then without that."""
    try:
        return Path(apart(lambda: str(mount_path(path)), PROBE_S, path))
    except ApartError:
        return device_path(path)


def _path_on(machine: Host, path: Path) -> Path:
    return machine.root / path.relative_to("/")


def _oom_score_refusal() -> str | None:
    try:
        lower_oom_score()
    except OSError as error:
        return error.strerror
    return None


def _in_a_child(check: Callable[[], str | None]) -> str | None:
    """What `check` returns in a process of its own, with the limits that the server would have."""

    def with_limits() -> str | None:
        raise_limits()
        return check()

    try:
        return apart(with_limits, _CHECK_S, "a check") or None
    except ApartError as error:
        return str(error)
