"""Mounting the control file system, and showing its device at a path of its own.

As root the mount is made with mount(2); an ordinary user's by fusermount3, which passes the descriptor of
/dev/fuse back over a socket (`_FUSE_COMMFD`, as in libfuse's lib/mount.c). Nothing here waits on the mounted file
system from the thread that serves it.

A server killed with SIGKILL leaves its mounts behind, dead ("Transport endpoint is not connected"): the next one
recognises them by their file system type and removes them.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.mountinfo import mount_at

log = logging.getLogger(__name__)

FSTYPE = "fuse.memnotify"
SOURCE = "memnotify"
DEV_FUSE = "/dev/fuse"
PROBE_TIMEOUT_S = 3.0


class MountError(Exception):
    """The mount or the device node could not be made; the message is one line for the user."""


def mount_control(mount_point: Path) -> ControlMount:
    """Mount at `mount_point`, which is made if it is not there; a dead mount of ours is replaced."""
    # The directory under a dead mount was most likely made by the server that died.
    left_behind = remove_if_dead(mount_point)
    made = _make_directory(mount_point) or left_behind
    try:
        lock = _lock_directory(mount_point)
        try:
            fd = _mount_as_root(mount_point) if os.geteuid() == 0 else _mount_as_user(mount_point)
        except BaseException:
            os.close(lock)
            raise
    except BaseException:
        if made:
            with suppress(OSError):
                mount_point.rmdir()
        raise
    return ControlMount(mount_point, fd, lock, made=made)


class ControlMount:
    """The mounted control file system. `fd` is the connection to the kernel, non-blocking."""

    def __init__(self, path: Path, fd: int, lock: int, *, made: bool) -> None:
        self.path = path
        self.fd = fd
        self._lock = lock
        self._made = made

    def close(self) -> None:
        """Unmount, end the connection (waiting programs get an error at once) and remove what was made."""
        _unmount(self.path)
        for fd in (self.fd, self._lock):
            os.close(fd)
        if self._made:
            with suppress(OSError):
                self.path.rmdir()


class DeviceNode:
    """`node`, a file of the control file system, shown at `path` by a bind mount on a placeholder."""

    def __init__(self, path: Path, node: Path) -> None:
        remove_if_dead(path)
        existing = mount_at(path)
        if existing is not None:
            raise MountError(f"{path}: something is mounted there already ({existing.fstype})")
        self.path = path
        self._make_placeholder()
        try:
            libc.mount(str(node), str(path), None, libc.MS_BIND)
        except OSError as error:
            self._remove_placeholder()
            raise MountError(f"{path}: cannot show the device there: {error.strerror}") from error

    def close(self) -> None:
        _unmount(self.path)
        self._remove_placeholder()

    def _make_placeholder(self) -> None:
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444))
        except FileExistsError:
            left = self.path.lstat()
            if not stat.S_ISREG(left.st_mode) or left.st_size:
                raise MountError(f"{self.path}: exists and is not a placeholder of ours") from None
        except OSError as error:
            raise MountError(f"{self.path}: cannot make the device there: {error.strerror}") from error

    def _remove_placeholder(self) -> None:
        with suppress(OSError):
            self.path.unlink()


def remove_if_dead(path: Path) -> bool:
    """Unmount every dead mount of ours at `path`; True if there was one. One that is alive is a MountError."""
    found = False
    while (mounted := mount_at(path)) is not None and mounted.fstype == FSTYPE:
        if not _is_dead(path):
            raise MountError(f"{path}: memnotify is already serving there")
        log.warning("%s: removing the mount that a killed server left behind", path)
        _unmount(path)
        if mount_at(path) == mounted and os.geteuid() != 0:
            raise MountError(f"{path}: cannot remove the mount that a killed server left behind")
        found = True
    return found


def clear_placeholder(path: Path) -> None:
    """Remove what a killed server left at `path`: dead mounts, and the empty file under them."""
    remove_if_dead(path)
    with suppress(FileNotFoundError):
        left = path.lstat()
        if stat.S_ISREG(left.st_mode) and not left.st_size and mount_at(path) is None:
            path.unlink()


def _is_dead(path: Path) -> bool:
    """Whether the mount at `path` has lost its server: asked by another process, which may be left hanging."""
    with subprocess.Popen(
        ["stat", "-f", "--", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    ) as probe:
        try:
            _, complaint = probe.communicate(timeout=PROBE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            probe.kill()
            return False
    return os.strerror(errno.ENOTCONN).encode() in complaint or b"not connected" in complaint


def _make_directory(path: Path) -> bool:
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        if not path.is_dir():
            raise MountError(f"{path}: not a directory") from None
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
    data = ",".join([f"fd={fd}", "rootmode=40555", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"])
    try:
        libc.mount(
            SOURCE,
            str(path),
            FSTYPE,
            libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC,
            ",".join([data, *_options()]),
        )
    except OSError as error:
        os.close(fd)
        raise MountError(f"{path}: cannot mount: {error.strerror}") from error
    return fd


def _mount_as_user(path: Path) -> int:
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
            check=False,
        )
        if done.returncode != 0:
            complaint = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise MountError(f"{path}: cannot mount: {complaint[-1]}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    os.set_inheritable(fds[0], False)
    os.set_blocking(fds[0], False)
    return fds[0]


def _unmount(path: Path) -> None:
    """Unmount lazily; a mount that somebody else has removed already is no error."""
    if os.geteuid() == 0:
        try:
            libc.unmount(str(path))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                log.warning("%s: cannot unmount: %s", path, error.strerror)
        return
    helper = shutil.which("fusermount3") or "fusermount3"
    subprocess.run([helper, "-u", "-z", "--", str(path)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
