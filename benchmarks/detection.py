"""`make detection`: who is told when memory runs out, by what, how early, and who survives; on a Debian kernel.

    python -m benchmarks.detection [--peers WORKLOAD …] [--report]

Boots a guest for each combination of swap and LRU kind (see tests/guest/experiment.py for the experiments), writes
build/results/detection.json, and from it docs/detection.md and docs/detection.svg. In the workloads of --peers there
are also runs in which the client listens to something else than the device, one for each (default: cold; each takes
about ten minutes). --report only writes the page anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.detection_report import write_page
from tests.support.guest.boot import Guest, Shape
from tests.support.guest.disk import PROJECT
from tests.support.guest.kernel import GuestUnavailableError
from tests.support.guest.prepare import prepare, results_of

RESULT: Final = PROJECT / "build" / "results" / "detection.json"
LIMIT_S: Final = 3600.0
WORKLOADS: Final = ("cold", "hot", "mixed")
SPEEDS_MIB_S: Final = (4, 64, 0)
"""0: as fast as the processor can."""
CHURN_S: Final = 600


@dataclass(frozen=True)
class Boot:
    """One guest and what is measured in it."""

    name: str
    shape: Shape
    experiments: tuple[str, ...]


def boots(peers: Sequence[str]) -> list[Boot]:
    experiments = [f"{kind}:{workload}" for workload in WORKLOADS for kind in ("off", "on", "onlookers")]
    experiments += [f"peers:{workload}" for workload in peers]
    experiments += [f"cache:{load}" for load in ("stream", "database", "backup")]
    found = [
        Boot(f"detection-{swap}-{lru}", Shape(swap=swap, lru=lru), (*experiments, *_speeds(swap, lru)))
        for swap in ("zram", "none")
        for lru in ("classic", "mglru")
    ]
    return [Boot("detection-churn", Shape(memory_mib=224), ("churn",)), *found]


def _speeds(swap: str, lru: str) -> list[str]:
    return [f"speed:{speed}" for speed in SPEEDS_MIB_S] if lru == "classic" else []


def inside(experiments: list[str]) -> int:
    """Run the experiments; in the guest. Each row is written at once."""
    from tests.guest.experiment import (
        DEVICE,
        Place,
        churn,
        headline,
        low_memory_monitor,
        onlookers,
        page_cache,
        peers,
        save,
        server,
    )

    results = Path(os.environ["MEMNOTIFY_RESULTS"])
    logs = Path("/run/logs")
    logs.mkdir()
    place = Place(
        Path(os.environ["MEMNOTIFY_PROGRAMS"]),
        Path(os.environ["MEMNOTIFY_STREAM_DISK"]),
        os.environ["MEMNOTIFY_SWAP"],
        logs,
        results,
    )
    without = [each for each in experiments if each.startswith("off:")]
    for each in without:
        save(headline(place, each.partition(":")[2], "none", None), results)
    alone = experiments == ["churn"]
    with server(results), nullcontext() if alone else low_memory_monitor(place):
        for each in experiments:
            kind, _, what = each.partition(":")
            match kind:
                case "on":
                    save(headline(place, what, "device", DEVICE), results)
                case "onlookers":
                    save(onlookers(place, what), results)
                case "speed":
                    save(onlookers(place, "cold", rate_mib_s=int(what)), results)
                case "peers":
                    for name, source in peers().items():
                        save(headline(place, what, name, source), results)
                case "cache":
                    save(page_cache(place, what), results)
                case "churn":
                    save(churn(place, CHURN_S), results)
    return 0


def measure(guest: Guest, boot: Boot) -> list[dict[str, Any]]:
    """The rows of one boot, as far as it came."""
    results = results_of(boot.name)
    shutil.rmtree(results, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.detection", "--inside", *boot.experiments]
    code = guest.run(boot.shape, command, results, limit_s=LIMIT_S)
    rows = results / "rows.jsonl"
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    print(f"detection: {boot.name}: {len(found)} rows, exit code {code}", flush=True)
    if code != 0:
        log = results / "output.log"
        print(log.read_text(errors="replace")[-2000:] if log.exists() else "it did not boot", flush=True)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when there are rows of every boot, 1 when some are missing, 2 when no guest can be had."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description="Measure detection.")
    parser.add_argument(
        "--peers", nargs="*", choices=WORKLOADS, default=["cold"], help="where clients listen to something else, too"
    )
    parser.add_argument("--report", action="store_true", help="only write the page from the last results")
    parser.add_argument("--inside", nargs="+", metavar="EXPERIMENT", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        return inside(options.inside)
    if options.report:
        write_page(json.loads(RESULT.read_text()))
        return 0
    try:
        guest = prepare()
    except GuestUnavailableError as error:
        print(f"detection not measured: {error}")
        return 2
    chosen = boots(options.peers)
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        measured = list(pool.map(lambda boot: measure(guest, boot), chosen))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for rows in measured for row in rows]
    RESULT.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    write_page(rows)
    return 0 if all(measured) else 1


if __name__ == "__main__":
    sys.exit(main())
