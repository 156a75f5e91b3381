"""A file whose server can end and begin anew, as one of lxcfs: a FUSE file system of one file with a text in it."""

from __future__ import annotations

import os
import select
import struct
import threading
import time
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel import libc
from tests.support.server import unmount

_IN: Final = struct.Struct("=IIQQIIIHH")
_OUT: Final = struct.Struct("=IiQ")
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHHII24x")
_OPEN_OUT: Final = struct.Struct("=QIi")
_READ_IN: Final = struct.Struct("=QQI")
_ATTR_OUT: Final = struct.Struct("=QII6Q10I")
_GETATTR, _OPEN, _READ, _RELEASE, _INIT, _INTERRUPT, _FORGET = 3, 14, 15, 18, 26, 36, 2
_DIRECT_IO: Final = 1
_ENOSYS: Final = 38


class ServedFile:
    """The file at `path`, for the block, for root to make."""

    def __init__(self, path: Path, text: bytes) -> None:
        self.path = path
        path.touch()
        self.begin(text)

    def __enter__(self) -> ServedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        unmount(self.path)

    def begin(self, text: bytes) -> None:
        """Serve `text`, in place of what an earlier server has left."""
        unmount(self.path)
        self.text = text
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self._stop_read, self._stop_write = os.pipe()
        data = f"fd={self._fd},rootmode=100444,user_id=0,group_id=0,allow_other"
        libc.mount("served", str(self.path), "fuse", libc.MS_NOSUID | libc.MS_NODEV, data)
        self._thread: threading.Thread | None = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the server: whoever has the file open is left with a dead descriptor."""
        if self._thread is None:
            return
        os.close(self._stop_write)
        self._thread.join()
        self._thread = None
        os.close(self._fd)
        os.close(self._stop_read)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop_read in ready:
                return
            try:
                message = os.read(self._fd, 1 << 20)
            except OSError:
                return
            _, opcode, unique, *_ = _IN.unpack_from(message)
            body = message[_IN.size :]
            if opcode == _INIT:
                self._answer(unique, _INIT_OUT.pack(7, 31, 0, 0, 16, 12, 4096, 1, 1, 0, 0, 0))
            elif opcode == _GETATTR:
                now_s = int(time.time())
                attributes = (1, 0, 0, now_s, now_s, now_s, 0, 0, 0, 0o100444, 1, 0, 0, 0, 4096, 0)
                self._answer(unique, _ATTR_OUT.pack(0, 0, 0, *attributes))
            elif opcode == _OPEN:
                self._answer(unique, _OPEN_OUT.pack(1, _DIRECT_IO, 0))
            elif opcode == _READ:
                _, offset, size = _READ_IN.unpack_from(body)
                self._answer(unique, self.text[offset : offset + size])
            elif opcode == _RELEASE:
                self._answer(unique, b"")
            elif opcode not in (_INTERRUPT, _FORGET):
                os.write(self._fd, _OUT.pack(_OUT.size, -_ENOSYS, unique))

    def _answer(self, unique: int, body: bytes) -> None:
        os.write(self._fd, _OUT.pack(_OUT.size + len(body), 0, unique) + body)
