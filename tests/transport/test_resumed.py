"""A server that goes on where another one was killed, with a kernel that cannot send a request again (before 6.9).

A socket stands in for the kernel, whose version this machine does not have: one end of it outlives each server. It
keeps what a server has received and lost, as that kernel does. `tests/conformance/test_takeover.py` has the real ones.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from memnotify_cuse.device.device import Device
from memnotify_cuse.keeper.statefile import REQUEST_BYTES, StateFile, create_state
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.connection import Connection
from memnotify_cuse.transport.endpoint import READABLE, DeviceEndpoint
from memnotify_cuse.transport.notes import FUSE, FileNotes
from tests.transport.messages import (
    Reply,
    interrupt_request,
    open_request,
    poll_request,
    read_request,
    release_request,
    request,
)
from tests.transport.test_connection import PRESSURE

ZONE = ZoneId(0, "Normal")


class OldKernel(Connection):
    """A connection to a kernel that cannot send a request again."""

    def _ask_again(self) -> bool:
        return False


class Server:
    """A server of the connection `fd`. It is killed by being forgotten."""

    def __init__(self, fd: int, state_fd: int) -> None:
        self.state = StateFile(state_fd)
        self.state.begin()
        self.device = Device(4, next_number=self.state.next_number)
        notes = FileNotes(self.state, FUSE, self.device)
        self.device.on_changed = notes.told
        self.connection = OldKernel(fd, self._dispatch, open_journal=lambda: self.state.journal(FUSE))
        self.endpoint = DeviceEndpoint(self.device, self.connection.send, notes=notes, topic_of=lambda _inode: ZONE)
        if self.state.has_begun:
            self.endpoint.resume()
        self.connection.resume()
        self.endpoint.ends_unknown = self.connection.journals

    def _dispatch(self, header: wire.RequestHeader, message: memoryview) -> None:
        if header.opcode == wire.Opcode.OPEN:
            self.endpoint.open(header, message, None)
        else:
            assert self.endpoint.handle(header, message)

    def serve(self) -> None:
        """Serve what there is."""
        while self.connection._step().name == "REQUEST":
            pass

    def receive_only(self) -> None:
        """Receive what there is, as a server that is killed before it serves."""
        self.connection._first = False
        while self.connection._receive().name == "REQUEST":
            pass


class Bench:
    """The kernel's end, and one server after the other."""

    def __init__(self) -> None:
        self.kernel, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.kernel, self._theirs):
            end.setblocking(False)
        self.state_fd = create_state()
        self.server = self.next()

    def next(self) -> Server:
        self.server = Server(self._theirs.fileno(), self.state_fd)
        return self.server

    def ask(self, message: bytes) -> Reply:
        self.kernel.send(message)
        self.server.serve()
        return self.reply()

    def reply(self) -> Reply:
        return Reply.parse(self.kernel.recv(65536))

    def replies(self) -> list[Reply]:
        found = []
        while True:
            try:
                found.append(self.reply())
            except BlockingIOError:
                return found

    def opened(self) -> int:
        return self.ask(open_request()).number(0, 8)

    def left(self) -> int:
        """How many requests a server would find that were not answered."""
        state = StateFile(self.state_fd)
        state.begin()
        return len(state.journal(FUSE).left)

    def close(self) -> None:
        for end in (self.kernel, self._theirs):
            end.close()
        os.close(self.state_fd)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_what_was_answered_is_not_answered_again(bench: Bench) -> None:
    fh = bench.opened()
    assert bench.ask(poll_request(fh)).number(0, 4) == 0
    assert bench.left() == 0
    bench.next()
    assert bench.replies() == []
    assert bench.ask(poll_request(fh)).number(0, 4) == 0


def test_what_was_received_and_not_served_is_served_by_the_next_one(bench: Bench) -> None:
    fh = bench.opened()
    asked = [poll_request(fh, unique=3), open_request(unique=5), poll_request(fh, unique=7)]
    for message in asked:
        bench.kernel.send(message)
    bench.server.receive_only()
    assert bench.left() == 3
    bench.next()
    assert sorted(each.unique for each in bench.replies()) == [wire.decode_header(message).unique for message in asked]
    assert bench.left() == 0
    assert bench.server.device.open_files == 2


