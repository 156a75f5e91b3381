"""Users who are served at the same time: each once, and who is slow in nobody's way."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

import pytest
import trio
import trio.testing

from memnotify_cuse.fasync.line import Line

AT_ONCE = 4


class Served:
    """Who is served: until `done(user)` is called."""

    def __init__(self) -> None:
        self.slow: set[int] = set()
        self.line = Line(AT_ONCE, self.slow.__contains__)
        self.begun: list[int] = []
        self._events: dict[int, trio.Event] = {}

    async def serve(self, user: int) -> None:
        self.begun.append(user)
        self._events[user] = trio.Event()
        await self._events[user].wait()

    async def put(self, *users: int) -> list[int]:
        """Who was begun with since the beginning. Those who could begin together are in no order."""
        for user in users:
            self.line.put(user)
        await trio.testing.wait_all_tasks_blocked()
        return sorted(self.begun)

    async def done(self, user: int) -> list[int]:
        self._events[user].set()
        return await self.put()


def run(play: Callable[[Served], Coroutine[object, object, None]]) -> None:
    async def main() -> None:
        served = Served()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.line.serve, served.serve)
            await play(served)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_some_at_a_time_in_their_order() -> None:
    async def play(served: Served) -> None:
        assert await served.put(*range(6)) == [0, 1, 2, 3]
        assert await served.done(2) == [0, 1, 2, 3, 4]

    run(play)


def test_each_once_and_who_is_being_served_once_more() -> None:
    async def play(served: Served) -> None:
        assert await served.put(7, 7) == [7]
        assert await served.put(7, 7) == [7]
        assert await served.done(7) == [7, 7]
        assert await served.done(7) == [7, 7]

    run(play)


def test_those_who_turn_out_to_be_slow_do_not_keep_others_waiting() -> None:
    async def play(served: Served) -> None:
        assert await served.put(*range(100, 108)) == [100, 101, 102, 103]
        served.slow.update(range(100, 200))
        served.line.look_again()
        assert await served.put(1, 2) == [1, 2, 100, 101, 102, 103]

    run(play)


def test_of_those_who_are_slow_few_are_begun_with() -> None:
    async def play(served: Served) -> None:
        served.slow.update(range(100, 200))
        assert await served.put(*range(100, 108), 1, 2, 3, 4, 5) == [1, 2, 3, 4, 100]
        assert await served.done(100) == [1, 2, 3, 4, 100, 101]

    run(play)


def test_an_error_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        served: list[int] = []
        line = Line(AT_ONCE, lambda _user: False)

        async def fail(user: int) -> None:
            await trio.lowlevel.checkpoint()
            served.append(user)
            raise ValueError("oops")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.serve, fail)
            line.put(1)
            await trio.testing.wait_all_tasks_blocked()
            line.put(2)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert served == [1, 2]

    trio.run(main)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
