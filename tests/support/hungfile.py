"""A file that can be opened and that answers nothing else: a FUSE file system of one file, as any user may have one."""

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
_OPEN: Final = 14
_RELEASE: Final = 18
_INIT: Final = 26
_INTERRUPT: Final = 36
_UNASKED: Final = frozenset({_RELEASE, _INTERRUPT})


class HungFile:
    """The file at `path`, for the block, for root to make. `asked` has the requests that wait for an answer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[int] = []
        path.touch()
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self._stop_read, self._stop_write = os.pipe()
        data = f"fd={self._fd},rootmode=100644,user_id=0,group_id=0,allow_other"
        libc.mount("hung", str(path), "fuse", libc.MS_NOSUID | libc.MS_NODEV, data)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> HungFile:
        return self

    def __exit__(self, *error: object) -> None:
        unmount(self.path)
        os.close(self._stop_write)
        self._thread.join()
        # The connection ends with its last descriptor, and so do the requests that wait.
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
            if opcode == _INIT:
                self._answer(unique, _INIT_OUT.pack(7, 31, 0, 0, 16, 12, 4096, 1, 1, 0, 0, 0))
            elif opcode == _OPEN:
                self._answer(unique, _OPEN_OUT.pack(1, 0, 0))
            elif opcode not in _UNASKED:
                self.asked.append(opcode)

    def _answer(self, unique: int, body: bytes) -> None:
        os.write(self._fd, _OUT.pack(_OUT.size + len(body), 0, unique) + body)
