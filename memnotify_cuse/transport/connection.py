"""A connection to the kernel, /dev/fuse or /dev/cuse: receives requests, serves them in turn by user, sends replies.

A request that comes alone is served at once. Where more than one waits they are received, quickly, and users take
turns; the kernel's own queue is first in first out, whoever has put in how many.

A server that goes on with the connection of another one asks the kernel for the requests which that one had received
and not answered (FUSE_NOTIFY_RESEND, since Linux 6.9). Where the kernel cannot, they are in the state file: each is
received right into it (`RequestJournal`).
"""

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

from memnotify_cuse.accounts import Users
from memnotify_cuse.keeper.statefile import RequestJournal
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.endpoint import DeviceEndpoint
from memnotify_cuse.transport.errorlog import ErrorLog
from memnotify_cuse.transport.flood import WINDOW_S, FloodGauge
from memnotify_cuse.transport.turns import Turns

log = logging.getLogger(__name__)

# The kernel refuses to read into less than its largest write (libfuse asks for 1 MiB) and the headers.
RECEIVE_BYTES: Final = 1024 * 1024 + 64 * 1024
MAX_QUEUED: Final = 4096
MAX_QUEUED_BYTES: Final = 2048
"""Of one request. Longer than the longest name, so what is longer is rare: it is served at once, and not kept."""

RECEIVED_PER_SERVED: Final = 16
"""Receiving takes a tenth of the time that serving takes, so one who comes behind thousands is soon in the queue."""

SERVING_S: Final = 0.0025
"""How long a turn of the event loop serves requests: what else is waiting for one is not to wait longer."""

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

AT_ONCE: Final = NO_REPLY | {
    *(wire.Opcode.RELEASE, wire.Opcode.RELEASEDIR),
    *(wire.Opcode.INIT, wire.Opcode.DESTROY, wire.Opcode.CUSE_INIT),
}
"""Requests that are never queued: they end something, or nothing goes on without them."""

EXPECTED_SEND_ERRORS: Final = (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.EPERM)
"""The request was interrupted, the open file is gone, or the connection has ended."""

Dispatch = Callable[[wire.RequestHeader, memoryview], None]


class _Got(Enum):
    """What there was to be received: a request (which may have been taken back), nothing, or the connection's end."""

    REQUEST = auto()
    NOTHING = auto()
    END = auto()


