"""The client without the real device: errors, partial records, what is imported and cleaned up."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memnotify_cuse.client import (
    DeviceGoneError,
    DeviceNotFoundError,
    MemNotify,
    notifications,
    wait,
)
from memnotify_cuse.record import Record, RecordError

if TYPE_CHECKING:
    from tests.client.conftest import Fifo

LIMIT_S = 30.0


def record(time_ns: int) -> Record:
    """A record that can be told from others by its time."""
    return Record(0, "Normal", 1, 10, 20, 0, 4, "simulated", time_ns)


def run_trio(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(LIMIT_S):
            await main()

    trio.run(limited)


def run_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await main()

    asyncio.run(limited())


both = pytest.mark.parametrize("run", [run_trio, run_asyncio])


def descriptors_of(path: Path) -> list[int]:
    """The descriptors of this process that are open on ``path`` for reading alone."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            flags = Path(f"/proc/self/fdinfo/{name}").read_text().split("flags:\t")[1].split()[0]
        except OSError:
            continue
        if target == str(path) and int(flags, 8) & os.O_ACCMODE == os.O_RDONLY:
            found.append(int(name))
    return found


def test_a_missing_device_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFoundError, match="memnotify serve") as caught:
        wait(0, device=tmp_path / "none")
    assert str(tmp_path / "none") in str(caught.value)
    assert caught.value.errno == errno.ENOENT
    assert isinstance(caught.value, FileNotFoundError)
    assert "\n" not in str(caught.value)


