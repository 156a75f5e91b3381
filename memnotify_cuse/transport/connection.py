"""A connection to the kernel, /dev/fuse or /dev/cuse: receives requests one by one, sends replies."""

from __future__ import annotations

import errno
import logging
import os
import select
from collections.abc import Callable
from typing import Final

import trio

from memnotify_cuse.transport import wire

log = logging.getLogger(__name__)

# The kernel refuses to read into less than its largest write (libfuse asks for 1 MiB) and the headers.
RECEIVE_BYTES: Final = 1024 * 1024 + 64 * 1024
REQUESTS_PER_TURN: Final = 64
LINGER_S: Final = 0.0002
"""Who asks once often asks again at once. So the next request is waited for, for as long, without a turn of the event
loop, which would take three times as long as serving it."""

NO_REPLY: Final = frozenset({wire.Opcode.FORGET, wire.Opcode.INTERRUPT, wire.Opcode.BATCH_FORGET})
"""Requests that the kernel expects no reply to."""

Dispatch = Callable[[wire.Header, memoryview], None]


class Connection:
    """Requests that arrive on `fd` (non-blocking) go to `dispatch`, whose unexpected exceptions become EIO."""

    def __init__(self, fd: int, dispatch: Dispatch) -> None:
        self._fd = fd
        self._dispatch = dispatch
        self._buffer = bytearray(RECEIVE_BYTES)

    async def serve(self) -> None:
        """Serve requests until the kernel ends the connection."""
        view = memoryview(self._buffer)
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            for _ in range(REQUESTS_PER_TURN):
                try:
                    length = os.readv(self._fd, [view])
                except BlockingIOError:
                    if not select.select([self._fd], [], [], LINGER_S)[0]:
                        break
                    continue
                except OSError as error:
                    # ENOENT: the request was taken back by a signal before it was read.
                    if error.errno in (errno.EINTR, errno.ENOENT):
                        continue
                    if error.errno == errno.ENODEV:
                        return
                    raise
                self.receive(view[:length])

    def receive(self, message: memoryview) -> None:
        """Take one message; whatever is wrong with it, it is logged, answered, and the next one can come."""
        try:
            header = wire.decode_header(message)
        except wire.WireError:
            log.exception("a message from the kernel was not understood")
            return
        try:
            self._dispatch(header, message)
        except Exception:
            log.exception("unexpected error in request %d; answered with EIO", header.opcode)
            if header.opcode not in NO_REPLY:
                self.send(wire.encode_error(header.unique, errno.EIO))

    def send(self, message: bytes) -> None:
        """Write a reply or notification; writing to the kernel's end never blocks."""
        try:
            os.write(self._fd, message)
        except OSError as error:
            # The request was interrupted, the open file is gone, or the connection has ended.
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.EPERM):
                log.error("a message to the kernel failed: %s", error.strerror)
