"""The server is killed under programs that listen in cgroups; the next one knows which these are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cgroups import MIB, Cgroup
from tests.support.listeners import Listener, filled, listed, listening, raised, wait_for_listeners
from tests.support.mounted import LIMIT_S, complaints, wait_for_watchers, wait_until, watchdog
from tests.support.programs import Programs
from tests.support.server import Lines, Server
from tests.support.takeover import REPLACED, replace

pytestmark = pytest.mark.mount

LIMIT = 64 * MIB
SHORT_MIB = 60


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    """A server that ends well and has nothing to complain of but having been replaced."""
    with Server(tmp_path, "--log-level", "info") as server, watchdog(server):
        yield server
        assert server.stop() == 0, server.log
        assert [line for line in complaints(server) if not any(word in line for word in REPLACED)] == []


def test_a_program_that_waits_in_poll_is_told_of_its_limit_by_the_next_server(
    mortal: Server, cgroup: Cgroup, programs: Programs
) -> None:
    cgroup.limit(LIMIT)
    with cgroup.running(programs("loop"), mortal.device) as loop:
        wait_for_listeners(mortal, cgroup)
        wait_for_watchers(mortal, 1)
        for _ in range(2):
            replace(mortal)
        wait_for_listeners(mortal, cgroup)
        with filled(programs, cgroup, SHORT_MIB):
            lines = Lines(loop)
            assert lines.next() == "memory"
            assert f" zone={cgroup.zone} " in lines.next()


def test_a_program_whose_opener_is_gone_is_told_of_its_limit_by_the_next_server(
    mortal: Server, cgroup: Cgroup, programs: Programs
) -> None:
    """The shell that opened the device has ended."""
    cgroup.limit(LIMIT)
    with cgroup.running("sh", "-c", "exec 3< $0; cat <&3 &", mortal.device) as shell:
        wait_for_listeners(mortal, cgroup)
        assert shell.wait(LIMIT_S) == 0
        replace(mortal)
        wait_for_listeners(mortal, cgroup)
        with filled(programs, cgroup, SHORT_MIB):
            Listener(Lines(shell)).next_of(cgroup)


def test_a_shortage_that_lasts_over_a_takeover_ends(mortal: Server, cgroup: Cgroup, programs: Programs) -> None:
    """And the next one is told of."""
    cgroup.limit(LIMIT)
    with listening(mortal, cgroup) as listener:
        with filled(programs, cgroup, SHORT_MIB):
            listener.next_of(cgroup)
            replace(mortal)
            wait_for_listeners(mortal, cgroup)
        wait_until(lambda: has_room(mortal, cgroup), "no pressure")
        before = raised(mortal, cgroup)
        with filled(programs, cgroup, SHORT_MIB):
            wait_until(lambda: raised(mortal, cgroup) > before, "pressure again")
            listener.next_of(cgroup)


def has_room(server: Server, cgroup: Cgroup) -> bool:
    """Whether the server has seen that there is room again."""
    words = listed(server)[cgroup.zone]
    return words["status"] == "0" and int(words["usage_kb"]) * 1024 < LIMIT // 2
