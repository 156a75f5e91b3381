"""All attacks, for longer than the tests, as a Markdown table on stdout: `python -m tests.attacks [NAME...]` (root)."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from itertools import count

from tests.attacks.arena import Outcome, killed, withstand
from tests.attacks.folders import SOURCES, end_orderly, folder
from tests.attacks.scenarios import TABLE, Scenario
from tests.support.programs import Programs

NOTIFICATIONS = 12
COLUMNS = (
    "attack",
    "bounded",
    "told: poll, SIGIO",
    "median ms",
    "worst ms",
    "SIGTERM s",
    "SIGKILL s",
    "PSS before, worst MB",
    "descriptors",
    "problems",
)


def main() -> int:
    """Run the scenarios that are named, or all; 1 if one was not withstood."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description="Measure every attack.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of scenarios; default: all")
    parser.add_argument("--notifications", type=int, default=NOTIFICATIONS, metavar="N")
    parser.add_argument("--short", action="store_true", help="the size that the tests take")
    parser.add_argument("--no-kills", action="store_true", help="without the runs that SIGKILL the server")
    arguments = parser.parse_args()
    end_orderly()
    _print_row(COLUMNS)
    _print_row(["---"] * len(COLUMNS))
    failed = False
    with folder() as built:
        programs = Programs(SOURCES, built)
        for scenario in TABLE:
            if not arguments.names or scenario.name in arguments.names:
                failed |= not _measure(scenario, programs, arguments)
    return int(failed)


def _measure(scenario: Scenario, programs: Programs, arguments: argparse.Namespace) -> bool:
    long = not arguments.short
    with folder() as directory:
        outcome = withstand(scenario, directory, programs, arguments.notifications, long=long)
    kills = [] if arguments.no_kills else list(_kills(scenario, programs, long=long))
    problems = outcome.problems + [f"{problem} (SIGKILL)" for kill in kills for problem in kill.problems]
    delays_ms = [delay * 1e3 for delay in outcome.delays_s]
    released = [kill.release_s for kill in kills]
    _print_row(
        [
            scenario.name,
            scenario.bounded,
            ", ".join(f"{told}/{outcome.notifications}" for told in outcome.told.values()),
            f"{statistics.median(delays_ms):.0f}" if delays_ms else "–",
            f"{max(delays_ms):.0f}" if delays_ms else "–",
            _seconds(outcome.stop_s),
            ", ".join(map(_seconds, released)) or "–",
            f"{outcome.pss_before_mb:.1f}, {outcome.pss_worst_mb:.1f}",
            f"{outcome.descriptors_before}, {outcome.descriptors_worst}",
            "; ".join(problem.replace("\n", " ")[:160] for problem in problems),
        ]
    )
    return not problems


def _kills(scenario: Scenario, programs: Programs, *, long: bool) -> Iterator[Outcome]:
    for child in count():
        with folder() as directory:
            outcome = killed(scenario, directory, programs, child, long=long)
        if outcome is None:
            return
        yield outcome


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"


def _print_row(cells: list[str] | tuple[str, ...]) -> None:
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    sys.exit(main())
