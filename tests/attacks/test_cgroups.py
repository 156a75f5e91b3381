"""A user whose cgroups come under pressure all day, beside programs of others: in a container, and of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.attacks.clients import HONEST_UID, Honest, Program
from tests.attacks.limits import DESCRIPTORS_GROWTH, GUARD_S, LOG_BYTES, MEDIAN_S, WORST_S
from tests.attacks.processes import descriptors, within
from tests.support.cgroups import MIB, Cgroup, cgroup_problem, new_cgroup
from tests.support.listeners import filled, listed
from tests.support.mounted import NOBODY, serving, wait_until
from tests.support.programs import Programs
from tests.support.server import Server
from tests.support.takeover import server_pid

pytestmark = pytest.mark.mount

HOSTILE = 60
"""How many cgroups of the attacker's run short some times a second, with less than a CPU for all of them."""

HOSTILE_LIMIT = 4 * MIB
HOSTILE_KIB = 3200
LIMIT = 64 * MIB
SHORT_MIB = 56
NOTICES = 5
SIMULATED_S = 2 * GUARD_S
"""The honest user has two files, and its guard time is over within that."""


@pytest.fixture(autouse=True)
def _memory_cgroups() -> None:
    problem = cgroup_problem()
    if problem is not None:
        pytest.skip(f"no memory cgroups here: {problem}")


@pytest.fixture
def server(directory: Path) -> Iterator[Server]:
    """One that sees the real machine."""
    with serving(directory) as running:
        yield running


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with new_cgroup() as made:
        yield made


@pytest.fixture
def attack(server: Server, programs: Programs) -> Iterator[list[Cgroup]]:
    """The attacker's cgroups, each with a program in it that takes nearly all of its limit, and gives some back."""
    churn = programs("churn")
    with ExitStack() as stack:
        parent = stack.enter_context(new_cgroup())
        cgroups = [parent.child(str(number)) for number in range(HOSTILE)]
        for each in cgroups:
            each.limit(HOSTILE_LIMIT)
            command = each.command(churn, server.device, HOSTILE_KIB, NOBODY)
            stack.enter_context(Program(command)).wait_for("ready")
        wait_until(
            lambda: sum(int(words["raised"]) > 1 for words in listed(server).values()) >= HOSTILE // 2,
            "half of them have been under pressure twice",
        )
        yield cgroups


def test_another_user_is_told_of_its_own_cgroup_in_time(
    server: Server, cgroup: Cgroup, attack: list[Cgroup], programs: Programs, fill: Programs
) -> None:
    assert len(attack) == HOSTILE
    cgroup.limit(LIMIT)
    as_honest = ("setpriv", f"--reuid={HONEST_UID}", f"--regid={HONEST_UID}", "--clear-groups")
    command = cgroup.command(*as_honest, programs("honest"), "poll", server.device)
    with Program(command) as honest:
        honest.wait_for("ready")
        for number in range(1, NOTICES + 1):
            with filled(fill, cgroup, SHORT_MIB):
                honest.wait_for("told", number)
            wait_until(lambda: listed(server)[cgroup.zone]["status"] == "0", "no pressure")
        times = [line.split() for line in honest.lines if line.startswith("told ")]
    delays_s = [(int(now) - int(evidence)) / 1e9 for _, now, evidence in times]
    assert sorted(delays_s)[len(delays_s) // 2] <= MEDIAN_S, delays_s
    assert max(delays_s) <= WORST_S, delays_s


def test_programs_of_others_are_told_of_the_machine_in_time(
    server: Server, attack: list[Cgroup], programs: Programs
) -> None:
    """In poll and by SIGIO; and the attack takes neither descriptors nor the log."""
    assert len(attack) == HOSTILE
    before = len(server.log)
    with Honest(programs, "poll", server.device) as poll, Honest(programs, "sigio", server.device) as sigio:
        for honest in (poll, sigio):
            honest.wait_for("ready")
        for number in range(1, NOTICES + 1):
            before_told = [len(honest.told()) for honest in (poll, sigio)]
            (server.mount / "simulate").write_text(f"all {SIMULATED_S}\n")
            for honest, told in zip((poll, sigio), before_told, strict=True):
                is_told = partial(_is_told, honest, told)
                assert within(WORST_S, is_told) is not None, f"notice {number} by {honest.how}"
            wait_until(lambda: "status=1" not in server.status(), "the simulation is over")
    assert descriptors([server_pid(server)]) <= DESCRIPTORS_GROWTH
    assert len(server.log) - before <= LOG_BYTES


@pytest.fixture(scope="session")
def fill(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """The programs of the other tests."""
    return Programs(Path(__file__).parents[1] / "programs", tmp_path_factory.mktemp("programs"))


def _is_told(honest: Honest, before: int) -> bool:
    return len(honest.told()) > before
