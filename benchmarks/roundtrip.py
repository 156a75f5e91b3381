"""One poll() that finds nothing: to the server and back, beside the smallest server there can be."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import Workshop, answering_pid, is_real_time, progress, running, wait_until
from benchmarks.report import CannotRunError, Part, Table, aim, microseconds
from benchmarks.stats import Summary, summarise
from tests.fuzz.processes import family
from tests.support.server import unmount

TITLE: Final = "Round trip: one poll() with a timeout of 0"
PAIRS: Final = 7
CALLS: Final = 20_000
AIM_RATIO: Final = 2.5

HOW: Final = [
    "A poll() on a FUSE file is a question to its server. A C program asks it "
    f"{CALLS:,} times and takes the time of each call; on the device (a server in Python), and on the one file of a "
    "single-threaded C program that does nothing but answer, written with libfuse: the smallest server there can be. "
    f"{PAIRS} pairs, taken in turn.",
    "A round trip between two CPUs is mostly the time that it takes to wake the other one. So the same is measured "
    "once more with program and server on one CPU, which leaves what the servers do.",
]

WHY_REAL_TIME: Final = (
    "The server has real-time priority, so that it need not queue for a CPU behind kswapd. That has its price here: an "
    "ordinary server that has answered makes way for the program, and finds the program's next question waiting; this "
    "one goes to sleep first, and each question takes a whole turn of its event loop. As an ordinary process it takes "
    "about a third of the time on one CPU."
)


@dataclass(frozen=True, slots=True)
class _Pair:
    """The device and the C server, one after the other."""

    ours: Summary
    theirs: Summary

    @property
    def ratio(self) -> float:
        return self.ours.median / self.theirs.median


def measure(workshop: Workshop) -> Part:
    """The part of the report."""
    poll_time = workshop.program("poll_time")
    peer = workshop.program("poll_peer", "fuse3")
    with workshop.server() as server, _serving(peer, workshop.directory / "peer") as (peer_file, peer_pid):
        free = _pairs("free", [str(poll_time)], server.device, peer_file)
        cpu = max(os.sched_getaffinity(0))
        for pid in (*family(server.process.pid), peer_pid):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), {cpu})
        if shutil.which("taskset") is None:
            raise CannotRunError("no taskset (util-linux)")
        real_time = is_real_time(answering_pid(server))
        pinned = _pairs("one CPU", ["taskset", "-c", str(cpu), str(poll_time)], server.device, peer_file)
    part = _report(free, pinned)
    if real_time:
        part.remarks.append(WHY_REAL_TIME)
    return part


def _pairs(label: str, poll_time: list[str], ours: Path, theirs: Path) -> list[_Pair]:
    pairs = []
    for number in range(PAIRS):
        progress(f"{label}: pair {number + 1} of {PAIRS}")
        pairs.append(_Pair(_time(poll_time, ours), _time(poll_time, theirs)))
    return pairs


@contextmanager
def _serving(peer: Path, mount: Path) -> Iterator[tuple[Path, int]]:
    """The file that the C server serves, and its PID."""
    mount.mkdir()
    try:
        with running([str(peer), str(mount)]) as process:
            wait_until(lambda: os.path.ismount(mount), "the C server does not mount")
            yield mount / "file", process.pid
    finally:
        unmount(mount)


def _time(poll_time: list[str], file: Path) -> Summary:
    result = subprocess.run([*poll_time, str(file), str(CALLS)], check=False, capture_output=True)
    if result.returncode:
        raise CannotRunError(f"poll_time ended with {result.returncode}")
    return summarise([int(line) for line in result.stdout.split()])


def _report(free: list[_Pair], pinned: list[_Pair]) -> Part:
    part = Part(TITLE, list(HOW))
    rows = [
        _row("/dev/mem_notify", [pair.ours for pair in free]),
        _row("libfuse, C", [pair.theirs for pair in free]),
        _row("/dev/mem_notify, one CPU", [pair.ours for pair in pinned]),
        _row("libfuse, C, one CPU", [pair.theirs for pair in pinned]),
    ]
    part.tables.append(Table(("server", "min µs", "median µs", "p99 µs", "best pair's median µs"), rows))
    part.remarks.append(_ratios("Ratio of the medians, pair by pair", free))
    part.remarks.append(_ratios("On one CPU", pinned))
    for where, pairs in (("", free), (", on one CPU", pinned)):
        reached = summarise([pair.ratio for pair in pairs]).median <= AIM_RATIO
        part.remarks.append(aim(f"within {AIM_RATIO} times the C server{where}", reached))
    return part


def _ratios(label: str, pairs: list[_Pair]) -> str:
    medians = summarise([pair.ratio for pair in pairs])
    p99 = summarise([pair.ours.p99 / pair.theirs.p99 for pair in pairs])
    return (
        f"{label}: smallest {medians.minimum:.2f}, median {medians.median:.2f}, largest {medians.maximum:.2f}; of the "
        f"99th percentiles: {p99.minimum:.2f}, {p99.median:.2f}, {p99.maximum:.2f}."
    )


def _row(label: str, summaries: list[Summary]) -> tuple[str, ...]:
    """Minimum over all, and the median over the pairs of their medians and 99th percentiles."""
    medians = summarise([each.median for each in summaries])
    figures = (
        min(each.minimum for each in summaries),
        medians.median,
        summarise([each.p99 for each in summaries]).median,
        medians.minimum,
    )
    return (label, *map(microseconds, figures))
