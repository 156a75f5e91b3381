"""The watch over our mounts: one that is taken away while the server runs is noticed, and made again.

    fileno() ── epoll ─┬─ /proc/self/mountinfo    POLLPRI at each change of the mounts
                       └─ the child that makes a mount again, when it says something or ends

Kernel source: fs/proc_namespace.c, mounts_poll(): a change is told once to each open file.
What counts is what a program sees at the path. So the watch compares the device number there, and does not search
/proc/self/mountinfo: that also lists a mount which is hidden under another. A child makes the mount again (`remount`),
because the path of the bind mount's source leads through the control file system and so waits for the server.

This module, like all that the keeper imports, imports little.
"""

from __future__ import annotations

import contextlib
import os
import select
import time

from memnotify_cuse.keeper.channel import Channel
from memnotify_cuse.keeper.children import fork
from memnotify_cuse.kernel.mountid import mount_seen_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from memnotify_cuse.keeper.children import Child

MOUNTINFO = "/proc/self/mountinfo"
QUIET_S = 30.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
"""What is taken away again within `QUIET_S` is made again after a pause, each time twice as long."""
END_S = 0.2


def watch_line(major: int, minor: int, mount: str, device: str) -> str:
    """What a `MountWatch` has to know, as text. `device` "" is for a device that no bind mount shows."""
    return f"{major} {minor} {mount}\0{device}"


class MountWatch:
    """Watches the mounts of `line` (`watch_line`) in this process's mount namespace.

    Call `check` once at first, and whenever `fileno()` is readable; neither waits. `say` writes a line for the user,
    `undo` takes note of what is to be undone at the end (`keeper.undo`). `connection` is a descriptor of the mount's
    connection to /dev/fuse: with it a control file system that was unmounted can be mounted again while something keeps
    it in use, as the device's bind mount does. Raises OSError where /proc cannot be used.
    """

    def __init__(
        self, line: str, say: Callable[[str], None], undo: Callable[[str], None], connection: int | None = None
    ) -> None:
        major, minor, paths = line.split(" ", 2)
        self._number = int(major), int(minor)
        self._mount, _, self._device = paths.partition("\0")
        self._say = say
        self._undo = undo
        self._connection = connection
        self.lost: str | None = None
        """Why the control file system is gone for good, None as long as it is not."""
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._pause_s = 0.0
        self._begun_s = float("-inf")
        # First, so that every change from now on is noticed.
        self._mountinfo = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._mountinfo, select.EPOLLPRI)
        self._ids = {path: self._id_if_ours(path) for path in (self._mount, self._device) if path}

    def fileno(self) -> int:
        """Readable when `check` has something to do."""
        return self._epoll.fileno()

    def check(self) -> None:
        """Take note of what the child says, and start one if a mount is missing."""
        # This is what silences /proc/self/mountinfo.
        self._epoll.poll(0)
        self._listen()
        if self._child is not None or self.lost is not None:
            return
        for path in (self._mount, self._device):
            if path and self._is_missing(path):
                self._make_again(path)
                return

    def close(self) -> None:
        """End the child, after the step that it is in, and take note of what it has made. Twice does nothing."""
        if self._child is not None:
            self._child.end_after_step()
            if not self._child.reap(END_S):
                self._child.kill()
                self._child.reap(END_S)
            self._listen()
        self.let_go()

    def let_go(self) -> None:
        """Close its descriptors, and end nothing: for a child of the process that watches."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._epoll.close()
        if self._mountinfo >= 0:
            os.close(self._mountinfo)
            self._mountinfo = -1

    def _id_if_ours(self, path: str) -> int | None:
        with contextlib.suppress(OSError):
            major, minor, mount_id = mount_seen_at(path)
            if (major, minor) == self._number:
                return mount_id
        return None

    def _is_missing(self, path: str) -> bool:
        try:
            return mount_seen_at(path)[:2] != self._number
        except OSError:
            return True

    def _make_again(self, path: str) -> None:
        now_s = time.monotonic()
        if now_s - self._begun_s > QUIET_S:
            self._pause_s = 0.0
        self._begun_s = now_s
        pause_s, self._pause_s = self._pause_s, min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
        self._channel, theirs = Channel.pair()
        keeper_pid = os.getpid()
        connection = self._connection if path == self._mount else None

        def work() -> int:
            # A process that waits for the server must not hold its connection, which ends with the last descriptor.
            close_all_but(theirs.fileno(), connection)
            from memnotify_cuse.keeper.remount import Missing, make_again

            is_device = path == self._device
            missing = Missing(path, self._mount if is_device else None, self._number, self._ids[path], connection)
            return make_again(missing, theirs, keeper_pid, pause_s)

        try:
            self._child = fork("memnotify-mount", work)
        except OSError as error:
            self._say(f"ERROR: {path}: the mount was taken away, and there is no process to make it again: {error}")
            self._channel.close()
            self._channel = None
        else:
            self._epoll.register(self._channel.fileno(), select.EPOLLIN)
        theirs.close()

    def _listen(self) -> None:
        if self._channel is None:
            return
        try:
            while (message := self._channel.receive()) is not None:
                self._heed(*message[:2])
        except EOFError:
            # Its end of the channel goes with it.
            if self._child is not None and self._child.reap(END_S):
                self._child = None
                self._channel.close()
                self._channel = None

    def _heed(self, word: str, rest: str) -> None:
        if word == "undo":
            self._undo(rest)
        elif word == "made":
            mount_id, _, path = rest.partition(" ")
            self._ids[path] = int(mount_id) or None
            self._say(f"WARNING: {path}: the mount was taken away; it has been made again")
        elif word == "failed":
            self._say(f"ERROR: the mount was taken away, and cannot be made again yet: {rest}")
        elif word == "lost":
            self.lost = rest
            self._say(f"ERROR: {rest}")


def close_all_but(*kept: int | None) -> None:
    """Close every descriptor above stderr but `kept`."""
    lowest = 3
    for fd in sorted(fd for fd in kept if fd is not None):
        os.closerange(lowest, fd)
        lowest = max(lowest, fd + 1)
    os.closerange(lowest, 1 << 20)
