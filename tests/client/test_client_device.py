"""The client on a real, mounted device."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from memnotify_cuse.client import DeviceGoneError, MemNotify, notifications, wait
from memnotify_cuse.record import Record
from tests.support.server import Server

pytestmark = pytest.mark.mount

LIMIT_S = 60.0
# Long enough that the pressure outlasts whatever the test does in it.
LONG_S = 600.0

Main = Callable[[], Awaitable[None]]


def run_trio(main: Main) -> None:
    async def limited() -> None:
        with trio.fail_after(LIMIT_S):
            await main()

    trio.run(limited)


def run_asyncio(main: Main) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await main()

    asyncio.run(limited())


both = pytest.mark.parametrize("run", [run_trio, run_asyncio])


def assert_simulated(record: Record | None, zones: list[str]) -> None:
    """What a simulation on ``zones`` tells."""
    assert record is not None
    assert f"node{record.node}-{record.zone}" in zones
    assert record.pressure == 1
    assert record.reason == "simulated"
    assert record.time_ns > 0


def open_files(server: Server) -> int:
    """How many open files of the device the server knows of."""
    words = (server.mount / "server").read_text().split()
    return int(next(word for word in words if word.startswith("open_files=")).partition("=")[2])


def test_wait_times_out_without_pressure(server: Server) -> None:
    assert wait(0, device=server.device) is None
    assert wait(0.05, device=server.device) is None


def test_wait_is_told(server: Server) -> None:
    server.simulate(seconds=LONG_S)
    assert_simulated(wait(LIMIT_S, device=server.device), server.zones)


def test_a_waiting_thread_is_woken(server: Server) -> None:
    told: list[Record | None] = []
    with MemNotify(server.device) as memory:
        waiter = threading.Thread(target=lambda: told.append(memory.wait(LIMIT_S)))
        waiter.start()
        server.simulate(seconds=LONG_S)
        waiter.join(LIMIT_S)
        assert not waiter.is_alive()
    assert_simulated(told[0], server.zones)


def test_one_file_is_told_again_and_again(server: Server) -> None:
    with MemNotify(server.device) as memory:
        server.simulate(seconds=LONG_S)
        records = [memory.wait(LIMIT_S) for _ in range(3)]
    for record in records:
        assert_simulated(record, server.zones)
    times = [record.time_ns for record in records if record]
    assert times == sorted(set(times))


def test_one_zone_has_a_device_of_its_own(server: Server) -> None:
    zone, *others = server.zones
    with MemNotify(server.mount / "zones" / zone) as memory:
        server.simulate(zone, LONG_S)
        assert_simulated(memory.wait(LIMIT_S), [zone])
    for other in others:
        assert wait(0, device=server.mount / "zones" / other) is None


def test_a_selector_of_the_program_s_own(server: Server) -> None:
    with MemNotify(server.device) as memory:
        assert select.select([memory], [], [], 0)[0] == []
        server.simulate(seconds=LONG_S)
        assert select.select([memory], [], [], LIMIT_S)[0] == [memory]
        assert_simulated(memory.wait(0), server.zones)
        assert memory.wait(0) is None


def test_a_program_that_is_late_still_gets_the_record_that_was_announced(server: Server) -> None:
    with MemNotify(server.device) as memory:
        server.simulate(seconds=LONG_S)
        poll = select.poll()
        poll.register(memory, select.POLLIN)
        assert poll.poll(LIMIT_S * 1000)
        # All was answered when poll, asked again, is silent.
        server.simulate(seconds=0)
        while poll.poll(0):
            pass
        assert_simulated(memory.wait(0), server.zones)


@both
def test_notifications(run: Callable[[Main], None], server: Server) -> None:
    async def main() -> None:
        told = 0
        async with notifications(server.device) as records:
            server.simulate(seconds=LONG_S)
            async for record in records:
                assert_simulated(record, server.zones)
                told += 1
                if told == 2:
                    break
        assert told == 2

    run(main)


def test_trio_cancellation_closes_the_open_file(server: Server) -> None:
    async def main() -> None:
        records = notifications(server.device)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(records.__anext__)
            await trio.testing.wait_all_tasks_blocked()
            assert open_files(server) == 1
            nursery.cancel_scope.cancel()

    run_trio(main)
    assert_all_closed(server)


def test_asyncio_cancellation_closes_the_open_file(server: Server) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(notifications(server.device).__anext__())
        # One round of the loop takes the task to where it waits.
        await asyncio.sleep(0)
        assert open_files(server) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_asyncio(main)
    assert_all_closed(server)


def assert_all_closed(server: Server) -> None:
    """Wait until the server knows of no open file: FUSE tells it of a close a little later."""
    limit = threading.Event()
    timer = threading.Timer(LIMIT_S, limit.set)
    timer.start()
    try:
        while open_files(server):
            assert not limit.is_set(), "the open file was not closed"
    finally:
        timer.cancel()


def test_a_killed_server_ends_the_wait(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def wait_for_the_end(memory: MemNotify) -> None:
        try:
            memory.wait(LIMIT_S)
        except DeviceGoneError as error:
            errors.append(error)

    with Server(tmp_path) as server, MemNotify(server.device) as memory:
        waiter = threading.Thread(target=wait_for_the_end, args=[memory])
        waiter.start()
        server.process.kill()
        server.process.wait(LIMIT_S)
        waiter.join(LIMIT_S)
        assert not waiter.is_alive()
        assert "memnotify serve" in str(errors[0])
        # And who comes later is told the same, by the open file and by the path that the server left behind.
        with pytest.raises(DeviceGoneError):
            memory.wait(0)
        with pytest.raises(DeviceGoneError):
            wait(0, device=server.device)


@both
def test_a_killed_server_ends_the_iteration(run: Callable[[Main], None], tmp_path: Path) -> None:
    async def main() -> None:
        async with notifications(server.device) as records:
            # From a thread, so that the loop is already waiting or about to: either must end.
            killer = threading.Timer(0.05, server.process.kill)
            killer.start()
            with pytest.raises(DeviceGoneError):
                await anext(records)
            killer.join()

    with Server(tmp_path) as server:
        run(main)


def test_a_stopped_server_ends_the_wait(tmp_path: Path) -> None:
    with Server(tmp_path) as server, MemNotify(server.device) as memory:
        assert server.stop() == 0
        with pytest.raises(DeviceGoneError):
            memory.wait(LIMIT_S)


def test_a_record_read_in_pieces_by_the_program_is_whole(server: Server) -> None:
    with MemNotify(server.device) as memory:
        server.simulate(seconds=LONG_S)
        assert select.select([memory], [], [], LIMIT_S)[0]
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(memory.fileno(), 1)
        assert_simulated(Record.parse(line), server.zones)


@both
def test_the_end_of_pressure(run: Callable[[Main], None], server: Server) -> None:
    """The first records say how each zone is, the next ones what has changed."""

    async def main() -> None:
        state = server.mount / "state"
        async with notifications(state, end=True) as records:
            first = {record.zone: record.pressure async for record in _some(records, len(server.zones))}
            assert set(first.values()) == {0}
            server.simulate(server.zones[0], LONG_S)
            assert (await anext(records)).pressure == 1
            server.simulate(server.zones[0], 0)
            ended = await anext(records)
            assert (ended.pressure, ended.reason) == (0, "ended")

    run(main)


async def _some(records: AsyncIterator[Record], count: int) -> AsyncIterator[Record]:
    for _ in range(count):
        yield await anext(records)
