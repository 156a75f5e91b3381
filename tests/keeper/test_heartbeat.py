"""When the server has last done its work: a real state file."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from memnotify_cuse.keeper import heartbeat
from memnotify_cuse.keeper.statefile import MAX_INIT_BYTES, StateFile, create_state


@pytest.fixture
def fd() -> Iterator[int]:
    made = create_state()
    yield made
    os.close(made)


def test_a_server_that_has_not_begun_has_never_done_any(fd: int) -> None:
    assert heartbeat.last_s(fd) == 0.0


def test_the_last_time_counts_and_nothing_else_of_the_header_changes(fd: int) -> None:
    state = StateFile(fd)
    state.begin()
    state.note_init(b"i" * MAX_INIT_BYTES)
    number = state.next_number()
    for now_ns in (1_500_000_000, 2_500_000_000):
        state.note_alive(now_ns)
        assert heartbeat.last_s(fd) == now_ns / 1e9
    after = StateFile(fd)
    after.begin()
    assert after.init_request == b"i" * MAX_INIT_BYTES
    assert after.next_number() > number


def test_a_time_that_lies_ahead_counts_for_nothing(fd: int) -> None:
    """The server may have been taken over, and would never be replaced."""
    state = StateFile(fd)
    state.begin()
    state.note_alive(2_000_000_000)
    assert heartbeat.last_s(fd, lambda: 1.9) == 0.0
