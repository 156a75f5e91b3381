"""`make matrix`: every way to take memory, and every load that nobody is to be told of, for each kind of swap and LRU.

    python -m benchmarks.matrix [NAME …] [--keep]

Boots a guest for each combination, and writes build/results/matrix.json, and from it docs/matrix.md. What the scanner
saw is recorded; with --keep the recordings of the loads go to tests/fixtures/traces/guest, where the rules have to stay
silent from then on. With a NAME, as disk-mglru, only these are measured anew; the rows of the others stay.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.detection_report import DOCS, Row, end_of, machine_of
from benchmarks.report import Table, wrapped
from tests.guest.experiment import WORKLOADS, file_name
from tests.guest.loads import CACHE_LOADS
from tests.support.guest.boot import Guest
from tests.support.guest.captures import FIXTURES, SHAPES, keep, parse_choice
from tests.support.guest.disk import PROJECT
from tests.support.guest.kernel import GuestUnavailableError
from tests.support.guest.prepare import prepare_for_work, results_of

PAGE: Final = DOCS / "matrix.md"
RESULT: Final = PROJECT / "build" / "results" / "matrix.json"
LIMIT_S: Final = 5400.0
EXPERIMENTS: Final = (*(f"on:{workload}" for workload in WORKLOADS), "cache:all")
INTRODUCTION: Final = (
    "What `make matrix` measured in guests of 512 MiB with a Debian kernel, an emulated processor, and swap of "
    "half the memory or none. A program holds two fifths of the memory available as a cache and gives back 16 MiB "
    "of it whenever it is told, beside one that takes what is left and three fifths of that cache: touched once "
    "(cold) or again and again (hot), beside a file that is read (mixed), 32 MiB at a time (burst), as shared "
    "memory, locked, by writing to what it had before it forked (cow), or in pipes, which are on no list of the "
    "kernel's. Survived: no OOM kill, and both got what they wanted; the number is how often the first one was "
    "told."
)
LOADS: Final = (
    "Nobody is to be told of these (tests/guest/loads.py); the number is how often somebody was. Page cache that "
    "is read or written, maps read at random, memory given up by MADV_FREE, names that do not exist and inodes in "
    "the kernel's caches, a memory cgroup at its limit, huge pages that are set aside and given back, and a large "
    "program that ends."
)


def measure(guest: Guest, work_disk: Path, experiments: list[str], kept: bool, name: str) -> list[Row]:
    """The rows of one combination, as far as it came."""
    results = results_of(f"matrix-{name}")
    shutil.rmtree(results, ignore_errors=True)
    command = [sys.executable, "-m", "tests.guest.run", "--record", *experiments]
    code = guest.run(SHAPES[name], command, results, limit_s=LIMIT_S, work_disk=work_disk)
    lines = (results / "rows.jsonl").read_text().splitlines() if (results / "rows.jsonl").exists() else []
    rows: list[Row] = [json.loads(line) for line in lines]
    for folder, row in zip(sorted((results / "logs").iterdir()) if rows else [], rows, strict=False):
        if kept and row["workload"] in CACHE_LOADS and not row["notified"]:
            keep(folder, row, FIXTURES / f"{name}-{file_name(row['workload'])}.jsonl.gz")
    print(f"matrix: {name}: {len(rows)} rows, exit code {code}", flush=True)
    if code != 0:
        log = results / "output.log"
        print(log.read_text(errors="replace")[-2000:] if log.exists() else "it did not boot", flush=True)
    return rows


def page(rows: list[Row]) -> str:
    """The text of docs/matrix.md."""
    machines = list(dict.fromkeys((row["swap"], row["lru"]) for row in rows))
    found = {(row["swap"], row["lru"], row["workload"]): row for row in rows}
    headers = ("", *(machine_of(*each) for each in machines))

    def cells(workload: str, *, told: bool) -> tuple[str, ...]:
        here = [found.get((*each, workload)) for each in machines]
        return (workload, *("-" if row is None else _cell(row, told=told) for row in here))

    kernels = ", ".join(sorted({row["kernel"] for row in rows}))
    done = {row["workload"] for row in rows}
    survived = Table(headers, [cells(workload, told=True) for workload in WORKLOADS if workload in done])
    silent = Table(headers, [cells(load, told=False) for load in CACHE_LOADS if load in done])
    parts = ["# The matrix", wrapped(INTRODUCTION), f"Kernel: {kernels}.", str(survived)]
    return "\n\n".join([*parts, "## Silent", wrapped(LOADS), str(silent)]) + "\n"


def _cell(row: Row, *, told: bool) -> str:
    return f"{end_of(row)}, {row['notified']}" if told else str(row["notified"])


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when there are rows of every combination, 1 when some are missing, 2 when no guest can be had."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description="Measure the matrix.")
    parser.add_argument("--keep", action="store_true", help="keep the recordings of silent loads")
    parser.add_argument("--jobs", type=int, default=2, help="guests at a time (default: %(default)s)")
    options = parse_choice(parser, arguments, EXPERIMENTS)
    try:
        guest, work_disk = prepare_for_work()
    except GuestUnavailableError as error:
        print(f"matrix not measured: {error}")
        return 2
    rows: list[Row] = json.loads(RESULT.read_text()) if RESULT.exists() else []
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        work = partial(measure, guest, work_disk, list(options.experiments), options.keep)
        found = [row for measured in pool.map(work, options.name) for row in measured]
    new = {(row["swap"], row["lru"], row["workload"]) for row in found}
    rows = [row for row in rows if (row["swap"], row["lru"], row["workload"]) not in new] + found
    rows.sort(key=lambda row: (["none", "zram", "disk"].index(row["swap"]), row["lru"]))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(page(rows))
    return int(len({(row["swap"], row["lru"]) for row in found}) < len(options.name))


if __name__ == "__main__":
    sys.exit(main())
