"""The way to pyfuse3 and back: few requests at a time, and users take turns for them.

pyfuse3 speaks FUSE over a sequenced-packet socket in place of /dev/fuse. What it is asked faster than it answers waits
here, not in the socket, where it would be served first in first out: one user's thousands before another user's one.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import Final

import trio

from memnotify_cuse.accounts import Account, Bounds, OverBoundError, Users
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.holdings import Holdings
from memnotify_cuse.transport.turns import Turns

PYFUSE3_TASKS: Final = 2
"""No handler waits for anything, so that more would not be served sooner: they would only be a queue, first in first
out. (Another user's slowest use beside 3,000 threads that read texts: 1 to 4 s with 16, 0.1 s with 2.)"""

MAX_FORWARDED_BYTES: Final = 64 * 1024
MAX_REPLY_BYTES: Final = 256 * 1024
WAITING_BOUNDS: Final = Bounds(total=4096, per_user=256, root_reserve=256)
MAX_CHARGE_S: Final = 0.001
"""One request is taken to have cost no more: if its reply took longer, something else was busy meanwhile."""


class Forwarder:
    """Passes requests to pyfuse3, which is to serve `theirs`, and its replies to `send`.

    `charge` is told what each request cost, in seconds.
    """

    def __init__(
        self, send: Callable[[bytes], None], users: Users, charge: Callable[[float], None] = lambda _seconds: None
    ) -> None:
        self._send = send
        self._users = users
        self._charge = charge
        self._in_flight: dict[int, float] = {}
        self._replayed: set[int] = set()
        self._last_reply_s = 0.0
        self._waiting: Turns[bytes] = Turns()
        self._holdings = Holdings(Account(WAITING_BOUNDS), users)
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)

    @property
    def waiting(self) -> int:
        """How many requests wait to be passed on."""
        return self._waiting.count

    def forward(self, header: wire.RequestHeader, message: wire.Buffer) -> None:
        """Pass on a request, now or in its turn; EBUSY for a user of whom too many wait already."""
        if len(message) > MAX_FORWARDED_BYTES:
            self._send(wire.encode_error(header.unique, errno.EINVAL))
        elif self._waiting.count or not self._pass_on(header.unique, message):
            try:
                self._holdings.take(header.unique, header.uid)
            except OverBoundError:
                self._send(wire.encode_error(header.unique, errno.EBUSY))
                return
            self._waiting.put(self._users.of(header.uid), header.unique, bytes(message))

    def replay(self, message: bytes) -> None:
        """Give pyfuse3 a request that the kernel had an answer to long ago, and keep its reply from the kernel."""
        self._replayed.add(wire.decode_header(message).unique)
        self._ours.send(message)

    def interrupt(self, unique: int) -> bool:
        """End a request that still waits with EINTR; False if none of that number was forwarded.

        One that pyfuse3 has already is about to be answered.
        """
        if unique in self._in_flight:
            return True
        message = self._waiting.remove(unique)
        if message is None:
            return False
        header = wire.decode_header(message)
        if header.opcode == wire.Opcode.POLL:
            # To the kernel any error in answer to a poll is POLLERR, which is what the program would see.
            self._waiting.put(self._users.of(header.uid), unique, message)
            return True
        self._holdings.give_back(unique)
        self._send(wire.encode_error(unique, errno.EINTR))
        return True

    async def pass_replies(self) -> None:
        """Pass replies on until pyfuse3 closes its end."""
        while True:
            await trio.lowlevel.wait_readable(self._ours)
            # No more than there can be: a user who has pyfuse3 busy is not to have this loop busy.
            for _ in range(PYFUSE3_TASKS):
                try:
                    reply = self._ours.recv(MAX_REPLY_BYTES)
                except BlockingIOError:
                    break
                if not reply:
                    return
                unique = wire.unique_of_reply(reply)
                if unique in self._replayed:
                    self._replayed.remove(unique)
                    continue
                self._replied(unique)
                self._send(reply)

    def close(self) -> None:
        self._ours.close()

    def _replied(self, unique: int) -> None:
        sent_s = self._in_flight.pop(unique, None)
        if sent_s is None:
            return
        # They are served one at a time, so this one had to wait until the one before it was done.
        now_s = time.monotonic()
        self._charge(min(now_s - max(sent_s, self._last_reply_s), MAX_CHARGE_S))
        self._last_reply_s = now_s
        while self._waiting.count:
            waiting, message = self._waiting.next()
            if not self._pass_on(waiting, message):
                break
            self._waiting.take()
            self._holdings.give_back(waiting)

    def _pass_on(self, unique: int, message: wire.Buffer) -> bool:
        if len(self._in_flight) >= PYFUSE3_TASKS:
            return False
        try:
            self._ours.send(message)
        except BlockingIOError:
            return False
        self._in_flight[unique] = time.monotonic()
        return True
