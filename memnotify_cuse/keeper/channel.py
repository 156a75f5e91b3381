"""Short messages with descriptors between the keeper and the server it forked: one line of text each, in both
directions.

From the server (which has no rights, and is not trusted beyond these words):

    up                      it answers requests: what needs an answer can be done
    failed TEXT             it cannot start; TEXT is for the user
    cuse                    the kernel has made the character device
    helper                  one more SIGIO helper is wanted
    replace PID             helper PID is held up by a client: kill it
    trace                   try again to have a trace instance

From the keeper:

    helper PID              and two descriptors: the socket of a helper, and its page of attention (`fasync.attention`)
    trace                   and the descriptors of a trace instance: trace_pipe, tracing_on
    no-trace again|never    there is none; "again": only for want of memory
    stop                    end
"""

from __future__ import annotations

import os
import socket
from typing import Final, NamedTuple

MESSAGE_BYTES: Final = 4096
MAX_DESCRIPTORS: Final = 4


class Message(NamedTuple):
    """A word, what follows it, and descriptors that belong to who receives it."""

    word: str
    rest: str
    fds: tuple[int, ...]


class Channel:
    """One end of the channel; non-blocking."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, word: str, rest: str = "", fds: tuple[int, ...] = ()) -> bool:
        """Send a message; False if the other end is gone or does not read."""
        text = f"{word} {rest}".encode(errors="replace")[:MESSAGE_BYTES]
        try:
            socket.send_fds(self._socket, [text], list(fds))
        except OSError:
            return False
        return True

    def receive(self) -> Message | None:
        """The next message, None when there is none. EOFError when the other end is gone."""
        try:
            data, fds, _flags, _address = socket.recv_fds(self._socket, MESSAGE_BYTES, MAX_DESCRIPTORS)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            raise EOFError from None
        if not data:
            raise EOFError
        for fd in fds:
            os.set_inheritable(fd, False)
        word, _, rest = data.decode(errors="replace").partition(" ")
        return Message(word, rest, tuple(fds))

    def close(self) -> None:
        self._socket.close()
