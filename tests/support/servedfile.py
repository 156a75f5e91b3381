"""A file whose server can end and begin anew, as one of lxcfs: a FUSE file system of one file with a text in it."""

from __future__ import annotations

import errno
import struct
import time
from pathlib import Path
from typing import Final

from tests.support.onefile import INTERRUPT, RELEASE, OneFile

_READ_IN: Final = struct.Struct("=QQI")
_ATTR_OUT: Final = struct.Struct("=QII6Q10I")
_FORGET, _GETATTR, _READ = 2, 3, 15
_DIRECT_IO: Final = 1
_MODE: Final = 0o100444


class ServedFile(OneFile):
    """The file at `path`, for the block, for root to make."""

    def __init__(self, path: Path, text: bytes) -> None:
        super().__init__(path, "served", _MODE, _DIRECT_IO)
        self.begin_with(text)

    def __enter__(self) -> ServedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        self.unmount()

    def begin_with(self, text: bytes) -> None:
        """Serve `text`, in place of what an earlier server has left: its open files have a dead descriptor."""
        self.unmount()
        self.text = text
        self.begin()

    def heed(self, opcode: int, unique: int, body: bytes) -> None:
        if opcode == _GETATTR:
            now_s = int(time.time())
            attributes = (1, 0, 0, now_s, now_s, now_s, 0, 0, 0, _MODE, 1, 0, 0, 0, 4096, 0)
            self.answer(unique, _ATTR_OUT.pack(0, 0, 0, *attributes))
        elif opcode == _READ:
            _, offset, size = _READ_IN.unpack_from(body)
            self.answer(unique, self.text[offset : offset + size])
        elif opcode == RELEASE:
            self.answer(unique, b"")
        elif opcode not in (INTERRUPT, _FORGET):
            self.refuse(unique, errno.ENOSYS)
