"""What is to be undone at the end, in reverse order, by the keeper. Each is a line of text, the path last:

umount PATH             a mount of ours
unlink DEV INODE PATH   the placeholder of the device, or its node that was made, if it is still that file
rmdir PATH              the mount point that was made
instance PATH           a trace instance
kprobe NAME PATH        a kprobe event, by the path of kprobe_events
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time

UNMOUNT_S = 0.4
REMOVE_S = 0.3
PAUSE_S = 0.01
"""Stopping may take two seconds in all."""


def unmount(path: str) -> str | None:
    """Unmount lazily. What is wrong, None if nothing is; a mount that was removed already is not."""
    if os.geteuid() != 0:
        return _unmount_as_user(path)
    from memnotify_cuse.kernel import libc

    try:
        libc.unmount(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            return f"{path}: cannot unmount: {error.strerror}"
    return None


def undo(line: str) -> str | None:
    """Undo one thing. What is wrong, None if nothing is."""
    what, _, rest = line.partition(" ")
    if what == "umount":
        return unmount(rest)
    if what == "unlink":
        device, inode, path = rest.split(" ", 2)
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            # Another may have put a file of its own there, to which the file system may have given the same inode.
            # Whatever is mounted there is of another device.
            is_ours = stat.S_ISSOCK(found.st_mode) or stat.S_ISCHR(found.st_mode)
            if is_ours and (found.st_dev, found.st_ino) == (int(device), int(inode)):
                os.unlink(path)
    elif what == "rmdir":
        with contextlib.suppress(OSError):
            os.rmdir(rest)
    elif what == "instance":
        return _remove_instance(rest)
    elif what == "kprobe":
        name, _, path = rest.partition(" ")
        return _remove_kprobe(name, path)
    return None


def _remove_instance(path: str) -> str | None:
    """Busy as long as its trace_pipe is open, which a server that was killed may hold for a moment."""
    deadline_s = time.monotonic() + REMOVE_S
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            # ENODEV: another removal of it has begun.
            if error.errno not in (errno.EBUSY, errno.ENODEV) or time.monotonic() > deadline_s:
                return f"{path}: the trace instance stays behind: {error.strerror}"
            time.sleep(PAUSE_S)
        else:
            return None


def _remove_kprobe(name: str, path: str) -> str | None:
    """Refused while the event is on in a trace instance, whose removal may take a moment."""
    deadline_s = time.monotonic() + REMOVE_S
    while True:
        try:
            # Opened with O_TRUNC, it would lose the events of all others.
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                os.write(fd, f"-:{name}\n".encode())
            finally:
                os.close(fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline_s:
                return f"{name}: the kprobe event stays behind: {error.strerror}"
            time.sleep(PAUSE_S)
        else:
            return None


def _unmount_as_user(path: str) -> str | None:
    try:
        pid = os.posix_spawnp("fusermount3", ["fusermount3", "-q", "-u", "-z", "--", path], os.environ)
    except OSError as error:
        return f"{path}: cannot unmount: fusermount3: {error.strerror}"
    deadline_s = time.monotonic() + UNMOUNT_S
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline_s:
            return f"{path}: cannot unmount: fusermount3 does not end"
        time.sleep(PAUSE_S)
    return None
