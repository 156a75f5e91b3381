"""A connection to the kernel, /dev/fuse or /dev/cuse: receives requests one by one, sends replies."""

from __future__ import annotations

import errno
import logging
import os
import select
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import trio

from memnotify_cuse.transport import wire
from memnotify_cuse.transport.endpoint import DeviceEndpoint

log = logging.getLogger(__name__)

# The kernel refuses to read into less than its largest write (libfuse asks for 1 MiB) and the headers.
RECEIVE_BYTES: Final = 1024 * 1024 + 64 * 1024
REQUESTS_PER_TURN: Final = 64
LINGER_S: Final = 0.0002
"""Who asks once often asks again at once. So the next request is waited for, for as long, without a turn of the event
loop, which would take three times as long as serving it."""

ANSWER_S: Final = 0.002
"""How long a program that was woken may take until it asks: on a busy machine it has to get a CPU first."""

TURN_S: Final = 0.0001
"""After so long, what runs on this CPU in our place is interrupted. If that is kswapd, with the program that was woken
behind it, the scheduler chooses anew when we sleep again, and then it is the program's turn: else kswapd goes on to the
end of its slice, some milliseconds."""

NO_REPLY: Final = frozenset({wire.Opcode.FORGET, wire.Opcode.INTERRUPT, wire.Opcode.BATCH_FORGET})
"""Requests that the kernel expects no reply to."""

Dispatch = Callable[[wire.Header, memoryview], None]


class _Got(Enum):
    """What there was to be received: a request (which may have been taken back), nothing, or the connection's end."""

    REQUEST = auto()
    NOTHING = auto()
    END = auto()


class Connection:
    """Requests that arrive on `fd` (non-blocking) go to `dispatch`, whose unexpected exceptions become EIO."""

    def __init__(self, fd: int, dispatch: Dispatch) -> None:
        self._fd = fd
        self._dispatch = dispatch
        self._view = memoryview(bytearray(RECEIVE_BYTES))

    async def serve(self) -> None:
        """Serve requests until the kernel ends the connection."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            for _ in range(REQUESTS_PER_TURN):
                match self._serve_one():
                    case _Got.NOTHING:
                        if not select.select([self._fd], [], [], LINGER_S)[0]:
                            break
                    case _Got.END:
                        return

    def serve_who_was_told(self, endpoint: DeviceEndpoint) -> None:
        """Serve what comes until all whom `endpoint` has woken have asked, but for a moment at most.

        Their questions are about to come: a turn of the event loop, and what else is waiting for one, would keep those
        waiting who are to be told.
        """
        end_s = time.monotonic() + ANSWER_S
        while endpoint.awaits_looks and (left_s := end_s - time.monotonic()) > 0:
            match self._serve_one():
                case _Got.NOTHING:
                    select.select([self._fd], [], [], min(TURN_S, left_s))
                case _Got.END:
                    break
        endpoint.give_up_looks()

    def _serve_one(self) -> _Got:
        """Receive one request, if there is one, and serve it."""
        try:
            length = os.readv(self._fd, [self._view])
        except BlockingIOError:
            return _Got.NOTHING
        except OSError as error:
            # ENOENT: the request was taken back by a signal before it was read.
            if error.errno in (errno.EINTR, errno.ENOENT):
                return _Got.REQUEST
            if error.errno == errno.ENODEV:
                return _Got.END
            raise
        self.receive(self._view[:length])
        return _Got.REQUEST

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
