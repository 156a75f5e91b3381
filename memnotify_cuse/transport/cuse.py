"""The CUSE transport: a true character device, one connection to /dev/cuse for each.

    kernel ⇄ /dev/cuse ⇄ this module ⇄ endpoint

Opening /dev/cuse makes the kernel ask for CUSE_INIT; the reply names the device, and the kernel makes it, with a node
in devtmpfs (mode 0600), before the write of the reply returns. From then on an open file of the device sends the same
requests as one of FUSE, about inode 0. Closing the connection removes the device. Source: fs/fuse/cuse.c.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from memnotify_cuse.device.accounts import Users
from memnotify_cuse.device.device import Device
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.connection import Connection
from memnotify_cuse.transport.endpoint import DeviceEndpoint
from memnotify_cuse.transport.mount import MountError, clear_placeholder

log = logging.getLogger(__name__)

DEV_CUSE: Final = "/dev/cuse"
SYS_CUSE: Final = Path("/sys/class/cuse")
SYS_CHAR: Final = Path("/sys/dev/char")
NODE_MODE: Final = 0o444
REMOVAL_S: Final = 2.0


def cuse_problem() -> str | None:
    """Why there can be no character device here, None if there can be one."""
    try:
        os.close(os.open(DEV_CUSE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return f"{DEV_CUSE}: {error.strerror}"
    return None


def open_cuse(path: Path) -> int:
    """A connection for the character device `path`, a name directly under /dev. MountError if there can be none."""
    if path.parent != Path("/dev"):
        raise MountError(f"{path}: a character device needs a name directly under /dev; use --node fuse")
    clear_placeholder(path)
    _wait_until_removed(path)
    if (SYS_CUSE / path.name).exists():
        raise MountError(f"{path}: memnotify is already serving there")
    _clear_dead_node(path)
    if path.exists():
        raise MountError(f"{path}: exists already")
    try:
        return os.open(DEV_CUSE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MountError(f"{DEV_CUSE}: {error.strerror}; the kernel needs CUSE (modprobe cuse)") from error


def _wait_until_removed(path: Path) -> None:
    """The kernel removes the node of a server that was just killed first, and only then its name."""
    deadline_s = time.monotonic() + REMOVAL_S
    while not path.exists() and (SYS_CUSE / path.name).exists() and time.monotonic() < deadline_s:
        time.sleep(0.01)


def _clear_dead_node(path: Path) -> None:
    """Remove a node that a killed server made where there is no devtmpfs, which would have removed it."""
    with suppress(FileNotFoundError):
        left = path.lstat()
        device = f"{os.major(left.st_rdev)}:{os.minor(left.st_rdev)}"
        if left.st_mode == stat.S_IFCHR | NODE_MODE and not (SYS_CHAR / device).exists():
            log.warning("%s: removing the node that a killed server left behind", path)
            path.unlink()


class CuseTransport:
    """The character device `path`, on the connection `fd` that `open_cuse` gave, which it closes.

    `identifiers`, `users` and `on_flood` are those of `DeviceEndpoint` and `Connection`.
    """

    def __init__(
        self,
        path: Path,
        fd: int,
        device: Device,
        identifiers: Collection[int] = (),
        *,
        users: Users | None = None,
        on_flood: Callable[[bool], None] = lambda _flooded: None,
    ) -> None:
        self.path = path
        self._fd = fd
        users = users or Users()
        self._connection = Connection(fd, self._dispatch, users, on_flood)
        self._endpoint = DeviceEndpoint(device, self._connection.send, identifiers=identifiers, users=users)
        device.on_notified.append(partial(self._connection.serve_who_was_told, self._endpoint))
        self._ready = trio.Event()
        self._made_node = False

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor of the device."""
        device = self.path.stat().st_rdev
        return os.major(device), os.minor(device)

    async def serve(self) -> None:
        """Serve requests; returns when the kernel has ended the connection."""
        try:
            await self._connection.serve()
        finally:
            self._endpoint.close()

    async def wait_ready(self) -> None:
        """Return once programs can open the device; MountError if the kernel did not make it."""
        await self._ready.wait()
        await trio.to_thread.run_sync(self._open_up)

    def close(self) -> None:
        """End the connection: the kernel removes the device, and waiting programs get an error at once."""
        os.close(self._fd)
        if self._made_node:
            with suppress(OSError):
                self.path.unlink()

    def _open_up(self) -> None:
        try:
            if not self.path.exists():
                # No devtmpfs here, as in a container: the kernel has the device, but nobody made its node.
                major, minor = (SYS_CUSE / self.path.name / "dev").read_text().split(":")
                os.mknod(self.path, stat.S_IFCHR | NODE_MODE, os.makedev(int(major), int(minor)))
                self._made_node = True
            os.chmod(self.path, NODE_MODE)
        except (OSError, ValueError) as error:
            raise MountError(f"{self.path}: the kernel did not make the device: {error}") from error

    def _dispatch(self, header: wire.Header, message: memoryview) -> None:
        if header.opcode == wire.Opcode.CUSE_INIT:
            self._connection.send(wire.encode_cuse_init(header.unique, wire.decode_cuse_init(message), self.path.name))
            self._ready.set()
        elif header.opcode == wire.Opcode.OPEN:
            self._endpoint.open(header, message, None)
        elif not self._endpoint.handle(header, message):
            # Never ENOSYS, after which the kernel would not ask again.
            self._connection.send(wire.encode_error(header.unique, errno.EINVAL))
