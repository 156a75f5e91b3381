"""The command line, and the page that it writes."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import Final

from benchmarks import latency, machine, rest, roundtrip, wake
from benchmarks.report import wrapped
from benchmarks.running import Measure, end_on_signals, run_part

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
COMMAND: Final = ".venv/bin/python -m benchmarks"
PARTS: Final[dict[str, tuple[str, Measure]]] = {
    "latency": (latency.TITLE, latency.measure),
    "roundtrip": (roundtrip.TITLE, roundtrip.measure),
    "rest": (rest.TITLE, rest.measure),
    "wake": (wake.TITLE, wake.measure),
}

INTRODUCTION: Final = (
    "The device beside what else there is, side by side in one run. `make bench` (as root) measures and prints these "
    "tables; this page is what one run wrote, figures and verdicts included."
)
READING: Final = (
    "The median stands for the usual case. p99 is the value that 99 in 100 are not above; of fewer than 100 values it "
    "is the largest. Load averages are from just before each part."
)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when at least one part ran, 1 when none could, 2 for wrong use, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the device beside its peers. Needs root for most; takes about four minutes.",
        epilog="Everything that is changed is put back, also on Ctrl-C. Not for a machine in production.",
    )
    parser.add_argument("part", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md; only with all parts")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.part if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]}; there are {', '.join(PARTS)}")
    names = options.part or list(PARTS)
    if options.write and set(names) != set(PARTS):
        parser.error("--write needs all parts: the page is about one run")
    end_on_signals()
    began = datetime.datetime.now(datetime.UTC)
    print("\n".join(f"{name}: {value}" for name, value in machine.facts()), flush=True)
    texts = {}
    try:
        for name in names:
            texts[name], _ = run_part(*PARTS[name])
            print(f"\n{texts[name]}", flush=True)
    except KeyboardInterrupt:
        print("\nbenchmarks: interrupted; what was changed is put back", file=sys.stderr)
        return 130
    if options.write:
        PAGE.write_text(_page(began, list(texts.values())))
        print(f"\nwritten: {PAGE.relative_to(PAGE.parent.parent)}")
    return int(all("\nNot run: " in text for text in texts.values()))


def _page(began: datetime.datetime, texts: list[str]) -> str:
    facts = [("command", f"`{COMMAND} --write`"), ("date", f"{began:%Y-%m-%d %H:%M} UTC"), *machine.facts()]
    listed = "\n".join(wrapped(f"- {name}: {value}") for name, value in facts)
    return "\n\n".join(["# Benchmarks", wrapped(INTRODUCTION), listed, wrapped(READING), *texts]) + "\n"
