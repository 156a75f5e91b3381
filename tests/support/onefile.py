"""A FUSE file system of one file, served by a thread of the test: the base of those that hang, and that begin anew."""

from __future__ import annotations

import os
import select
import struct
import threading
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel import libc
from tests.support.server import unmount

_IN: Final = struct.Struct("=IIQQIIIHH")
_OUT: Final = struct.Struct("=IiQ")
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHHII24x")
_OPEN_OUT: Final = struct.Struct("=QIi")
OPEN: Final = 14
RELEASE: Final = 18
INIT: Final = 26
INTERRUPT: Final = 36


class OneFile:
    """The file at `path`, for root to make; `begin` serves it, `end` ends the connection. `heed` answers."""

    def __init__(self, path: Path, name: str, mode: int, open_flags: int = 0) -> None:
        self.path = path
        self._name = name
        self._mode = mode
        self._open_flags = open_flags
        self._thread: threading.Thread | None = None
        path.touch()

    def begin(self) -> None:
        """Mount it, and serve."""
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self._stop_read, self._stop_write = os.pipe()
        data = f"fd={self._fd},rootmode={self._mode:o},user_id=0,group_id=0,allow_other"
        libc.mount(self._name, str(self.path), "fuse", libc.MS_NOSUID | libc.MS_NODEV, data)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the connection, and with it the requests that wait. The mount stays."""
        if self._thread is None:
            return
        os.close(self._stop_write)
        self._thread.join()
        self._thread = None
        os.close(self._fd)
        os.close(self._stop_read)

    def unmount(self) -> None:
        """Remove what is mounted there; nothing is fine."""
        unmount(self.path)

    def heed(self, opcode: int, unique: int, body: bytes) -> None:
        """Any request but INIT and OPEN."""
        raise NotImplementedError

    def answer(self, unique: int, body: bytes) -> None:
        os.write(self._fd, _OUT.pack(_OUT.size + len(body), 0, unique) + body)

    def refuse(self, unique: int, errno: int) -> None:
        os.write(self._fd, _OUT.pack(_OUT.size, -errno, unique))

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
            if opcode == INIT:
                self.answer(unique, _INIT_OUT.pack(7, 31, 0, 0, 16, 12, 4096, 1, 1, 0, 0, 0))
            elif opcode == OPEN:
                self.answer(unique, _OPEN_OUT.pack(1, self._open_flags, 0))
            else:
                self.heed(opcode, unique, message[_IN.size :])
