"""`make detection`: who is told when memory runs out, by what, how early, and who survives; on a Debian kernel.

    python -m benchmarks.detection [--peers WORKLOAD …] [--boots NAME …] [--jobs N] [--report]

Boots a guest for each combination of swap and LRU kind (tests/guest/scenarios.py has the experiments), measures on the
machine itself how much time a notice leaves at full speed (benchmarks/lead.py), and writes
build/results/detection.json, and from it docs/detection.md and docs/detection.svg. In the workloads of --peers there
are also runs in which the client listens to something else than the device, one for each. With --boots only these are
measured; the rows of the others stay as they are. --report only writes the page anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import lead
from benchmarks.detection_picture import draw
from benchmarks.detection_report import Row, in_order, write_page
from tests.support.guest.boot import Guest, Shape
from tests.support.guest.disk import PROJECT
from tests.support.guest.kernel import GuestUnavailableError
from tests.support.guest.prepare import prepare_for_work, results_of

RESULT: Final = PROJECT / "build" / "results" / "detection.json"
LIMIT_S: Final = 5400.0
LEAD: Final = "lead"
WORKLOADS: Final = ("cold", "hot", "mixed")
SPEEDS_MIB_S: Final = (4, 64, 0)
"""0: as fast as the processor can."""


@dataclass(frozen=True)
class Boot:
    """One guest and what is measured in it (see tests/guest/run.py)."""

    name: str
    shape: Shape
    experiments: tuple[str, ...]


def boots(peers: Sequence[str]) -> list[Boot]:
    """All guests: the long ones first, so that two at a time end together."""
    found = []
    for swap in ("zram", "none"):
        for lru in ("classic", "mglru"):
            experiments = [f"{kind}:{workload}" for workload in WORKLOADS for kind in ("off", "on", "onlookers")]
            experiments += ["cache:all"]
            experiments += [f"speed:{speed}" for speed in SPEEDS_MIB_S] if lru == "classic" else []
            found.append(Boot(f"detection-{swap}-{lru}", Shape(swap=swap, lru=lru), tuple(experiments)))
    listened = [Boot(f"{boot.name}-peers-{each}", boot.shape, (f"peers:{each}",)) for each in peers for boot in found]
    hovering = [Boot(f"{boot.name}-hover", boot.shape, ("hover",)) for boot in found]
    return [*found, *hovering, *listened, Boot("detection-churn", Shape(memory_mib=224), ("churn",))]


def measure(guest: Guest, work_disk: Path, boot: Boot) -> list[Row]:
    """The rows of one boot, as far as it came."""
    results = results_of(boot.name)
    shutil.rmtree(results, ignore_errors=True)
    command = [sys.executable, "-m", "tests.guest.run", *boot.experiments]
    code = guest.run(boot.shape, command, results, limit_s=LIMIT_S, work_disk=work_disk)
    rows = results / "rows.jsonl"
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    print(f"detection: {boot.name}: {len(found)} rows, exit code {code}", flush=True)
    if code != 0:
        log = results / "output.log"
        print(log.read_text(errors="replace")[-2000:] if log.exists() else "it did not boot", flush=True)
    return found


def merged(before: list[Row], measured: dict[str, list[Row]]) -> list[Row]:
    """The rows of `before`, with those of the boots that were `measured` in the place of their own."""
    rows = [row for row in before if row["boot"] not in measured]
    return rows + [{"boot": name, **row} for name, found in measured.items() for row in found]


def save(rows: list[Row]) -> None:
    """Write the rows, one a line."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def load() -> list[Row]:
    """The rows of the last run; none if there was none."""
    return list(json.loads(RESULT.read_text())) if RESULT.exists() else []


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when there are rows of every boot, 1 when some are missing, 2 when no guest can be had."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description="Measure detection.")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=WORKLOADS,
        default=WORKLOADS,
        help="where clients listen to something else, too (default: all; each takes about ten minutes a guest)",
    )
    parser.add_argument("--boots", nargs="+", metavar="NAME", help=f"only these, or {LEAD}; --list names them")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="guests at a time")
    parser.add_argument("--list", action="store_true", help="name the boots")
    parser.add_argument("--report", action="store_true", help="only write the page from the last results")
    options = parser.parse_args(arguments)
    known = {boot.name: boot for boot in boots(options.peers)}
    names = options.boots or [LEAD, *known]
    unknown = [name for name in names if name not in known and name != LEAD]
    if unknown:
        parser.error(f"no boot {unknown[0]}; there are {', '.join([LEAD, *known])}")
    if options.list:
        print("\n".join([LEAD, *known]))
        return 0
    if options.report:
        return _report(load())
    measured: dict[str, list[Row]] = {}
    if LEAD in names:
        measured[LEAD] = lead.measure()
    chosen = [known[name] for name in names if name != LEAD]
    if chosen:
        try:
            guest, work_disk = prepare_for_work()
        except GuestUnavailableError as error:
            print(f"detection not measured: {error}")
            return 2
        with ThreadPoolExecutor(max(1, options.jobs)) as pool:
            for boot, rows in zip(chosen, pool.map(partial(measure, guest, work_disk), chosen), strict=True):
                measured[boot.name] = rows
                save(merged(load(), {boot.name: rows}))
    save(merged(load() if options.boots else [], measured))
    return _report(load()) or int(not all(measured.values()))


def _report(rows: list[Row]) -> int:
    if not rows:
        print("no results yet: run it without --report first")
        return 1
    ordered = in_order(rows)
    write_page(ordered)
    draw(ordered)
    return 0


if __name__ == "__main__":
    sys.exit(main())
