"""Mounting the control file system, and showing its device at a path of its own.

As root the mount is made with mount(2); an ordinary user's by fusermount3, which passes the descriptor of
/dev/fuse back over a socket (`_FUSE_COMMFD`, as in libfuse's lib/mount.c). What may wait on the mounted file system
is done in a process of its own (`children.apart`), which holds nothing of its connection.

A server killed with SIGKILL leaves its mounts behind, dead ("Transport endpoint is not connected"): the next one
recognises them by their file system type and removes them.

The device is bind-mounted on a placeholder. A program that opens the path while nothing is mounted on it gets the
placeholder, and must not take it for the device: an empty regular file would be readable for ever. So the placeholder
is a socket that no process listens on, which open(2) refuses with ENXIO (fs/inode.c, no_open()). Its mode, which gives
no user the permission to write that connect(2) needs, tells it from a socket of another program.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path

from memnotify_cuse.keeper.children import ApartError, apart, whole_step
from memnotify_cuse.keeper.undo import unmount
from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.mountinfo import mount_at
from memnotify_cuse.kernel.statx import FileId

log = logging.getLogger(__name__)

FSTYPE = "fuse.memnotify"
SOURCE = "memnotify"
DEV_FUSE = "/dev/fuse"
PROBE_S = 3.0
ABORTED_PAUSE_S = 0.01
PLACEHOLDER = stat.S_IFSOCK | 0o444
_NO_SERVER = errno.errorcode[errno.ENOTCONN]


class MountError(Exception):
    """The mount or the device node could not be made; the message is one line for the user."""


def mount_control(mount_point: Path, undo: Callable[[str], None]) -> ControlMount:
    """Mount at `mount_point`, which is made if it is not there; a dead mount of ours is replaced.

    `undo` takes note of what is to be undone at the end (`keeper.undo`).
    """
    # The directory under a dead mount was most likely made by the server that died.
    left_behind = remove_if_dead(mount_point)
    with whole_step():
        if make_directory(mount_point) or left_behind:
            undo(f"rmdir {mount_point}")
    lock = _lock_directory(mount_point)
    try:
        # Another one may have mounted since the first look, and what was opened and locked is that mount.
        remove_if_dead(mount_point)
        if not os.path.samestat(os.fstat(lock), os.stat(mount_point)):
            raise MountError(f"{mount_point}: another memnotify has just been there")
    except OSError as error:
        os.close(lock)
        raise MountError(f"{mount_point}: {error.strerror}") from error
    except MountError:
        os.close(lock)
        raise
    with whole_step():
        fd = _mount_as_root(mount_point) if os.geteuid() == 0 else _mount_as_user(mount_point)
        undo(f"umount {mount_point}")
    return ControlMount(mount_point, fd, lock)


def check_paths(device: Path | None, mount_point: Path) -> None:
    """Refuse what could not be served, or not be ended again. MountError."""
    if device is None:
        return
    for one, other, what in ((device, mount_point, "the device"), (mount_point, device, "the mount point")):
        if one == other or other in one.parents:
            raise MountError(f"{one}: {what} cannot be at or below {other}, which is to be mounted over")


class ControlMount:
    """The mounted control file system.

    `fd` is the connection to the kernel, non-blocking; `lock` holds the directory under the mount; `device` tells its
    files from others.
    """

    def __init__(self, path: Path, fd: int, lock: int) -> None:
        self.fd = fd
        self.lock = lock
        mounted = mount_at(path)
        if mounted is None:
            raise MountError(f"{path}: the mount is gone already")
        self.device = FileId(False, mounted.major, mounted.minor)


class DeviceNode:
    """`node`, a file of the control file system, shown at `path` by a bind mount on a placeholder.

    A placeholder is removed at the end, also one that another server of ours has left behind. An empty file that was
    there before is mounted over, and stays. Waits for an answer of the server's.
    """

    def __init__(self, path: Path, node: Path, undo: Callable[[str], None]) -> None:
        remove_if_dead(path)
        refusal = why_not_at(path)
        if refusal is not None:
            raise MountError(refusal)
        show_device(path, node, undo)


class Occupant(Enum):
    """What is at the path where the device is to be."""

    NOTHING = "nothing"
    PLACEHOLDER = "a placeholder of ours"
    EMPTY_FILE = "an empty file"
    DEAD_MOUNT = "a mount of ours whose server was killed"
    LIVE_MOUNT = "a mount of ours that is served"
    SILENT_MOUNT = "a mount of ours that does not answer"
    OTHER_MOUNT = "a mount that is not ours"
    OTHER_FILE = "a file that is not ours"


def occupant_of(path: Path, proc: Path = Path("/proc")) -> Occupant:
    """What is at `path`. Asks a mount of ours whether its server is alive. Raises OSError if it cannot be looked at."""
    mounted = mount_at(path, proc)
    if mounted is not None:
        if mounted.fstype != FSTYPE:
            return Occupant.OTHER_MOUNT
        return occupant_of_mount(path)
    return _file_at(path)


def occupant_of_mount(path: Path) -> Occupant:
    """What the mount of ours at `path` is. Asks it."""
    answer = _answer_of(path)
    if answer is None:
        return Occupant.SILENT_MOUNT
    return Occupant.DEAD_MOUNT if answer == _NO_SERVER else Occupant.LIVE_MOUNT


def _file_at(path: Path) -> Occupant:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return Occupant.NOTHING
    if is_placeholder(found):
        return Occupant.PLACEHOLDER
    return Occupant.EMPTY_FILE if stat.S_ISREG(found.st_mode) and not found.st_size else Occupant.OTHER_FILE


def refuse_file(path: Path) -> None:
    """MountError if there is a file at `path` that is not to be mounted over."""
    if _file_at(path) is Occupant.OTHER_FILE:
        raise MountError(f"{path}: exists and is not a placeholder of ours")


def why_not_at(path: Path, proc: Path = Path("/proc")) -> str | None:
    """Why the device cannot be shown at `path` by a bind mount, None if it can: a line for the user."""
    try:
        occupant = occupant_of(path, proc)
    except OSError as error:
        return f"{path}: cannot make the device there: {error.strerror}"
    if occupant in (Occupant.LIVE_MOUNT, Occupant.SILENT_MOUNT):
        return f"{path}: memnotify is already serving there"
    if occupant is Occupant.OTHER_MOUNT:
        mounted = mount_at(path, proc)
        return f"{path}: something is mounted there already ({mounted.fstype if mounted else 'gone by now'})"
    if occupant is Occupant.OTHER_FILE:
        return f"{path}: exists and is not a placeholder of ours"
    return None


def is_placeholder(found: os.stat_result) -> bool:
    """Whether a file is one that a server of this user made for its device to be mounted on."""
    return found.st_mode == PLACEHOLDER and found.st_uid == os.geteuid()


def show_device(path: Path, node: Path, undo: Callable[[str], object]) -> None:
    """Bind `node` at `path`, on a placeholder unless there is a file already. MountError. May wait for the server."""
    with whole_step():
        _make_placeholder(path)
        placeholder = path.lstat()
        if is_placeholder(placeholder):
            undo(f"unlink {placeholder.st_dev} {placeholder.st_ino} {path}")
    # Before it is done, which waits for the server. Where nothing is mounted, nothing is unmounted.
    undo(f"umount {path}")
    try:
        libc.mount(str(node), str(path), None, libc.MS_BIND)
    except OSError as error:
        raise MountError(f"{path}: cannot show the device there: {error.strerror}") from error


def _make_placeholder(path: Path) -> None:
    # The mode is how it is known again.
    mask = os.umask(0)
    try:
        os.mknod(path, PLACEHOLDER)
    except FileExistsError:
        return
    except OSError as error:
        raise MountError(f"{path}: cannot make the device there: {error.strerror}") from error
    finally:
        os.umask(mask)


def remove_if_dead(path: Path) -> bool:
    """Unmount every dead mount of ours at `path`; True if there was one. One that is alive is a MountError."""
    found = False
    while (mounted := mount_at(path)) is not None and mounted.fstype == FSTYPE:
        if not is_dead(path):
            raise MountError(f"{path}: memnotify is already serving there")
        log.warning("%s: removing the mount that a killed server left behind", path)
        complaint = unmount(str(path))
        if mount_at(path) == mounted:
            why = f": {complaint}" if complaint else ""
            raise MountError(f"{path}: cannot remove the mount that a killed server left behind{why}")
        found = True
    return found


def clear_placeholder(path: Path) -> None:
    """Remove what a killed server left at `path`: dead mounts, and the placeholder, with or without one on it."""
    remove_if_dead(path)
    with suppress(FileNotFoundError):
        if mount_at(path) is None and is_placeholder(path.lstat()):
            path.unlink()


def is_dead(path: Path) -> bool:
    """Whether the mount at `path` has lost its server. One that does not answer may get another."""
    return _answer_of(path) == _NO_SERVER


def _answer_of(path: Path) -> str | None:
    """The name of the error that the mount at `path` answers with, "" for none; None if it does not answer in time."""
    try:
        return apart(partial(_statfs_error, path), PROBE_S, str(path))
    except ApartError:
        return None


def _statfs_error(path: Path) -> str:
    while True:
        try:
            os.statvfs(path)
        except OSError as error:
            # The connection went while we were asking. The next answer says so.
            if error.errno == errno.ECONNABORTED:
                time.sleep(ABORTED_PAUSE_S)
                continue
            return errno.errorcode.get(error.errno or 0, "")
        return ""


def make_directory(path: Path) -> bool:
    """Make the mount point; whether it was not there. MountError.

    It is closed to others: the mount over it has a mode of its own. Once that is gone, programs that look into it for
    all they can would keep its lock, and rmdir(2) waiting; the lock is not taken for those who may not look.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise MountError(f"{path}: not a directory") from None
        with contextlib.suppress(PermissionError):
            # A mount is looked into by its server alone.
            if mount_at(path) is None and os.listdir(path):
                raise MountError(f"{path}: not empty, and the mount would hide what is in it") from None
        return False
    except OSError as error:
        raise MountError(f"{path}: cannot make the mount point: {error.strerror}") from error
    return True


