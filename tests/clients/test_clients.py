"""The best known ways to wait, in programs of many languages, all at once: told of everything, once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeVar

import pytest

from tests.clients.build import CannotBuildError, Place, command_of
from tests.clients.course import NOTIFICATIONS, Outcome, Run, new_server, notify_often, start, take_all
from tests.clients.course import wait_until_waiting as wait_until_all_wait
from tests.clients.program import Program
from tests.clients.stack import Stack
from tests.clients.stacks import STACKS
from tests.support.server import Server

pytestmark = pytest.mark.mount

IN_TESTS: Final = [stack for stack in STACKS if stack.in_tests]
POLL: Final = [stack for stack in IN_TESTS if not stack.blocks]
MOST_WAKES: Final = 2
"""Of one notification, where the program only polls: docs/semantics.md."""

BUILD: Final = Path(__file__).parents[2] / "build" / "clients"
"""Kept from one run to the next: crates and the library of Go take a while."""

Commands = dict[str, list[str] | str]
T = TypeVar("T")


def commands() -> Commands:
    """How to run each program, or why it cannot be run here."""
    place = Place(BUILD / "programs", BUILD)

    def command(stack: Stack) -> list[str] | str:
        try:
            return command_of(stack, place)
        except CannotBuildError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip((stack.title for stack in IN_TESTS), pool.map(command, IN_TESTS), strict=True))


def together(
    stacks: Sequence[Stack],
    commands: Commands,
    mode: str,
    act: Callable[[Server, Sequence[Program]], list[T]],
) -> dict[str, T]:
    """What `act` made of the programs of these stacks, in parallel on one server."""
    place = Place(BUILD / "programs", BUILD)
    with tempfile.TemporaryDirectory(prefix="memnotify-clients-") as name, ExitStack() as stack:
        server = stack.enter_context(new_server(Path(name)))
        programs = {}
        for each in stacks:
            command = commands[each.title]
            if not isinstance(command, str):
                programs[each.title] = stack.enter_context(start(each, command, place, server, mode))
        wait_until_all_wait(server, list(programs.values()))
        return dict(zip(programs, act(server, list(programs.values())), strict=True))


@pytest.fixture(scope="module")
def made() -> tuple[Commands, dict[str, Outcome], dict[str, Run]]:
    """How each program is run, what came of those that read, and of those that only poll.

    On three servers, since the guard time grows with the number of open files.
    """
    found = commands()
    with ThreadPoolExecutor(3) as pool:
        halves = [pool.submit(together, IN_TESTS[half::2], found, "read", take_all) for half in range(2)]
        polling = pool.submit(together, POLL, found, "poll", notify_often)
        return found, halves[0].result() | halves[1].result(), polling.result()


@pytest.mark.parametrize("stack", IN_TESTS, ids=lambda stack: stack.name)
def test_a_program_is_told_of_all_also_of_what_comes_after_a_restart(
    stack: Stack, made: tuple[Commands, dict[str, Outcome], dict[str, Run]]
) -> None:
    """It does not notice the restart itself, and it sees the end."""
    found, outcomes, _ = made
    command = found[stack.title]
    if isinstance(command, str):
        pytest.skip(f"{stack.title}: {command}")
    outcome = outcomes[stack.title]
    assert outcome.reading.told == NOTIFICATIONS
    assert outcome.noticed == 0
    assert outcome.told_after
    assert not outcome.end.startswith(("nothing", "spins", "exit"))


@pytest.mark.parametrize("stack", POLL, ids=lambda stack: stack.name)
def test_a_program_that_only_polls_is_told_of_all_and_does_not_spin(
    stack: Stack, made: tuple[Commands, dict[str, Outcome], dict[str, Run]]
) -> None:
    found, _, runs = made
    command = found[stack.title]
    if isinstance(command, str):
        pytest.skip(f"{stack.title}: {command}")
    assert runs[stack.title].told == NOTIFICATIONS
    assert runs[stack.title].wakes <= MOST_WAKES * runs[stack.title].chances
