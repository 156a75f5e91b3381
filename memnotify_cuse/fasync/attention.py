"""The page in which a helper notes whom it is about to touch, so that the server knows who held it up.

A helper that hangs can say nothing any more. So it writes the process, and its user, into memory that it shares with
the server before each step that may wait.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

PAGE_BYTES: Final = 4096
UNKNOWN_UID: Final = 0xFFFFFFFF
OURSELVES: Final = -1
_TOUCHED: Final = struct.Struct("=iII")


class Touched(NamedTuple):
    """Process `pid` of the real user `uid` (UNKNOWN_UID: it was being asked), in step `step`.

    `pid` 0 is none, OURSELVES our own server.
    """

    pid: int
    uid: int
    step: int = 0


def make_page() -> int:
    """A descriptor of a new page."""
    fd = os.memfd_create("memnotify-attention", os.MFD_CLOEXEC)
    os.ftruncate(fd, PAGE_BYTES)
    return fd


class Attention:
    """The page behind `fd`, which can be closed afterwards."""

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, PAGE_BYTES)
        self._now = Touched(0, UNKNOWN_UID)

    def note(self, pid: int, uid: int) -> None:
        """Process `pid` of user `uid` is touched from now on."""
        step = (self._now.step + 1) & 0xFFFFFFFF
        self._now = Touched(pid, uid, step)
        _TOUCHED.pack_into(self._page, 0, pid, uid, step)

    def step(self) -> None:
        """The next thing is done with the same process."""
        self.note(self._now.pid, self._now.uid)

    @contextmanager
    def on_ourselves(self) -> Iterator[None]:
        """For the block, which asks our own server: whatever that takes is no client's fault."""
        before = self._now
        self.note(OURSELVES, UNKNOWN_UID)
        try:
            yield
        finally:
            self.note(before.pid, before.uid)

    def read(self) -> Touched:
        return Touched(*_TOUCHED.unpack_from(self._page, 0))

    def close(self) -> None:
        self._page.close()
