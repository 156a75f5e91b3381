"""The SIGIO service: what it finds out in its thread and when it takes note of it. The rest is tests/conformance."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.fasync.locate import Locator, Place
from memnotify_cuse.fasync.service import BATCH, SURVEY_DELAYS_S, SigioService
from memnotify_cuse.fasync.worker import Worker
from memnotify_cuse.kernel.zoneinfo import ZoneId

NORMAL = ZoneId(0, "Normal")


class OnePlace:
    """In place of a search through processes: every file is found behind one descriptor of ours."""

    unreachable = None

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.asked: list[int] = []

    @contextmanager
    def descriptor(self, number: int, hints: tuple[int, ...], *, prefer: int = 0) -> Iterator[tuple[Place, int] | None]:
        self.asked.append(number)
        yield Place(os.getpid(), self._fd), self._fd

    def tgid_of(self, tid: int) -> int:
        return tid

    def forget_all_but(self, numbers: set[int]) -> None:
        pass


class SlowFirst:
    """In place of the thread: looks at once, and hands the first answer over only when it is let."""

    def __init__(self) -> None:
        self.let = trio.Event()
        self._calls = 0

    async def run(self, call: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
        result = call(*args)
        self._calls += 1
        if self._calls == 1:
            await self.let.wait()
        return result


@pytest.fixture
def descriptor() -> Iterator[int]:
    ends = os.pipe()
    yield ends[0]
    for fd in ends:
        os.close(fd)


def test_of_two_looks_at_a_file_the_later_one_holds(descriptor: int) -> None:
    """An owner that was set between the two is not forgotten because the first answer comes last."""

    async def main() -> None:
        device, worker = Device(4), SlowFirst()
        service = SigioService(device, cast(Locator, OnePlace(descriptor)), cast(Worker, worker))
        file = device.open(0, None, lambda _file: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service._survey, [file])
            await trio.testing.wait_all_tasks_blocked()
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
            nursery.start_soon(service._survey, [file])
            await trio.testing.wait_all_tasks_blocked()
            worker.let.set()
        assert device.is_subscribed(file)

    trio.run(main)


def test_who_is_found_is_signalled_before_all_others_were_looked_for(descriptor: int) -> None:
    """With thousands of files that nobody can be found for, that may take seconds."""
    asked_at_signal: list[set[int]] = []

    async def main() -> None:
        device = Device(4)
        locator = OnePlace(descriptor)
        service = SigioService(device, cast(Locator, locator), Worker())
        files = [device.open(0, None, lambda _file: None) for _ in range(3 * BATCH)]
        signal.signal(signal.SIGIO, lambda *_: asked_at_signal.append(set(locator.asked)))
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        device.notified((ZoneState(NORMAL, 1, 50, 60, 0, "anon_scan", 1),), time.monotonic_ns())
        await service._serve_notification()
        assert set(locator.asked) == {file.number for file in files}
        assert asked_at_signal
        assert len(asked_at_signal[0]) < len(files)

    before = signal.getsignal(signal.SIGIO)
    try:
        trio.run(main)
    finally:
        signal.signal(signal.SIGIO, before)


class AtOnce:
    """In place of the thread: no thread."""

    async def run(self, call: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
        return call(*args)


def test_nobody_is_looked_for_whose_open_has_just_begun(descriptor: int) -> None:
    """It may not have returned, so that nobody has the descriptor; a search in vain would hold up the next one."""

    async def main() -> None:
        device = Device(4)
        locator = OnePlace(descriptor)
        service = SigioService(device, cast(Locator, locator), cast(Worker, AtOnce()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service._survey_after_opens)
            await trio.sleep(1)
            first = device.open(0, None, lambda _file: None)
            await trio.sleep(SURVEY_DELAYS_S[0] / 2)
            second = device.open(0, None, lambda _file: None)
            await trio.sleep(sum(SURVEY_DELAYS_S))
            assert set(locator.asked) == {first.number}
            await trio.sleep(2 * sum(SURVEY_DELAYS_S))
            assert set(locator.asked) == {first.number, second.number}
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
