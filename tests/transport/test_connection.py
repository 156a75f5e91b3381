"""Who was told is served at once. A socket stands in for the kernel's end, to have it all in one thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.connection import ANSWER_S, Connection
from memnotify_cuse.transport.endpoint import READABLE, DeviceEndpoint
from tests.transport.messages import Reply, open_request, poll_request, release_request

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
        self.device.on_notified.append(lambda: self.connection.serve_who_was_told(self.endpoint))

    def _dispatch(self, header: wire.Header, message: memoryview) -> None:
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
        bench.connection.serve_who_was_told(bench.endpoint)
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
    assert not bench.endpoint.awaits_looks