def test_a_read_that_was_held_is_held_on_and_gets_the_next_record(bench: Bench) -> None:
    fh = bench.opened()
    message = read_request(fh)
    bench.kernel.send(message)
    bench.server.serve()
    assert bench.left() == 1
    bench.next()
    assert bench.replies() == []
    assert bench.server.endpoint.held_reads == 1
    bench.server.device.notified((PRESSURE,), 1)
    (reply,) = bench.replies()
    assert (reply.unique, reply.body[-1:]) == (wire.decode_header(message).unique, b"\n")
    assert bench.left() == 0


def test_a_read_that_was_held_can_be_interrupted(bench: Bench) -> None:
    fh = bench.opened()
    message = read_request(fh)
    unique = wire.decode_header(message).unique
    bench.kernel.send(message)
    bench.server.serve()
    bench.next()
    assert bench.ask(interrupt_request(unique)) == Reply(unique, errno.EINTR, b"")
    assert bench.left() == 0


def test_an_interrupt_that_was_received_and_not_heeded_is_heeded(bench: Bench) -> None:
    fh = bench.opened()
    message = read_request(fh)
    unique = wire.decode_header(message).unique
    bench.kernel.send(message)
    bench.server.serve()
    journal = bench.server.connection._journal
    assert journal is not None
    entry = journal.take()
    assert entry is not None
    interrupt = interrupt_request(unique)
    journal.entry(entry)[: len(interrupt)] = interrupt
    bench.next()
    assert bench.replies() == [Reply(unique, errno.EINTR, b"")]
    assert bench.left() == 0


def test_an_interrupt_of_a_request_that_nobody_knows_ends_it(bench: Bench) -> None:
    bench.opened()
    bench.next()
    assert bench.ask(interrupt_request(4242)) == Reply(4242, errno.EINTR, b"")


def test_where_the_kernel_sends_it_again_nothing_unknown_is_ended(bench: Bench) -> None:
    """The kernel tells of an interrupt before it sends the request again; a poll that fails is POLLERR."""
    bench.opened()
    bench.next().endpoint.ends_unknown = False
    bench.kernel.send(interrupt_request(4242))
    bench.server.serve()
    assert bench.replies() == []


def test_a_request_that_is_longer_than_an_entry_is_served_and_ended_if_it_was_lost(bench: Bench) -> None:
    fh = bench.opened()
    padded = request(wire.Opcode.FLUSH, fh.to_bytes(8, "little") + bytes(2 * REQUEST_BYTES))
    assert bench.ask(padded) == Reply(wire.decode_header(padded).unique, 0, b"")
    assert bench.left() == 0
    again = request(wire.Opcode.FLUSH, fh.to_bytes(8, "little") + bytes(2 * REQUEST_BYTES))
    journal = bench.server.connection._journal
    assert journal is not None
    entry = journal.take()
    assert entry is not None
    journal.entry(entry)[:] = again[:REQUEST_BYTES]
    bench.next()
    assert bench.replies() == [Reply(wire.decode_header(again).unique, errno.EINTR, b"")]


def test_whoever_was_picked_and_not_woken_is_woken(bench: Bench) -> None:
    """The server was killed after it had noted that, and before it could say so to the kernel."""
    fh = bench.opened()
    bench.ask(poll_request(fh, kh=77, waiting=True))
    bench.server.device.notified((PRESSURE,), 1)
    assert [reply.error for reply in bench.replies()] == [wire.NOTIFY_POLL]
    bench.next()
    (reply,) = bench.replies()
    assert (reply.error, reply.number(0, 8)) == (wire.NOTIFY_POLL, 77)
    assert bench.ask(poll_request(fh)).number(0, 4) == READABLE


def test_a_file_that_was_not_noted_is_taken_in_when_it_is_used(bench: Bench) -> None:
    bench.opened()
    lost = bench.server.state.next_number()
    bench.next()
    assert bench.ask(poll_request(lost, kh=5, waiting=True)).number(0, 4) == 0
    file = bench.server.device.file(lost)
    assert file is not None
    assert file.topic == ZONE
    bench.server.device.notified((PRESSURE,), 1)
    assert [reply.error for reply in bench.replies()] == [wire.NOTIFY_POLL]
    bench.next()
    assert bench.server.device.file(lost) is not None
    bench.replies()
    bench.ask(release_request(lost))
    bench.next()
    assert bench.server.device.file(lost) is None


def test_an_unknown_file_of_a_new_connection_is_refused(bench: Bench) -> None:
    assert bench.ask(poll_request(99)).error == errno.EBADF
