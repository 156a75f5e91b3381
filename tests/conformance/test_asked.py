"""What a kernel asks before a program gets an answer: the facts that the two answers to a notification rest on.

These are of the kernel that the test runs on, and of no server of ours.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.askedfile import AskedFile
from tests.support.mounted import LIMIT_S, Blocking, opened, wait_until
from tests.support.ways import WAYS

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system of its own"),
]

ASKED = {
    "poll": (1, 1),
    "select": (1, 1),
    "epoll": (1, 2),
    "edge-triggered": (1, 2),
    "oneshot": (1, 2),
    "epoll in epoll": (2, 4),
    "edge-triggered in epoll": (2, 4),
    "poll of epoll": (2, 3),
    "poll that looks twice": (2, 2),
}
"""How often it is asked until the program is told: after a wake, and where it begins to wait for what is readable."""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[AskedFile]:
    with AskedFile(tmp_path / "asked") as file:
        yield file


@pytest.mark.parametrize("way", ASKED)
def test_after_a_wake(way: str, file: AskedFile) -> None:
    with opened(file.path) as fd:
        wait = WAYS[way](fd)
        threads: list[int] = []

        def told() -> int:
            threads.append(threading.get_native_id())
            return wait(LIMIT_S)

        waiter = Blocking(told)
        wait_until(lambda: threads and _sleeps_in_a_wait(threads[0]), "the program asleep")
        file.wake()
        assert waiter.result() == 1
        # The one of which the answer was the program's, and those before.
        assert file.asked - (way == "oneshot") == ASKED[way][0]


@pytest.mark.parametrize("way", ASKED)
def test_where_a_program_begins_to_wait_for_what_is_readable(way: str, file: AskedFile) -> None:
    file.ready = True
    with opened(file.path) as fd:
        assert WAYS[way](fd)(LIMIT_S) == 1
        # To be told once more, a oneshot is modified, which asks.
        assert file.asked - (way == "oneshot") == ASKED[way][1]


def _sleeps_in_a_wait(tid: int) -> bool:
    """Whether a thread of this process sleeps in poll, select or epoll, and not in a question to the file system."""
    where = Path(f"/proc/self/task/{tid}/wchan").read_text()
    return "request" not in where and ("poll" in where or "select" in where)
