"""Users are served in turn, who was told at once. A socket stands in for the kernel, to have it all in one thread."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.connection import ANSWER_S, MAX_QUEUED, Connection
from memnotify_cuse.transport.endpoint import READABLE, DeviceEndpoint
from tests.transport.messages import (
    Reply,
    getattr_request,
    interrupt_request,
    lookup_request,
    open_request,
    poll_request,
    release_request,
    request,
)

PRESSURE = ZoneState(ZoneId(0, "Normal"), 1, free_pages=5, high_pages=6, reserve_pages=0, reason="anon_scan", time_ns=1)


class Bench:
    """A connection and its endpoint, wired to a device as the transports do."""

    def __init__(self) -> None:
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._ours = ours
        self.device = Device(4)
        self.connection = Connection(ours.fileno(), self._dispatch)
        self.endpoint = DeviceEndpoint(self.device, self.connection.send)

    def _dispatch(self, header: wire.RequestHeader, message: memoryview) -> None:
        if header.opcode == wire.Opcode.OPEN:
            self.endpoint.open(header, message, None)
        else:
            assert self.endpoint.handle(header, message)

    def ask(self, message: bytes) -> Reply:
        """A request that is served now."""
        self.connection.receive(memoryview(message))
        return self.reply()

    def reply(self) -> Reply:
        return Reply.parse(self.kernel.recv(4096))

    def sleeper(self) -> int:
        """The fh of somebody asleep in poll()."""
        fh = self.ask(open_request()).number(0, 8)
        assert self.ask(poll_request(fh, kh=fh, waiting=True)).number(0, 4) == 0
        return fh

    def notify(self) -> float:
        """Tell of pressure; the seconds that took."""
        began = time.monotonic()
        self.device.notified((PRESSURE,), time.monotonic_ns())
        self.connection.serve_woken(self.endpoint)
        return time.monotonic() - began

    def close(self) -> None:
        self.kernel.close()
        self._ours.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_whoever_is_woken_has_its_answer_before_the_notification_returns(bench: Bench) -> None:
    fh = bench.sleeper()
    answers: list[Reply] = []

    def program() -> None:
        assert bench.reply().error == wire.NOTIFY_POLL
        bench.kernel.send(poll_request(fh))
        answers.append(bench.reply())

    thread = threading.Thread(target=program)
    thread.start()
    # On a busy machine the program may be too late for this notification; there is another one.
    bench.notify()
    while thread.is_alive():
        bench.endpoint._asked_to_look.add(fh)
        bench.connection.serve_woken(bench.endpoint)
    assert answers[0].number(0, 4) == READABLE


def test_nobody_is_waited_for_who_does_not_ask_or_has_gone(bench: Bench) -> None:
    fh = bench.sleeper()
    bench.notify()
    assert not bench.endpoint.awaits_looks
    bench.ask(poll_request(fh, kh=fh, waiting=True))
    bench.endpoint._asked_to_look.add(fh)
    bench.reply()
    bench.ask(release_request(fh))
    assert not bench.endpoint.awaits_looks


def test_without_a_sleeper_there_is_nothing_to_wait_for(bench: Bench) -> None:
    bench.ask(open_request())
    assert min(bench.notify() for _ in range(20)) < ANSWER_S


def test_the_end_of_the_connection_ends_the_wait(bench: Bench) -> None:
    bench.sleeper()
    bench.kernel.close()
    bench.device.notified((PRESSURE,), 0)
    bench.connection.serve_woken(bench.endpoint)
    assert not bench.endpoint.awaits_looks


class Pipe:
    """A connection whose requests are noted down as they are served, in place of being answered."""

    def __init__(self) -> None:
        # Pipes hold more messages than a socket does, and keep them apart as well.
        received, self._kernel = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        self._received = received
        self.served: list[wire.RequestHeader] = []
        self.floods: list[bool] = []
        self.sent: list[bytes] = []
        self.cost_s = 0.0
        self.deepest = 0
        self._now_s = 1000.0
        self.calm = trio.Event()
        self.connection = Connection(received, self._dispatch, on_flood=self._note_flood, clock_s=lambda: self._now_s)
        self.connection.send = self.sent.append  # type: ignore[method-assign, assignment]

    def _dispatch(self, header: wire.RequestHeader, message: memoryview) -> None:
        assert wire.decode_header(message) == header
        self.served.append(header)
        self.deepest = max(self.deepest, self.connection.queued)
        self.pass_time(self.cost_s)

    def pass_time(self, seconds: float) -> None:
        self._now_s += seconds

    def _note_flood(self, flooded: bool) -> None:
        self.floods.append(flooded)
        if not flooded:
            self.calm.set()

    def ask(self, message: bytes) -> None:
        os.write(self._kernel, message)

    def step(self) -> None:
        self.connection._step()

    def close(self) -> None:
        os.close(self._received)
        os.close(self._kernel)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_a_request_that_comes_alone_is_served_at_once(pipe: Pipe) -> None:
    for unique in (1, 2, 3):
        pipe.ask(getattr_request(unique=unique))
        pipe.step()
        assert [header.unique for header in pipe.served][-1] == unique
        assert pipe.connection.queued == 0
        pipe.step()


def test_another_user_s_request_is_soon_served_however_many_one_has_sent(pipe: Pipe) -> None:
    for unique in range(1, 16):
        pipe.ask(getattr_request(unique=unique, uid=65534))
    pipe.ask(getattr_request(unique=100, uid=1000))
    for _ in range(4):
        pipe.step()
    assert 100 in [header.unique for header in pipe.served]
    for _ in range(20):
        pipe.step()
    assert sorted(header.unique for header in pipe.served) == [*range(1, 16), 100]


def test_an_interrupt_ends_a_request_that_still_waits_for_its_turn(pipe: Pipe) -> None:
    for unique in (1, 2, 3, 4):
        pipe.ask(lookup_request(b"status", unique=unique))
    pipe.ask(interrupt_request(4))
    pipe.ask(interrupt_request(1))
    for _ in range(5):
        pipe.step()
    assert [Reply.parse(message) for message in pipe.sent] == [Reply(4, errno.EINTR, b"")]
    # The interrupt of a request that was served is the endpoint's to know of.
    assert sorted(header.unique for header in pipe.served) == [1, 2, 3, 1001]


def test_an_interrupted_poll_that_waits_for_its_turn_is_answered_and_not_failed(pipe: Pipe) -> None:
    """A program asleep in poll that gets a signal, or is frozen, would see POLLERR: any error is that to the kernel."""
    for unique in (1, 2, 3, 4):
        pipe.ask(poll_request(7, unique=unique))
    pipe.ask(interrupt_request(4))
    for _ in range(4):
        pipe.step()
    assert pipe.sent == []
    assert sorted(header.unique for header in pipe.served) == [1, 2, 3, 4]


def test_an_interrupt_of_all_that_waits_leaves_nothing_to_serve(pipe: Pipe) -> None:
    for unique in (1, 2):
        pipe.ask(lookup_request(b"status", unique=unique))
    pipe.ask(interrupt_request(2))
    for _ in range(3):
        pipe.step()
    assert [Reply.parse(message).unique for message in pipe.sent] == [2]
    assert [header.unique for header in pipe.served] == [1]
    pipe.ask(lookup_request(b"status", unique=3))
    pipe.step()
    assert pipe.served[-1].unique == 3


def test_what_ends_something_and_what_is_long_does_not_wait_for_a_turn(pipe: Pipe) -> None:
    for unique in range(1, 5):
        pipe.ask(getattr_request(unique=unique))
    pipe.ask(release_request(7, unique=10))
    pipe.ask(request(16, bytes(3000), unique=11))
    pipe.step()
    pipe.step()
    assert [header.unique for header in pipe.served] == [1, 10, 11, 2]


def test_no_more_is_received_than_may_be_queued(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memnotify_cuse.transport.connection.MAX_QUEUED", 5)
    assert MAX_QUEUED == 4096
    for unique in range(1, 13):
        pipe.ask(getattr_request(unique=unique))
    for _ in range(12):
        pipe.step()
    # Beside the one that is being served.
    assert pipe.deepest == 4
    assert [header.unique for header in pipe.served] == [*range(1, 13)]


def test_what_else_waits_for_the_event_loop_has_its_turn_while_requests_come_without_end(pipe: Pipe) -> None:
    """With half a millisecond for each, no more than a few are served before the scanner would be."""
    pipe.cost_s = 0.0005
    turns: list[int] = []
    uniques = itertools.count(1)

    async def scanner() -> None:
        while len(turns) < 5:
            await trio.lowlevel.checkpoint()
            with suppress(BlockingIOError):
                while True:
                    pipe.ask(getattr_request(unique=next(uniques)))
            turns.append(len(pipe.served))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.connection.serve)
            with trio.fail_after(30):
                await scanner()
            nursery.cancel_scope.cancel()

    trio.run(main)
    # trio shuffles, so two turns of serving may lie between two of another task.
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 2 * 6


def test_a_flood_is_told_of_and_so_is_its_end_when_nothing_comes_any_more(pipe: Pipe) -> None:
    pipe.cost_s = 0.002

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.connection.serve)
            with trio.fail_after(30):
                while not pipe.floods:
                    pipe.ask(getattr_request())
                    await trio.lowlevel.checkpoint()
                assert pipe.floods == [True]
                pipe.pass_time(60)
                await pipe.calm.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert pipe.floods == [True, False]
