"""What mode `auto` of SIGIO costs other programs, where the kernel has kprobe events. Runs in a guest."""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path

import pytest

from tests.guest.experiment import Place
from tests.support.server import Server
from tests.support.sigio import needs_kprobes

CALLS = 200_000
ROUNDS = 5

PROGRAM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double ns_of_each(int what, int fd, int calls)
{
	struct timespec begin, end;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (int i = 0; i < calls; i++)
		if (what == 0)
			syscall(SYS_getppid);
		else
			fcntl(fd, what == 1 ? F_GETFL : F_SETFL, 0);
	clock_gettime(CLOCK_MONOTONIC, &end);
	return ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / calls;
}

int main(int argc, char **argv)
{
	int fd = open("/dev/null", O_RDONLY), calls = argc > 1 ? atoi(argv[1]) : 1000;

	for (int what = 0; what < 3; what++)
		printf("%.1f ", ns_of_each(what, fd, calls));
	printf("\n");
	return 0;
}
"""


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    source, program = tmp_path / "calls.c", tmp_path / "calls"
    source.write_text(PROGRAM)
    subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
    return program


def test_what_seeing_o_async_costs(place: Place, calls: Path, tmp_path: Path) -> None:
    """Other system calls cost what they did, as nothing but fcntl is touched; the figures go out with the results."""
    needs_kprobes()

    def measure() -> list[float]:
        output = subprocess.run([calls, str(CALLS)], capture_output=True, text=True, check=True).stdout
        return list(map(float, output.split()))

    found: dict[str, list[list[float]]] = {"none": [], "owner": [], "auto": [], "strict": []}
    for number in range(ROUNDS):
        found["none"].append(measure())
        for mode in ("owner", "auto", "strict"):
            directory = tmp_path / f"{mode}-{number}"
            directory.mkdir()
            with Server(directory, "--sigio", mode) as server:
                found[mode].append(measure())
                assert server.stop() == 0
    names = ("getppid_ns", "f_getfl_ns", "f_setfl_ns")
    medians = {
        mode: {name: round(statistics.median(run[at] for run in runs), 1) for at, name in enumerate(names)}
        for mode, runs in found.items()
    }
    (place.results / "sigio-cost.json").write_text(json.dumps(medians, indent=1))
    assert all(median > 0 for each in medians.values() for median in each.values())