def _lock_directory(path: Path) -> int:
    """Hold the directory under the mount, so that of two servers started at once one is refused."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"{path}: cannot open the mount point: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise MountError(f"{path}: another memnotify is just starting there") from None
    return lock


def _options() -> list[str]:
    return ["default_permissions", "allow_other"] if os.geteuid() == 0 else ["default_permissions"]


def _mount_as_root(path: Path) -> int:
    try:
        fd = os.open(DEV_FUSE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MountError(f"{DEV_FUSE}: {error.strerror}; the kernel needs FUSE (modprobe fuse)") from error
    try:
        mount_connection(path, fd)
    except OSError as error:
        os.close(fd)
        raise MountError(f"{path}: cannot mount: {error.strerror}") from error
    return fd


def mount_connection(path: Path, fd: int) -> None:
    """Mount what is served through `fd` at `path`, as root. Raises OSError."""
    data = [f"fd={fd}", "rootmode=40555", f"user_id={os.geteuid()}", f"group_id={os.getegid()}", *_options()]
    libc.mount(SOURCE, str(path), FSTYPE, libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC, ",".join(data))


def _mount_as_user(path: Path) -> int:
    # Not root's to have in memory.
    import shutil
    import subprocess

    helper = shutil.which("fusermount3")
    if helper is None:
        raise MountError("fusermount3 not found; an ordinary user needs it to mount (Debian: fuse3)")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = ",".join([*_options(), f"fsname={SOURCE}", "subtype=memnotify", "nosuid", "nodev", "noexec"])
        done = subprocess.run(
            [helper, "-o", options, "--", str(path)],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            # It quotes the path, which can have any byte but zero in it.
            errors="surrogateescape",
            check=False,
        )
        if done.returncode != 0:
            complaint = done.stderr.strip().split("\n")[-1] or f"exit status {done.returncode}"
            raise MountError(f"{path}: cannot mount: {complaint}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    os.set_inheritable(fds[0], False)
    os.set_blocking(fds[0], False)
    return fds[0]
