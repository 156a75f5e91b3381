"""Page cache that fills a cgroup again and again is no shortage: files are read and written there in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cgroups import MIB, Cgroup, large_file
from tests.support.listeners import filled, listening, raised, wait_for_listeners
from tests.support.programs import Programs
from tests.support.server import Server

pytestmark = pytest.mark.mount

LIMIT_MIB = 128
READ_MIB = 1024
PASSES = 2
WRITTEN_MIB = 384


def read_a_file(cgroup: Cgroup, disk: Path) -> None:
    with large_file(READ_MIB * MIB, disk) as file:
        for _ in range(PASSES):
            cgroup.run("dd", f"if={file}", "of=/dev/null", "bs=1M", "status=none")
        assert is_full_of_page_cache(cgroup)


def write_a_file(cgroup: Cgroup, disk: Path) -> None:
    with large_file(0, disk) as file:
        cgroup.run("dd", "if=/dev/zero", f"of={file}", "bs=1M", f"count={WRITTEN_MIB}", "status=none")
        assert is_full_of_page_cache(cgroup)


def is_full_of_page_cache(cgroup: Cgroup) -> bool:
    return cgroup.file_bytes > LIMIT_MIB * MIB // 4


@pytest.mark.parametrize("beside_mib", [1, 48], ids=["alone", "beside-memory-in-use"])
@pytest.mark.parametrize("stream", [read_a_file, write_a_file], ids=["reading", "writing"])
def test_no_program_is_told_of_a_large_file(
    stream: Callable[[Cgroup, Path], None],
    beside_mib: int,
    server: Server,
    cgroup: Cgroup,
    programs: Programs,
    disk: Path,
) -> None:
    """And the next shortage is told of all the same."""
    cgroup.limit(LIMIT_MIB * MIB)
    with listening(server, cgroup) as listener, filled(programs, cgroup, beside_mib):
        wait_for_listeners(server, cgroup)
        stream(cgroup, disk)
        assert raised(server, cgroup) == 0, server.log
        streamed_ns = time.monotonic_ns()
        with filled(programs, cgroup, LIMIT_MIB - beside_mib - 5):
            assert listener.next_of(cgroup).time_ns > streamed_ns
        assert raised(server, cgroup) > 0
