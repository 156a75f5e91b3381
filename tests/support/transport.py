"""The transports that the conformance suite runs over, and the few points in which their devices may differ."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memnotify_cuse.keeper.chardev import cuse_problem
from tests.support.server import mount_problem

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Transport:
    """How programs come to the device, and what the kernel decides without asking the server."""

    name: str
    is_file_type: Callable[[int], bool]
    """FUSE shows a regular file; only CUSE makes a device."""
    seek_errors: dict[str, str]
    """FUSE takes FOPEN_NONSEEKABLE from the reply to open. CUSE does not look at it (fs/fuse/cuse.c): lseek succeeds
    and does nothing (noop_llseek), and pread is a read."""
    open_truncates: str
    """O_RDONLY | O_TRUNC: it truncates a regular file, which is writing; for a device the kernel drops the flag."""
    truncate: str
    """truncate(2): of a regular file it is writing; of anything else it is invalid before rights are looked at."""
    fionread: str
    """FIONREAD: the kernel itself answers for a regular file, size less position, which is 0; a device is asked."""
    open_when_dead: str
    """open(2) after the server was killed: the mount stays until the next start; the device goes with its server."""

    def problem(self) -> str | None:
        """Why it cannot be had here, None if it can."""
        if self is CUSE:
            if os.geteuid() != 0:
                return "only root can make a character device"
            return mount_problem() or cuse_problem()
        return mount_problem()

    def node(self, directory: Path) -> Path:
        """A new path for a device outside the mount; only root can have one."""
        if self is CUSE:
            return Path(f"/dev/memnotify-test-{os.getpid()}-{next(_numbers)}")
        return directory / "node"


FUSE: Final = Transport(
    name="fuse",
    is_file_type=stat.S_ISREG,
    seek_errors=dict.fromkeys(("lseek", "lseek-end", "pread", "preadv"), "ESPIPE"),
    open_truncates="EACCES",
    truncate="EACCES",
    fionread="",
    open_when_dead="ENOTCONN",
)
CUSE: Final = Transport(
    name="cuse",
    is_file_type=stat.S_ISCHR,
    seek_errors={"lseek": "", "lseek-end": "", "pread": "EAGAIN", "preadv": "EAGAIN"},
    open_truncates="",
    truncate="EINVAL",
    fionread="ENOTTY",
    open_when_dead="ENOENT",
)
TRANSPORTS: Final = {each.name: each for each in (FUSE, CUSE)}
