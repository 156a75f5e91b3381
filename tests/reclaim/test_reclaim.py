"""The main job on real input: the kernel reclaims real anonymous memory, and an unmodified program is told.

Nothing here is near out of memory: see tests/support/reclaim.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.record import Record
from tests.support.reclaim import GIB, RealReclaim
from tests.support.server import Lines, Server

pytestmark = [pytest.mark.mount, pytest.mark.reclaim]


@pytest.fixture
def cat(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody who reads every record."""
    with subprocess.Popen(["cat", str(server.device)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def test_a_program_is_told_when_the_kernel_takes_anonymous_pages(server: Server, poll_cache: Path) -> None:
    with (
        RealReclaim() as machine,
        subprocess.Popen([poll_cache, str(server.device), "3"], stdout=subprocess.PIPE) as program,
    ):
        try:
            lines = Lines(program)
            for _ in range(3):
                with machine.episode():
                    assert "freed" in lines.next()
            assert program.wait(30) == 0
        finally:
            program.kill()
    zones = dict(word.split("=") for word in server.status().splitlines()[-1].split())
    assert int(zones["raised"]) >= 3


def test_the_record_says_why_and_how_much(server: Server, cat: subprocess.Popen[bytes]) -> None:
    lines = Lines(cat)
    with RealReclaim() as machine, machine.episode() as episode:
        record = Record.parse(lines.next())
        # With nothing in zram yet, using up the page cache that there is may be told of first.
        while record.reason == "file_exhausted":
            record = Record.parse(lines.next())
    assert record.reason == "anon_scan"
    assert record.pressure == 1
    assert record.reclaim_target_kb > 0
    assert episode.begin_ns < record.time_ns < episode.end_ns
    assert f"node{record.node}-{record.zone}" in server.zones


def test_pressure_ends_when_free_pages_are_above_the_threshold_again(server: Server) -> None:
    with RealReclaim() as machine:
        machine.reclaim_for(0.3)
        machine.rest()
        for _ in range(1000):
            if "status=1" not in server.status():
                return
    pytest.fail(f"still under pressure:\n{server.status()}")


@pytest.mark.parametrize("hot_bytes", [0, GIB], ids=["alone", "beside memory in use"])
def test_reading_a_large_file_tells_nobody(server: Server, cat: subprocess.Popen[bytes], hot_bytes: int) -> None:
    with RealReclaim(cold_bytes=0, hot_bytes=hot_bytes) as machine:
        episode = machine.stream(4 * GIB, passes=1)
    assert episode.deltas["pgscan_file"] > 100_000, "page cache was reclaimed in earnest"
    assert "notifications=0 " in (server.mount / "server").read_text(), server.log
    assert "raised=1" not in server.status()
