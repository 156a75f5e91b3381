"""Many cgroups that come and go leave nothing behind in the server."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack

import pytest

from tests.fuzz.processes import held_by
from tests.support.cgroups import MIB, Cgroup
from tests.support.listeners import listed
from tests.support.mounted import open_files, wait_until
from tests.support.server import Server

pytestmark = pytest.mark.mount

COUNT = 100
ROUNDS = 3
LIMIT = 64 * MIB


@pytest.mark.parametrize("moved_out", [False, True], ids=["programs-end", "programs-are-moved-out"])
def test_cgroups_that_are_gone_leave_nothing_behind(
    moved_out: bool, server: Server, cgroup: Cgroup, other: Cgroup
) -> None:
    for number in range(ROUNDS):
        if number == 1:
            # What is opened once and kept is there after the first round.
            wait_until(lambda: not open_files(server), "no open file")
            before = held_by(server.process.pid).descriptors
        with ExitStack() as stack:
            children = [cgroup.child(f"{number}-{each}") for each in range(COUNT)]
            cats: list[subprocess.Popen[bytes]] = []
            for child in children:
                child.limit(LIMIT)
                cats.append(stack.enter_context(child.running("cat", server.device)))
            zones = {child.zone for child in children}
            wait_until(lambda: zones == set(listed(server)), f"{COUNT} cgroups")  # noqa: B023
            if moved_out:
                for cat in cats:
                    other.move(cat.pid)
                for child in children:
                    child.remove()
                wait_until(lambda: not listed(server), "no cgroup")
                assert open_files(server) == COUNT
        for child in children:
            child.remove()
        wait_until(lambda: (server.mount / "cgroups").read_text() == "", "no cgroup")
        wait_until(lambda: not open_files(server), "no open file")
    wait_until(
        lambda: held_by(server.process.pid).descriptors == before,
        f"{before} descriptors again, last {held_by(server.process.pid)}",
    )
