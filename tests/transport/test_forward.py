"""The way to pyfuse3: a socket in its place, so that it answers when the test says so."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
import trio

from memnotify_cuse.accounts import Users
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.forward import PYFUSE3_TASKS, WAITING_BOUNDS, Forwarder
from tests.transport.messages import Reply, request

LIMIT_S = 10
ATTACKER, HONEST = 65534, 1000


class Bench:
    def __init__(self) -> None:
        self._sent: list[bytes] = []
        self.charged: list[float] = []
        self.forwarder = Forwarder(self._sent.append, Users(), self.charged.append)
        self.forwarder.theirs.setblocking(False)
        self._unique = 0

    def ask(self, uid: int, opcode: int = wire.Opcode.OPEN) -> int:
        """An open of `status`, or another request; its unique."""
        self._unique += 1
        message = request(opcode, bytes(24), inode=4, unique=self._unique, uid=uid)
        self.forwarder.forward(wire.decode_header(message), memoryview(message))
        return self._unique

    def replies(self) -> list[Reply]:
        sent, self._sent[:] = list(self._sent), []
        return [Reply.parse(message) for message in sent]

    def arrived(self) -> list[tuple[int, int]]:
        """Unique and user of what has reached pyfuse3 since the last look."""
        headers = []
        while True:
            try:
                headers.append(wire.decode_header(self.forwarder.theirs.recv(65536)))
            except BlockingIOError:
                return [(header.unique, header.uid) for header in headers]

    async def answer(self, uniques: list[int]) -> None:
        """pyfuse3 answers these, and the answers arrive."""
        for unique in uniques:
            self.forwarder.theirs.send(wire.encode_error(unique, 0))
        with trio.fail_after(LIMIT_S):
            while len(self._sent) < len(uniques):
                await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self.forwarder.close()
        self.forwarder.theirs.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_no_more_are_passed_on_than_are_served_at_a_time(bench: Bench) -> None:
    for _ in range(PYFUSE3_TASKS + 5):
        bench.ask(HONEST)
    assert len(bench.arrived()) == PYFUSE3_TASKS
    assert bench.forwarder.waiting == 5


def test_another_user_s_request_is_the_next_but_one_to_be_passed_on(bench: Bench) -> None:
    async def main() -> None:
        for _ in range(200):
            bench.ask(ATTACKER)
        honest = bench.ask(HONEST)
        first = [unique for unique, _ in bench.arrived()]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.forwarder.pass_replies)
            await bench.answer(first[:2])
            assert honest in [unique for unique, _ in bench.arrived()]
            nursery.cancel_scope.cancel()
        assert all(0 <= cost < 1 for cost in bench.charged)
        assert len(bench.charged) == 2

    trio.run(main)


def test_beyond_its_bound_a_user_gets_ebusy_and_nobody_else_does(bench: Bench) -> None:
    for _ in range(3000):
        bench.ask(ATTACKER)
    refused = bench.replies()
    assert {reply.error for reply in refused} == {errno.EBUSY}
    assert len(refused) == 3000 - PYFUSE3_TASKS - WAITING_BOUNDS.per_user
    bench.ask(HONEST)
    bench.ask(0)
    assert bench.replies() == []


def test_all_are_answered_in_the_end_and_make_room(bench: Bench) -> None:
    async def main() -> None:
        asked = {bench.ask(ATTACKER) for _ in range(PYFUSE3_TASKS + WAITING_BOUNDS.per_user)}
        answered = set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.forwarder.pass_replies)
            while arrived := [unique for unique, _ in bench.arrived()]:
                await bench.answer(arrived)
                answered |= {reply.unique for reply in bench.replies()}
            nursery.cancel_scope.cancel()
        assert answered == asked
        for _ in range(PYFUSE3_TASKS + WAITING_BOUNDS.per_user):
            bench.ask(ATTACKER)
        assert bench.replies() == []

    trio.run(main)


def test_an_interrupt_ends_a_request_that_still_waits(bench: Bench) -> None:
    passed_on, *_ = [bench.ask(ATTACKER) for _ in range(PYFUSE3_TASKS)]
    waits = bench.ask(ATTACKER)
    assert bench.forwarder.interrupt(waits)
    assert bench.replies() == [Reply(waits, errno.EINTR, b"")]
    assert not bench.forwarder.interrupt(waits)
    assert bench.forwarder.interrupt(passed_on), "pyfuse3 is about to answer it"
    assert (bench.replies(), bench.forwarder.waiting) == ([], 0)
    polled = bench.ask(ATTACKER, opcode=wire.Opcode.POLL)
    assert bench.forwarder.interrupt(polled)
    assert (bench.replies(), bench.forwarder.waiting) == ([], 1), "an error would be POLLERR"
    for _ in range(WAITING_BOUNDS.per_user - 1):
        bench.ask(ATTACKER)
    assert bench.replies() == []
