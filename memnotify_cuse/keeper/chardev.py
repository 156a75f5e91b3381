"""The node of the character device: what has to be looked after beside the connection to /dev/cuse.

The kernel makes the node in devtmpfs, with mode 0600, and removes it with the connection. Where there is no devtmpfs,
as in a container, the node is made here. Source: fs/fuse/cuse.c.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from memnotify_cuse.keeper.children import whole_step
from memnotify_cuse.keeper.mount import MountError, clear_placeholder
from memnotify_cuse.kernel.statx import FileId

log = logging.getLogger(__name__)

DEV_CUSE: Final = "/dev/cuse"
SYS_CUSE: Final = Path("/sys/class/cuse")
SYS_CHAR: Final = Path("/sys/dev/char")
NODE_MODE: Final = 0o444
REMOVAL_S: Final = 2.0
MADE_S: Final = 20.0
PAUSE_S: Final = 0.01


def cuse_problem(dev_cuse: Path | None = None) -> str | None:
    """Why there can be no character device here, None if there can be one."""
    dev_cuse = dev_cuse or Path(DEV_CUSE)
    try:
        os.close(os.open(dev_cuse, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return f"{dev_cuse}: {error.strerror}"
    return None


def is_served(path: Path, sys_cuse: Path | None = None) -> bool:
    """Whether the kernel has a character device of that name, as far as we may see."""
    # Unlike Path.exists(), this raises nothing where /sys is closed to us.
    return os.path.exists((sys_cuse or SYS_CUSE) / path.name)


def open_cuse(path: Path) -> int:
    """A connection for the character device `path`, a name directly under /dev. MountError if there can be none."""
    if path.parent != Path("/dev"):
        raise MountError(f"{path}: a character device needs a name directly under /dev; use --node fuse")
    clear_placeholder(path)
    _wait_until_removed(path)
    if is_served(path):
        raise MountError(f"{path}: memnotify is already serving there")
    _clear_dead_node(path)
    if os.path.lexists(path):
        raise MountError(f"{path}: exists already")
    try:
        return os.open(DEV_CUSE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MountError(f"{DEV_CUSE}: {error.strerror}; the kernel needs CUSE (modprobe cuse)") from error


def _wait_until_removed(path: Path) -> None:
    """The kernel removes the node of a server that was just killed first, and only then its name."""
    deadline_s = time.monotonic() + REMOVAL_S
    while not os.path.lexists(path) and is_served(path) and time.monotonic() < deadline_s:
        time.sleep(PAUSE_S)


def _clear_dead_node(path: Path) -> None:
    """Remove a node that a killed server made where there is no devtmpfs, which would have removed it."""
    with suppress(FileNotFoundError):
        left = path.lstat()
        device = f"{os.major(left.st_rdev)}:{os.minor(left.st_rdev)}"
        if left.st_mode == stat.S_IFCHR | NODE_MODE and not os.path.exists(SYS_CHAR / device):
            log.warning("%s: removing the node that a killed server left behind", path)
            path.unlink()


class CharacterDevice:
    """The node at `path` of a device that the kernel has made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def file_id(self) -> FileId:
        """The device's number. Asks the kernel alone."""
        number = self.path.stat().st_rdev
        return FileId(True, os.major(number), os.minor(number))

    def open_up(self, undo: Callable[[str], None]) -> None:
        """Let every user open it for reading, once the kernel has made it. Raises MountError."""
        made = SYS_CUSE / self.path.name / "dev"
        deadline_s = time.monotonic() + MADE_S
        while not os.path.exists(made):
            if time.monotonic() > deadline_s:
                raise MountError(f"{self.path}: the kernel did not make the device within {MADE_S:g} s")
            time.sleep(PAUSE_S)
        try:
            if not os.path.lexists(self.path):
                major, minor = made.read_text().split(":")
                # devtmpfs may be about to make it, after what is in /sys.
                with suppress(FileExistsError), whole_step():
                    os.mknod(self.path, stat.S_IFCHR | NODE_MODE, os.makedev(int(major), int(minor)))
                    node = self.path.lstat()
                    undo(f"unlink {node.st_dev} {node.st_ino} {self.path}")
            os.chmod(self.path, NODE_MODE)
        except (OSError, ValueError) as error:
            raise MountError(f"{self.path}: the kernel did not make the device: {error}") from error
