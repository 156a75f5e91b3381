"""Every attack of the table: honest programs are told in time, and the server ends when it is told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.arena import killed, withstand
from tests.attacks.kills import kill_often
from tests.attacks.scenarios import IN_TESTS, KILLS_IN_TESTS, TABLE, Scenario
from tests.support.programs import Programs

pytestmark = pytest.mark.mount

NOTIFICATIONS = 3
KILLS = 20
SEED = 12


@pytest.mark.parametrize("scenario", IN_TESTS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_an_attack_is_withstood(scenario: Scenario, directory: Path, programs: Programs) -> None:
    """Two honest programs are told of each notification in time, and SIGTERM ends the server while it lasts."""
    assert withstand(scenario, directory, programs, NOTIFICATIONS).problems == []


@pytest.mark.parametrize(
    "scenario",
    KILLS_IN_TESTS,
    ids=lambda scenario: scenario.name.replace(" ", "-"),
)
def test_sigkill_under_attack_lets_go_of_every_client(scenario: Scenario, directory: Path, programs: Programs) -> None:
    """Of the first process of the server. The next server at the same paths works."""
    outcome = killed(scenario, directory, programs, 0)
    assert outcome is not None
    assert outcome.problems == []


def test_sigkill_of_any_process_of_the_server_lets_go_of_every_client(directory: Path, programs: Programs) -> None:
    """Without an attack, each of its descendants in turn."""
    for child in range(1, 100):
        place = directory / str(child)
        place.mkdir()
        outcome = killed(TABLE[0], place, programs, child)
        if outcome is None:
            return
        assert outcome.problems == [], f"descendant {child}"


def test_sigkills_at_random_moments_leave_nothing_hanging(directory: Path, programs: Programs) -> None:
    """`python -m tests.attacks.kills` does it a thousand times."""
    assert kill_often(KILLS, directory, programs, SEED).problems == []
