"""How long it takes until one watcher, or a thousand, are back from poll()."""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import Workshop, end, progress
from benchmarks.report import CannotRunError, Part, Table, milliseconds, ratio
from tests.support.server import Server

TITLE: Final = "Wake-up: from the notification to a program that is back, for one watcher and for a thousand"
REPETITIONS: Final = ((1, 20), (1000, 7))
LIMIT_S: Final = 120.0
PAUSE_S: Final = 0.3
"""The board sends at most one notification in 200 ms."""

HOW: Final = [
    "Processes sleep in poll(), each on an open file of its own; a write to the file `simulate` puts the zones under "
    "pressure. Measured is the time from just before the write until each process is back and has taken the time. "
    "The server runs with --no-herd-control, for otherwise one notification would wake one in sixteen of them, which "
    "is the point of it.",
    "The SIGIO watchers have set themselves as owners of their files, and sleep in sigtimedwait(): the server finds, "
    "checks and signals each of them.",
    "The limit beside it is what the kernel can do: one pipe that all of them poll, and one write that wakes them, "
    "with no server in between. Runs are taken in turn; the figures are medians over the runs, with the slowest in "
    "brackets.",
]

WHY: Final = (
    "What the device takes beyond the limit: the write is a request to the server, the server tells the kernel about "
    "one watcher after the other, and each watcher's poll() then asks the server again. All of a notification goes out "
    "before the first of these questions is answered, so with a thousand watchers it is the first who waits longest "
    "beyond the limit, in proportion."
)


@dataclass(frozen=True, slots=True)
class _Run:
    """When the first, the middle and the last watcher were back."""

    first_ns: float
    median_ns: float
    last_ns: float


def measure(workshop: Workshop) -> Part:
    """The part of the report."""
    herd = workshop.program("herd")
    part = Part(TITLE, list(HOW))
    rows = []
    with workshop.server("--no-herd-control") as server:
        for watchers, repetitions in REPETITIONS:
            runs = []
            for number in range(repetitions):
                pipe = _herd(herd, "pipe", "-", watchers)
                runs.append((_device(herd, server, watchers), _device(herd, server, watchers, "sigio"), pipe))
                progress(f"{watchers} watchers, run {number + 1} of {repetitions}")
            rows += _rows(watchers, runs)
    part.remarks.append(WHY)
    part.tables.append(Table(("watchers and what wakes them", "first ms", "median ms", "last ms"), rows))
    return part


def _device(herd: Path, server: Server, watchers: int, *how: str) -> _Run:
    time.sleep(PAUSE_S)
    return _herd(herd, str(server.device), str(server.mount / "simulate"), watchers, *how)


def _herd(herd: Path, device: str, simulate: str, watchers: int, *how: str) -> _Run:
    command = [str(herd), device, simulate, str(watchers), *how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, errors = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise CannotRunError(f"{watchers} watchers are not back within {LIMIT_S:.0f} s") from None
        finally:
            end(process)
    if process.returncode:
        raise CannotRunError(errors.strip().splitlines()[-1] if errors.strip() else f"herd: {process.returncode}")
    back = sorted(int(line) for line in output.split())
    if len(back) != watchers or back[0] < 0:
        why = f" ({errors.strip().splitlines()[0]})" if errors.strip() else ""
        raise CannotRunError(f"of {watchers} watchers {sum(each < 0 for each in back)} were not woken{why}")
    return _Run(back[0], statistics.median(back), back[-1])


def _rows(watchers: int, runs: list[tuple[_Run, _Run, _Run]]) -> list[tuple[str, ...]]:
    polled, signalled, limits = ([run[way] for run in runs] for way in range(3))
    device, sigio, limit = _medians(polled), _medians(signalled), _medians(limits)
    return [
        (f"{watchers:,}, poll() on the device", *_shown(device, polled)),
        (f"{watchers:,}, SIGIO from the device", *_shown(sigio, signalled)),
        (f"{watchers:,}, a pipe (the limit)", *_shown(limit, limits)),
        (f"{watchers:,}, poll() / limit", *(ratio(mine, other) for mine, other in zip(device, limit, strict=True))),
        (f"{watchers:,}, SIGIO / poll()", *(ratio(mine, other) for mine, other in zip(sigio, device, strict=True))),
    ]


def _medians(runs: list[_Run]) -> tuple[float, float, float]:
    return (
        statistics.median(run.first_ns for run in runs),
        statistics.median(run.median_ns for run in runs),
        statistics.median(run.last_ns for run in runs),
    )


def _shown(medians: tuple[float, float, float], runs: list[_Run]) -> list[str]:
    slowest = (max(r.first_ns for r in runs), max(r.median_ns for r in runs), max(r.last_ns for r in runs))
    return [f"{milliseconds(mine)} ({milliseconds(worst)})" for mine, worst in zip(medians, slowest, strict=True)]