class Connection:
    """Requests that arrive on `fd` (non-blocking) go to `dispatch`, whose unexpected exceptions become EIO.

    `users` says whose turn a request is. `on_flood` is called with True once requests take more than half of the
    time, and with False once they do not any more. `open_journal` is called where the kernel cannot send a request
    again.
    """

    def __init__(
        self,
        fd: int,
        dispatch: Dispatch,
        users: Users | None = None,
        on_flood: Callable[[bool], None] = lambda _flooded: None,
        errors: ErrorLog | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        open_journal: Callable[[], RequestJournal] | None = None,
    ) -> None:
        self._open_journal = open_journal
        self._journal: RequestJournal | None = None
        self._entries: dict[int, int] = {}
        self._clock_s = clock_s
        self._fd = fd
        self._dispatch = dispatch
        self._users = users or Users()
        self._view = memoryview(bytearray(RECEIVE_BYTES))
        self._queued: Turns[tuple[wire.RequestHeader, bytes]] = Turns()
        self._first = True
        self._gauge = FloodGauge(on_flood)
        self._errors = errors or ErrorLog(log)
        self._ended = False
        self._to_go_on = trio.Event()
        self.served = 0
        """How many requests were served, or passed on."""
        self.is_served_idle = False
        """Whether requests are served while the event loop is idle (`idle`): then the loop does not wait for them."""

    def fileno(self) -> int:
        return self._fd

    @property
    def queued(self) -> int:
        """How many requests were received and wait for their turn."""
        return self._queued.count

    def resume(self) -> None:
        """Take up what another server has received and not answered; on a new connection there is nothing."""
        if self._ask_again() or self._open_journal is None:
            return
        self._journal = self._open_journal()
        interrupts = []
        for entry, message in self._journal.left:
            header = self._header_left(message)
            if header is None or header.opcode in NO_REPLY:
                self._journal.clear(entry)
                if header is not None and header.opcode == wire.Opcode.INTERRUPT:
                    interrupts.append((header, message))
                continue
            self._entries[header.unique] = entry
            if header.length_bytes > len(message):
                # More than an entry holds: it cannot be done again.
                self.send(wire.encode_error(header.unique, errno.EINTR))
            else:
                self._serve(header, memoryview(message))
        self._journal.left.clear()
        for header, message in interrupts:
            self._serve(header, memoryview(message))

    @property
    def journals(self) -> bool:
        """Whether the kernel cannot be asked again for a request that was received."""
        return self._journal is not None

    def _ask_again(self) -> bool:
        """Ask the kernel for what was received and not answered; False if it knows no such thing."""
        try:
            os.write(self._fd, wire.encode_notify_resend())
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS):
                return False
            if error.errno not in EXPECTED_SEND_ERRORS:
                self._errors.unexpected("requests could not be asked for again", error)
        return True

    def _header_left(self, message: wire.Buffer) -> wire.RequestHeader | None:
        try:
            return wire.decode_header(message, whole=False)
        except wire.WireError:
            return None

    def charge(self, busy_s: float) -> None:
        """A request took so long elsewhere."""
        self._gauge.add(busy_s)

    async def serve(self) -> None:
        """Serve requests until the kernel ends the connection."""
        while not self._ended:
            await self._wait()
            self.serve_turn()

    def serve_turn(self) -> bool:
        """Serve what there is, for no longer than a turn; False if `serve` is to go on at once."""
        clock_s = self._clock_s
        now_s = clock_s()
        self._gauge.update(now_s)
        end_s = now_s + SERVING_S
        busy_s = 0.0
        while now_s < end_s:
            began_s, got = now_s, self._step()
            now_s = clock_s()
            if got is _Got.REQUEST:
                busy_s += now_s - began_s
            elif got is _Got.END:
                self._ended = True
                break
            elif self.is_served_idle or not select.select([self._fd], [], [], LINGER_S)[0]:
                break
        self._gauge.add(busy_s)
        self._gauge.update(now_s)
        return not (self._ended or self._queued.count or self._gauge.flooded)

    def go_on(self) -> None:
        """Have `serve` go on."""
        self._to_go_on.set()

    def serve_woken(self, endpoint: DeviceEndpoint) -> None:
        """Serve what comes until all whom `endpoint` has woken have asked, but for a moment at most.

        Their questions are about to come: a turn of the event loop, and what else is waiting for one, would keep those
        waiting who are to be told.
        """
        end_s = time.monotonic() + ANSWER_S
        while endpoint.awaits_looks and (left_s := end_s - time.monotonic()) > 0:
            match self._step():
                case _Got.NOTHING:
                    select.select([self._fd], [], [], min(TURN_S, left_s))
                case _Got.END:
                    break
        endpoint.give_up_looks()

    async def _wait(self) -> None:
        """Until there may be something to serve, or to find out that the flood is over."""
        if self._queued.count:
            await trio.lowlevel.checkpoint()
        elif self._gauge.flooded:
            with trio.move_on_after(WINDOW_S):
                await self._wait_readable()
        else:
            await self._wait_readable()

    async def _wait_readable(self) -> None:
        if self.is_served_idle:
            self._to_go_on = trio.Event()
            await self._to_go_on.wait()
        else:
            await trio.lowlevel.wait_readable(self._fd)

    def _step(self) -> _Got:
        """Receive what there is, but not much at a time, and serve one request, if there is one."""
        queued = self._queued
        got = self._receive()
        if not queued.count:
            return got
        for _ in range(RECEIVED_PER_SERVED):
            if got is not _Got.REQUEST or queued.count >= MAX_QUEUED:
                break
            got = self._receive()
        # What was queued may have been interrupted meanwhile.
        if got is _Got.END or not queued.count:
            return got
        _, (header, message) = queued.take()
        self._serve(header, memoryview(message))
        return _Got.REQUEST

    def _receive(self) -> _Got:
        """Receive one request, if there is one: to be served now if it is the first, else in its turn."""
        journal = self._journal
        entry = journal.take() if journal is not None else None
        try:
            if journal is None or entry is None:
                message = self._view[: os.readv(self._fd, [self._view])]
            else:
                message = self._receive_into(journal, entry)
        except OSError as error:
            if journal is not None and entry is not None:
                journal.give_back(entry)
            if error.errno == errno.EAGAIN:
                self._first = True
                return _Got.NOTHING
            # ENOENT: the request was taken back by a signal before it was read.
            if error.errno in (errno.EINTR, errno.ENOENT):
                return _Got.REQUEST
            if error.errno == errno.ENODEV:
                return _Got.END
            raise
        if self._first and not self._queued.count:
            self._first = False
            self.receive(message)
        else:
            self._queue(message)
        return _Got.REQUEST

    def _receive_into(self, journal: RequestJournal, entry: int) -> memoryview:
        """Receive one request into an entry of the journal, where it stays until its reply is sent. Raises OSError."""
        kept = journal.entry(entry)
        length = os.readv(self._fd, [kept, self._view])
        header = self._header_left(kept[:length])
        if header is not None:
            self._entries[header.unique] = entry
        else:
            journal.clear(entry)
        if length <= len(kept):
            return memoryview(bytes(kept[:length]))
        return memoryview(bytes(kept) + bytes(self._view[: length - len(kept)]))

    def _done(self, unique: int) -> None:
        """The request was answered, or needs no answer and was heeded."""
        entry = self._entries.pop(unique, None)
        if entry is not None and self._journal is not None:
            self._journal.clear(entry)

    def receive(self, message: memoryview) -> None:
        """Take one message; whatever is wrong with it, it is logged, answered, and the next one can come."""
        header = self._header(message)
        if header is not None:
            self._serve(header, message)

    def _queue(self, message: memoryview) -> None:
        header = self._header(message)
        if header is None:
            return
        if header.opcode == wire.Opcode.IOCTL:
            # What a program gives along is not looked at.
            message = message[:MAX_QUEUED_BYTES]
        if header.opcode in AT_ONCE or len(message) > MAX_QUEUED_BYTES:
            if not self._ends_queued(header, message):
                self._serve(header, message)
        else:
            self._queued.put(self._users.of(header.uid), header.unique, (header, bytes(message)))

    def _header(self, message: memoryview) -> wire.RequestHeader | None:
        try:
            return wire.decode_header(message)
        except wire.WireError as error:
            self._errors.unexpected("a message from the kernel was not understood", error)
            return None

    def _serve(self, header: wire.RequestHeader, message: memoryview) -> None:
        try:
            self._dispatch(header, message)
            self.served += 1
        except Exception as error:
            self._errors.unexpected(f"unexpected error in request {header.opcode}; answered with EIO", error)
            if header.opcode not in NO_REPLY:
                self.send(wire.encode_error(header.unique, errno.EIO))
        if self._entries and header.opcode in NO_REPLY:
            self._done(header.unique)

    def _ends_queued(self, header: wire.RequestHeader, message: memoryview) -> bool:
        """Whether it is the INTERRUPT of a request whose turn has not come, which then is ended."""
        if header.opcode != wire.Opcode.INTERRUPT or len(message) < wire.INTERRUPT_BYTES:
            return False
        unique = wire.decode_interrupt(message)
        interrupted = self._queued.remove(unique)
        if interrupted is None:
            return False
        queued_header, queued = interrupted
        if queued_header.opcode == wire.Opcode.POLL:
            # To the kernel any error in answer to a poll is POLLERR, which is what the program would see.
            self._serve(queued_header, memoryview(queued))
        else:
            self.send(wire.encode_error(unique, errno.EINTR))
        self._done(header.unique)
        return True

    def send(self, message: bytes) -> None:
        """Write a reply or notification; writing to the kernel's end never blocks."""
        try:
            os.write(self._fd, message)
        except OSError as error:
            if error.errno not in EXPECTED_SEND_ERRORS:
                self._errors.unexpected("a message to the kernel failed", error)
        if self._entries:
            self._done(wire.unique_of_reply(message))
