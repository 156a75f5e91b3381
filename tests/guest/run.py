"""Runs experiments inside a guest, one after the other; each row is written at once.

    python -m tests.guest.run [--record] off:cold on:cold fast:200 onlookers:hot speed:64 peers:cold cache:all
    python -m tests.guest.run hover churn

With --record, what the scanner sees in each of them is recorded, and nobody listens to anything but the device.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from tests.guest.experiment import Place, save
from tests.guest.listeners import DEVICE, low_memory_monitor, peers
from tests.guest.loads import available_loads
from tests.guest.scenarios import churn, headline, hover, onlookers, page_cache, server

CHURN_S: Final = 600
LOGS: Final = Path("/run/logs")
ALONE: Final = ("churn", "hover")
"""Experiments in which nobody listens to anything but the device."""


def run(place: Place, experiment: str) -> None:
    """One experiment, KIND or KIND:WHAT, and its rows."""
    kind, _, what = experiment.partition(":")
    match kind:
        case "off":
            save(headline(place, what, "none", None), place.results)
        case "on":
            save(headline(place, what, "device", DEVICE), place.results)
        case "onlookers":
            save(onlookers(place, what), place.results)
        case "speed":
            save(onlookers(place, "cold", rate_mib_s=int(what)), place.results)
        case "fast":
            save(headline(place, "cold", "device", DEVICE, rate_mib_s=int(what)), place.results)
        case "peers":
            for name, source in peers().items():
                save(headline(place, what, name, source), place.results)
        case "cache":
            for load in available_loads(place) if what == "all" else [what]:
                save(page_cache(place, load), place.results)
        case "hover":
            save(hover(place), place.results)
        case "churn":
            save(churn(place, int(what or CHURN_S)), place.results)
        case _:
            raise ValueError(f"no experiment {experiment!r}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.guest.run", description="Run experiments; in a guest.")
    parser.add_argument("experiment", nargs="+", metavar="KIND[:WHAT]")
    parser.add_argument("--record", action="store_true", help="record what the scanner sees")
    options = parser.parse_args(arguments)
    LOGS.mkdir()
    place = Place.of_boot(LOGS, recording=options.record)
    for each in options.experiment:
        if each.startswith("off:"):
            run(place, each)
    served = [each for each in options.experiment if not each.startswith("off:")]
    quiet = options.record or all(each.partition(":")[0] in ALONE for each in served)
    if served:
        with server(place.results), nullcontext() if quiet else low_memory_monitor(place):
            for each in served:
                run(place, each)
    return 0


if __name__ == "__main__":
    sys.exit(main())
