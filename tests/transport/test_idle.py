"""Requests are served where the event loop would wait, and what else it waits for has its turn."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from memnotify_cuse.transport import wire
from memnotify_cuse.transport.connection import Connection
from memnotify_cuse.transport.idle import IdleServing, epoll_of_this_loop
from tests.transport.messages import Reply, getattr_request

LIMIT_S = 30


class Turns(trio.abc.Instrument):
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1


class Client:
    """Asks from a thread of its own, one question after the other, and gets an answer to each."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs.setblocking(False)
        self.connection = Connection(self._theirs.fileno(), self._answer)
        self.enough = threading.Event()

    def _answer(self, header: wire.RequestHeader, message: memoryview) -> None:
        assert wire.decode_header(message) == header
        self.connection.send(wire.encode_error(header.unique, 0))

    def ask(self, count: int) -> int:
        """Ask so often; how many were answered."""
        return sum(self._ask(unique) for unique in range(1, count + 1))

    def ask_until_enough(self) -> int:
        """Ask without a pause; how many were answered."""
        answered = 0
        while not self.enough.is_set():
            answered += self._ask(answered + 1)
        return answered

    def _ask(self, unique: int) -> bool:
        self._ours.send(getattr_request(unique=unique))
        return Reply.parse(self._ours.recv(4096)).unique == unique

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@asynccontextmanager
async def serving(client: Client) -> AsyncIterator[None]:
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            IdleServing([client.connection], await epoll_of_this_loop()).begin()
            nursery.start_soon(client.connection.serve)
            yield
            nursery.cancel_scope.cancel()


def test_many_questions_take_few_turns_of_the_event_loop(client: Client) -> None:
    async def main() -> int:
        turns = Turns()
        async with serving(client):
            trio.lowlevel.add_instrument(turns)
            assert await trio.to_thread.run_sync(client.ask, 500) == 500
        return turns.count

    assert trio.run(main) < 50


def test_who_sleeps_and_who_reads_have_their_turn_while_questions_come_without_a_pause(client: Client) -> None:
    ours, theirs = socket.socketpair()

    async def ask() -> None:
        assert await trio.to_thread.run_sync(client.ask_until_enough)

    async def send() -> None:
        await trio.to_thread.run_sync(theirs.send, b"x")

    async def main() -> None:
        async with serving(client), trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.01)
            for _ in range(20):
                nursery.start_soon(send)
                await trio.lowlevel.wait_readable(ours)
                assert ours.recv(1) == b"x"
                await trio.sleep(0.001)
            client.enough.set()

    with ours, theirs:
        trio.run(main)


def test_a_task_that_a_question_wakes_runs_at_once(client: Client) -> None:
    """There is nothing else that would end the wait of the event loop."""

    async def main() -> None:
        asked = trio.Event()
        serve_turn = client.connection.serve_turn

        def serve_and_wake() -> bool:
            goes_on = serve_turn()
            asked.set()
            return goes_on

        client.connection.serve_turn = serve_and_wake  # type: ignore[method-assign]
        async with serving(client):
            # A thread of the test's own: one of trio's would wake the loop.
            asking = threading.Thread(target=client.ask, args=(1,))
            await trio.testing.wait_all_tasks_blocked()
            asking.start()
            await asked.wait()
            asking.join()

    trio.run(main)


def test_the_time_that_the_loop_was_to_wait_is_not_waited_twice(client: Client) -> None:
    async def main() -> None:
        descriptor = await epoll_of_this_loop()
        idle = IdleServing([client.connection], descriptor)
        assert descriptor is not None
        loop = select.poll()
        loop.register(descriptor, select.POLLIN)
        await trio.lowlevel.checkpoint()
        before = bool(loop.poll(0))
        idle.before_io_wait(0.01)
        assert (before, bool(loop.poll(0))) == (False, True)

    trio.run(main)


def test_where_it_cannot_be_told_what_the_loop_waits_on_the_loop_serves(client: Client) -> None:
    async def main() -> int:
        async with trio.open_nursery() as nursery:
            IdleServing([client.connection], None).begin()
            nursery.start_soon(client.connection.serve)
            answered = await trio.to_thread.run_sync(client.ask, 50)
            nursery.cancel_scope.cancel()
            return answered

    assert trio.run(main) == 50


def test_what_the_loop_waits_on_is_told_from_other_epoll_instances(client: Client) -> None:
    """As that of a PSI trigger, which is there before the loop, or is opened later."""

    async def main() -> tuple[int, int | None]:
        with select.epoll() as later:
            later.register(client.connection, select.EPOLLIN)
            turns = Turns()
            async with serving(client):
                trio.lowlevel.add_instrument(turns)
                assert await trio.to_thread.run_sync(client.ask, 500) == 500
            return turns.count, await epoll_of_this_loop()

    with select.epoll() as earlier:
        earlier.register(client.connection, select.EPOLLIN)
        turns, descriptor = trio.run(main)
    assert turns < 50
    assert descriptor is not None


def test_an_error_leaves_the_requests_to_the_loop(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    serve_turn = Connection.serve_turn

    def fail(self: Connection) -> bool:
        monkeypatch.setattr(Connection, "serve_turn", serve_turn)
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(Connection, "serve_turn", fail)

    async def main() -> int:
        async with serving(client):
            return await trio.to_thread.run_sync(client.ask, 50)

    assert trio.run(main) == 50
    assert "a mistake of ours" in caplog.text
