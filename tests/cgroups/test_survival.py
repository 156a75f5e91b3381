"""An unmodified program with a cache, and one that takes more memory beside it than the limit of their cgroup leaves.

With the device, the cache makes room in time and no program is killed, however the memory is taken.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cgroups import MIB, Cgroup, large_file
from tests.support.mounted import wait_until
from tests.support.programs import Programs
from tests.support.server import Server

pytestmark = [pytest.mark.mount, pytest.mark.alone]

LIMIT_MIB = 256
CACHE_MIB = 64
"""What the example has when it waits for the first time."""
TAKEN_MIB = 230
"""With the cache that is 38 MiB too much."""
FILE_MIB = 512

SPEEDS = {"24MiBps": (120, 24), "200MiBps": (0, 200), "full-speed": (0, 0)}
"""How many MiB are taken at once, and how many in a second after that (0: as fast as it goes). At 120 MiB the cgroup
has more than a quarter of its limit left, and is not told of by then."""


class Cache:
    """The example, running in a cgroup."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        return self._output.read_text()

    def freed_for(self, cgroup: Cgroup) -> int:
        """How many notifications of that cgroup it has heeded."""
        lines = [line for line in self.output.splitlines() if line.startswith("freed ")]
        return sum(f" zone={cgroup.zone} " in line and "node=-1 " in line for line in lines)


@pytest.fixture
def limited(cgroup: Cgroup) -> Cgroup:
    cgroup.limit(LIMIT_MIB * MIB)
    return cgroup


def start_cache(stack: ExitStack, program: Path, device: Path, cgroup: Cgroup, directory: Path) -> Cache:
    output = directory / "cache.log"
    with output.open("w") as log:
        command = cgroup.command(program, device)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    cache = Cache(process, output)
    wait_until(lambda: "watching" in cache.output or process.poll() is not None, "a full cache")
    return cache


@pytest.fixture
def read_again_and_again(limited: Cgroup, disk: Path) -> Iterator[None]:
    """A file larger than the limit is read in the cgroup, over and over, in the block."""
    with (
        large_file(FILE_MIB * MIB, disk) as file,
        limited.running("sh", "-c", f"while :; do cat {file}; done > /dev/null"),
    ):
        yield


def survives(limited: Cgroup, cache: Cache, fill: Path, kind: str, speed: str) -> bool:
    """Whether the cache and a program that takes memory both live at the end."""
    at_once_mib, rate = SPEEDS[speed]
    with limited.running(fill, kind, at_once_mib, TAKEN_MIB - at_once_mib, rate) as taker:
        assert taker.stdout is not None
        said = taker.stdout.readline() + taker.stdout.readline()
        return said == b"begun\nfull\n" and cache.process.poll() is None and limited.oom_kills == 0


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("kind", ["cold", "hot", "shared"])
def test_no_program_is_killed(
    kind: str, speed: str, server: Server, limited: Cgroup, programs: Programs, poll_cache: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        cache = start_cache(stack, poll_cache, server.device, limited, tmp_path)
        assert survives(limited, cache, programs("fill"), kind, speed), cache.output
        assert cache.freed_for(limited) > 0, cache.output


@pytest.mark.parametrize("speed", SPEEDS)
def test_no_program_is_killed_while_a_large_file_is_read(
    speed: str,
    server: Server,
    limited: Cgroup,
    programs: Programs,
    poll_cache: Path,
    tmp_path: Path,
    read_again_and_again: None,
) -> None:
    with ExitStack() as stack:
        cache = start_cache(stack, poll_cache, server.device, limited, tmp_path)
        wait_until(lambda: limited.file_bytes > LIMIT_MIB * MIB // 4, "page cache in the cgroup")
        assert survives(limited, cache, programs("fill"), "cold", speed), cache.output
        assert cache.freed_for(limited) > 0, cache.output


def test_without_the_device_a_program_is_killed(
    limited: Cgroup, programs: Programs, poll_cache: Path, tmp_path: Path
) -> None:
    silent = tmp_path / "silent"
    os.mkfifo(silent)
    with ExitStack() as stack:
        cache = start_cache(stack, poll_cache, silent, limited, tmp_path)
        assert not survives(limited, cache, programs("fill"), "cold", "full-speed")
        wait_until(lambda: limited.oom_kills > 0, "a program is killed")