def test_other_errors_of_open_pass_through(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        wait(0, device=tmp_path / "file" / "below")


def test_a_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        wait(0, device=tmp_path)


def test_nothing_within_the_timeout(fifo: Fifo) -> None:
    assert wait(0, device=fifo.path) is None
    assert wait(0.01, device=fifo.path) is None


def test_a_record_is_returned(fifo: Fifo) -> None:
    with MemNotify(fifo.path) as memory:
        fifo.send(record(1).format())
        assert memory.wait(LIMIT_S) == record(1)
        assert memory.wait(0) is None


def test_wait_without_timeout_is_woken(fifo: Fifo) -> None:
    with MemNotify(fifo.path) as memory:
        sender = threading.Timer(0.05, fifo.send, [record(7).format()])
        sender.start()
        assert memory.wait() == record(7)
        sender.join()


def test_several_records_in_one_read_come_one_by_one(fifo: Fifo) -> None:
    with MemNotify(fifo.path) as memory:
        fifo.send(b"".join(record(number).format() for number in range(3)))
        assert [memory.wait(0) for _ in range(4)] == [record(0), record(1), record(2), None]


def test_a_record_in_pieces_is_put_together(fifo: Fifo) -> None:
    line = record(1).format()
    with MemNotify(fifo.path) as memory:
        for byte in line[:-1]:
            fifo.send(bytes([byte]))
            assert memory.wait(0) is None
        fifo.send(line[-1:] + line[:5])
        assert memory.wait(0) == record(1)
        assert memory.wait(0) is None
        fifo.send(line[5:])
        assert memory.wait(0) == record(1)


def test_what_is_not_a_record_is_an_error_and_the_next_one_is_read(fifo: Fifo) -> None:
    with MemNotify(fifo.path) as memory:
        fifo.send(b"hello\n" + record(1).format())
        with pytest.raises(RecordError, match="node"):
            memory.wait(0)
        assert memory.wait(0) == record(1)


def test_an_endless_line_is_an_error() -> None:
    with pytest.raises(RecordError, match="no end of line"):
        wait(0, device="/dev/zero")


def test_end_of_file_means_the_server_is_gone(fifo: Fifo) -> None:
    with MemNotify(fifo.path) as memory:
        fifo.hang_up()
        with pytest.raises(DeviceGoneError, match="memnotify serve"):
            memory.wait(LIMIT_S)


def test_the_descriptor_can_be_polled_elsewhere(fifo: Fifo) -> None:
    with MemNotify(fifo.path) as memory:
        assert select.select([memory], [], [], 0)[0] == []
        fifo.send(record(1).format())
        assert select.select([memory], [], [], LIMIT_S)[0] == [memory]


def test_the_descriptor_is_not_inherited_and_does_not_block(fifo: Fifo) -> None:
    with MemNotify(fifo.path) as memory:
        assert not os.get_inheritable(memory.fileno())
        assert not os.get_blocking(memory.fileno())


def test_close_can_be_repeated_and_use_after_it_is_refused(fifo: Fifo) -> None:
    memory = MemNotify(fifo.path)
    assert len(descriptors_of(fifo.path)) == 1
    memory.close()
    memory.close()
    assert descriptors_of(fifo.path) == []
    with pytest.raises(ValueError, match="closed"):
        memory.wait(0)
    with pytest.raises(ValueError, match="closed"):
        memory.fileno()


@both
def test_notifications_arrive(run: Callable[[Callable[[], Awaitable[None]]], None], fifo: Fifo) -> None:
    async def main() -> None:
        told = []
        async with notifications(fifo.path) as records:
            fifo.send(record(0).format())
            async for each in records:
                told.append(each.time_ns)
                if len(told) == 3:
                    break
                fifo.send(record(len(told)).format())
        assert told == [0, 1, 2]

    run(main)
    assert descriptors_of(fifo.path) == []


@both
def test_a_waiting_task_is_woken(run: Callable[[Callable[[], Awaitable[None]]], None], fifo: Fifo) -> None:
    async def main() -> None:
        sender = threading.Timer(0.05, fifo.send, [record(5).format()])
        sender.start()
        assert await anext(notifications(fifo.path)) == record(5)
        sender.join()

    run(main)


@both
def test_aclose_ends_the_iteration(run: Callable[[Callable[[], Awaitable[None]]], None], fifo: Fifo) -> None:
    async def main() -> None:
        records = notifications(fifo.path)
        fifo.send(record(0).format() + record(1).format())
        assert await anext(records) == record(0)
        await records.aclose()
        assert descriptors_of(fifo.path) == []
        with pytest.raises(StopAsyncIteration):
            await anext(records)
        await records.aclose()

    # The writer keeps the FIFO open, so the data waits for the first reader.
    run(main)


@both
def test_breaking_out_closes_the_device(run: Callable[[Callable[[], Awaitable[None]]], None], fifo: Fifo) -> None:
    async def main() -> None:
        fifo.send(record(0).format())
        async for each in notifications(fifo.path):
            assert each == record(0)
            break
        assert descriptors_of(fifo.path) == []

    run(main)


@both
def test_errors_reach_the_loop(
    run: Callable[[Callable[[], Awaitable[None]]], None], fifo: Fifo, tmp_path: Path
) -> None:
    async def main() -> None:
        with pytest.raises(DeviceNotFoundError):
            await anext(notifications(tmp_path / "none"))
        async with notifications(fifo.path) as records:
            fifo.hang_up()
            with pytest.raises(DeviceGoneError):
                await anext(records)
            assert descriptors_of(fifo.path) == []

    run(main)


def test_trio_cancellation_closes_the_device(fifo: Fifo) -> None:
    async def main() -> None:
        records = notifications(fifo.path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(records.__anext__)
            await trio.testing.wait_all_tasks_blocked()
            assert len(descriptors_of(fifo.path)) == 1
            nursery.cancel_scope.cancel()
        assert descriptors_of(fifo.path) == []

    run_trio(main)


def test_asyncio_cancellation_closes_the_device(fifo: Fifo) -> None:
    async def main() -> None:
        records = notifications(fifo.path)
        task = asyncio.ensure_future(records.__anext__())
        # One round of the loop takes the task to where it waits.
        await asyncio.sleep(0)
        (fd,) = descriptors_of(fifo.path)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert descriptors_of(fifo.path) == []
        assert not asyncio.get_running_loop().remove_reader(fd)

    run_asyncio(main)


@both
def test_a_cancelled_wait_leaves_the_device_usable(
    run: Callable[[Callable[[], Awaitable[None]]], None], fifo: Fifo
) -> None:
    async def main() -> None:
        with MemNotify(fifo.path) as memory:
            if run is run_trio:
                with trio.move_on_after(0.01) as scope:
                    await memory.wait_async()
                assert scope.cancelled_caught
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(memory.wait_async(), 0.01)
            fifo.send(record(3).format())
            assert await memory.wait_async() == record(3)

    run(main)


def test_awaiting_outside_of_both_libraries_is_refused(fifo: Fifo) -> None:
    with MemNotify(fifo.path) as memory:
        step = memory.wait_async()
        with pytest.raises(RuntimeError):
            step.send(None)


def _imported_after(program: str) -> set[str]:
    """Run ``program`` in a new interpreter return the modules it has imported."""
    program += "\nimport sys; print('\\n'.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_importing_the_client_imports_the_standard_library_only() -> None:
    before = _imported_after("")
    after = _imported_after("import memnotify_cuse.client")
    added = {name.partition(".")[0] for name in after - before}
    assert added - sys.stdlib_module_names == {"memnotify_cuse"}
    assert not after & {"asyncio", "trio", "sniffio", "psutil", "pyfuse3", "ctypes"}


@pytest.mark.parametrize(("library", "other"), [("trio", "asyncio"), ("asyncio", "trio")])
def test_waiting_imports_only_the_library_that_runs(library: str, other: str, fifo: Fifo) -> None:
    fifo.send(record(0).format())
    with MemNotify(fifo.path):
        after = _imported_after(
            f"""
import {library}
from memnotify_cuse.client import notifications
async def main():
    async with notifications({str(fifo.path)!r}) as records:
        await anext(records)
{"trio.run(main)" if library == "trio" else "asyncio.run(main())"}
"""
        )
    assert library in after
    assert other not in after
