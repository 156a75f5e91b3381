"""A file that counts how often the kernel asks whether it is readable: a FUSE file system of one file."""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
from pathlib import Path
from typing import Final

from tests.support.onefile import INTERRUPT, RELEASE, OneFile

_POLL_IN: Final = struct.Struct("=QQII")
_POLL_OUT: Final = struct.Struct("=II")
_NOTIFICATION: Final = struct.Struct("=IiQQ")
_FORGET, _FLUSH, _POLL = 2, 25, 40
_NOTIFY_POLL: Final = 1
_MODE: Final = 0o100444


class AskedFile(OneFile):
    """The file at `path`, for the block, for root to make. It is readable from `wake` on, however often it is asked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "asked", _MODE)
        self.asked = 0
        self.ready = False
        self._handle: int | None = None
        self._change = threading.Lock()

    def __enter__(self) -> AskedFile:
        self.begin()
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        self.unmount()

    def wake(self) -> None:
        """It is readable now, and who sleeps is woken. `asked` counts from here."""
        with self._change:
            self.asked, self.ready = 0, True
        assert self._handle is not None, "nobody has asked"
        os.write(self._fd, _NOTIFICATION.pack(_NOTIFICATION.size, _NOTIFY_POLL, 0, self._handle))

    def heed(self, opcode: int, unique: int, body: bytes) -> None:
        if opcode == _POLL:
            _, self._handle, _, _ = _POLL_IN.unpack_from(body)
            with self._change:
                self.asked += 1
                ready = self.ready
            self.answer(unique, _POLL_OUT.pack(select.POLLIN if ready else 0, 0))
        elif opcode in (RELEASE, _FLUSH):
            self.answer(unique, b"")
        elif opcode not in (INTERRUPT, _FORGET):
            self.refuse(unique, errno.ENOSYS)
