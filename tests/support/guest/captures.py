"""Makes the recordings of tests/fixtures/traces/guest: what the scanner sees in the experiments of the guest tier.

    python -m tests.support.guest.captures [NAME …] [--experiments KIND:WHAT …]

NAME is a combination of swap and LRU kind, as zram-mglru (default: all six, about two hours without KVM).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from memnotify_cuse.scanner.recordingfile import Recording, RecordingWriter
from memnotify_cuse.scanner.sample import Sample
from tests.guest.experiment import WORKLOADS, Log, file_name, moments
from tests.support.guest.boot import Guest, Shape
from tests.support.guest.disk import PROJECT
from tests.support.guest.kernel import GuestUnavailableError
from tests.support.guest.prepare import prepare_for_work, results_of

FIXTURES: Final = PROJECT / "tests" / "fixtures" / "traces" / "guest"
LIMIT_S: Final = 3600.0
EXPERIMENTS: Final = (*(f"onlookers:{workload}" for workload in WORKLOADS), "cache:all")
SHAPES: Final = {
    f"{swap}-{lru}": Shape(swap=swap, lru=lru) for swap in ("zram", "none", "disk") for lru in ("classic", "mglru")
}
AFTER_NS: Final = 500_000_000
"""How much is kept of what came after the OOM kill."""


def capture(guest: Guest, work_disk: Path, experiments: Sequence[str], name: str) -> int:
    """Boot, run the experiments, and keep their recordings; how many there are."""
    results = results_of(f"captures-{name}")
    shutil.rmtree(results, ignore_errors=True)
    command = [sys.executable, "-m", "tests.guest.run", "--record", *experiments]
    code = guest.run(SHAPES[name], command, results, limit_s=LIMIT_S, work_disk=work_disk)
    rows = results / "rows.jsonl"
    lines = rows.read_text().splitlines() if rows.exists() else []
    logs = sorted((results / "logs").iterdir()) if lines else []
    for folder, line in zip(logs, lines, strict=False):
        row = json.loads(line)
        keep(folder, row, FIXTURES / f"{name}-{file_name(row['workload'])}.jsonl.gz")
    print(f"captures: {name}: {len(lines)} recordings, exit code {code}", flush=True)
    if code != 0:
        log = results / "output.log"
        print(log.read_text(errors="replace")[-2000:] if log.exists() else "it did not boot", flush=True)
    return len(lines)


def keep(folder: Path, row: dict[str, Any], path: Path) -> None:
    """Write the recording in `folder` to `path`, with the moments that the kernel's counters tell of."""
    recording = Recording(folder / "0-recording.jsonl.gz")
    marks = moments(Log(next(folder.glob("*-watch.log"))))
    title = f"{row['swap']} swap, {row['lru']}, {row['workload']}: nobody gives anything back"
    samples = list(recording.samples())
    if "oom_kill_ns" in marks:
        samples = [each for each in samples if each.time_ns <= marks["oom_kill_ns"] + AFTER_NS]
    path.parent.mkdir(parents=True, exist_ok=True)
    with RecordingWriter(path, replace(recording.header, title=title, marks=marks), replace=True) as writer:
        for each in samples:
            writer.write(without_events(each))


def without_events(sample: Sample) -> Sample:
    """The sample without what the trace told but for anonymous pages: thousands of lines about page cache."""
    if sample.events is None:
        return sample
    return replace(sample, events=tuple(event for event in sample.events if event.anon))


def parse_choice(
    parser: argparse.ArgumentParser, arguments: list[str] | None, experiments: tuple[str, ...]
) -> argparse.Namespace:
    """Parse which combinations (`name`) and which of the `experiments` are to be run: all where none is named."""
    parser.add_argument("name", nargs="*", metavar="NAME", help=", ".join(SHAPES))
    parser.add_argument("--experiments", nargs="+", default=experiments, metavar="KIND:WHAT", help="default: all")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.name if name not in SHAPES]
    if unknown:
        parser.error(f"no combination {unknown[0]}; there are {', '.join(SHAPES)}")
    options.name = options.name or list(SHAPES)
    return options


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.guest.captures", description="Record experiments.")
    options = parse_choice(parser, arguments, EXPERIMENTS)
    try:
        guest, work_disk = prepare_for_work()
    except GuestUnavailableError as error:
        print(f"no captures: {error}")
        return 2
    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(partial(capture, guest, work_disk, options.experiments), options.name))
    return int(not all(counts))


if __name__ == "__main__":
    sys.exit(main())
