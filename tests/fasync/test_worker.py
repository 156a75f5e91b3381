"""The thread that touches clients' descriptors."""

from __future__ import annotations

import threading

import pytest
import trio

from memnotify_cuse.fasync.worker import Worker


def test_calls_run_in_its_thread_one_after_the_other() -> None:
    async def main() -> None:
        worker = Worker()
        seen: list[int] = []
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(worker.run, seen.append, number)
        assert sorted(seen) == list(range(20))
        assert await worker.run(threading.get_native_id) == worker.thread_id != threading.get_native_id()
        worker.close()

    trio.run(main)


def test_an_exception_is_the_caller_s_and_the_thread_goes_on() -> None:
    async def main() -> None:
        worker = Worker()
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)
        assert await worker.run(lambda: 7) == 7
        worker.close()

    trio.run(main)


def test_a_cancelled_call_is_not_waited_for() -> None:
    release = threading.Event()
    ended = threading.Event()

    def slow() -> None:
        release.wait()
        ended.set()

    async def main() -> None:
        worker = Worker()
        with trio.move_on_after(0.01) as scope:
            await worker.run(slow)
        assert scope.cancelled_caught
        worker.close()

    trio.run(main)
    # The loop has ended: who is done with a call finds nobody to tell, and that is no error.
    release.set()
    assert ended.wait(60)
