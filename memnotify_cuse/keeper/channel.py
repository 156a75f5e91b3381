"""Short messages with descriptors between processes of ours: a word and a rest, as text.

To the keeper, from what sets the server up (`setup`):

    given NAMES WORDS       what each server is to be given, with the descriptors of these names (`handover`)
    undo WHAT               what is to be undone at the end, see `undo`
    device KIND MAJOR MINOR what tells our files from others (`kernel.statx.FileId`), for the helpers
    mount PATH              where a helper may ask whether the server answers
    inodes FIRST            the same, where our files can be told by their inodes
    identity UID GID        the user that server and helpers are
    trace-at PATH           where a trace instance may be made later, if the server asks for it
    ready                   the device can be opened

To the keeper, from the server, on a channel of its own: it is not trusted beyond these words.

    prepared                all is imported and open: it can take over
    alive                   it serves; from then on it notes in the state file that it does (`heartbeat`)
    status TEXT             what the service manager is to show
    helpers                 start the parent of the SIGIO helpers (`fasync.forker`)
    trace                   try again to have a trace instance

From the keeper, to the server:

    given NAMES WORDS       what it is to serve, with the descriptors
    take NUMBER             serve it, in place of NUMBER servers before
    go                      the device can be opened: scan
    retire                  end at once: the next server goes on
    helpers                 and the socket of that process
    no-helpers              none could be started
    trace PATH              and the descriptors of a trace instance: trace_pipe, tracing_on
    no-trace again|never    there is none; "again": only for want of memory
    stop                    end

This module, like all that the keeper imports, imports little: the keeper is there for as long as the machine runs.
"""

from __future__ import annotations

import os
import socket

MESSAGE_BYTES = 8192
MAX_DESCRIPTORS = 8

Message = tuple[str, str, tuple[int, ...]]
"""A word, what follows it, and descriptors that belong to the receiver."""


class Channel:
    """One end of the channel; non-blocking."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    @classmethod
    def of(cls, fd: int) -> Channel:
        """The channel whose end is the descriptor `fd`, which it takes over."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, word: str, rest: str = "", fds: tuple[int, ...] = ()) -> bool:
        """Send a message; False if the other end is gone or does not read."""
        text = os.fsencode(f"{word} {rest}")
        if len(text) > MESSAGE_BYTES:
            return False
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
        word, _, rest = os.fsdecode(data).partition(" ")
        return word, rest, tuple(fds)

    def close(self) -> None:
        self._socket.close()
