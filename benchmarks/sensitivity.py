"""What each number and each rule of the scanner is good for: `python -m benchmarks.sensitivity --write`.

All recordings, and the made-up counters of tests/support/constructed.py, are played as the scanner would have looked at
them, once with the rules as they are, and once with each of the numbers in scanner/choices.py halved, once with it
doubled, and once without each rule or part of one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final, TextIO

from benchmarks.report import Table, wrapped
from memnotify_cuse.scanner import choices, evidence, forecast, zones
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.polling import PollingInterval
from memnotify_cuse.scanner.recordingfile import Recording
from memnotify_cuse.scanner.sample import Sample
from memnotify_cuse.scanner.zones import ZoneTracker
from tests.support.constructed import CASES
from tests.support.replay import GUEST_TRACES, TRACES, Notice, play_samples

PAGE: Final = Path(__file__).parents[1] / "docs" / "sensitivity.md"

ONLY_REMOVED: Final = frozenset({"ANON_SHARE"})
"""Numbers that are held by what comes without them."""

NOT_RECORDED: Final = {"ZRAM_PRIOR_KB": "recordings hold what swap wins; see tests/scanner/test_swapspace.py"}
"""Why a number is not held by any recording."""


@dataclass(frozen=True, slots=True)
class Played:
    """One recording: its samples, and its name."""

    name: str
    machine: Machine
    samples: tuple[Sample, ...]


Outcome = dict[str, tuple[Notice, ...]]


@dataclass(frozen=True, slots=True)
class Change:
    """How an outcome differs from the one of the rules as they are."""

    changed: tuple[str, ...]
    verdicts: tuple[str, ...]
    first_ms: float

    @property
    def is_none(self) -> bool:
        """Whether nothing has changed."""
        return not self.changed

    def __str__(self) -> str:
        if self.is_none:
            return "nothing"
        verdicts = f", **verdict: {', '.join(self.verdicts)}**" if self.verdicts else ""
        return f"{len(self.changed)} ({self.first_ms:+,.0f} ms){verdicts}"


def recordings() -> list[Played]:
    """All there are."""
    found = []
    for path in sorted([*TRACES.glob("*.jsonl.gz"), *GUEST_TRACES.glob("*.jsonl.gz")]):
        recording = Recording(path)
        found.append(Played(path.name.partition(".")[0], recording.header.machine, tuple(recording.samples())))
    return found + [Played(case.name, case.machine, tuple(case.samples())) for case in CASES]


def looked_at(played: Played) -> Iterator[Sample]:
    """The samples that the scanner would have taken: each when it is due, or when an event reports reclaim."""
    tracker = ZoneTracker(played.machine)
    interval = PollingInterval(wakeup=True, page_kb=played.machine.page_kb)
    due_ns = 0
    for sample in played.samples:
        if sample.time_ns < due_ns and not sample.events:
            continue
        scan = tracker.update(sample)
        if sample.events:
            interval.woken(sample.time_ns)
        delay_s = interval.next_delay_s(
            now_ns=sample.time_ns,
            reclaiming=scan.measured.reclaim.scanned_pages > 0,
            raised=any(state.under_pressure for state in scan.states),
            zones=sample.zoneinfo.zones,
            forecasts=scan.measured.forecasts.values(),
        )
        due_ns = sample.time_ns + int(delay_s * 1e9)
        yield sample


def outcome(of: Sequence[Played]) -> Outcome:
    """The notices of each recording, as the rules are now."""
    return {played.name: tuple(play_samples(looked_at(played), played.machine).notices) for played in of}


def compare(before: Outcome, after: Outcome) -> Change:
    """What has changed; of the first notices the one that moved most."""
    changed = tuple(name for name in before if before[name] != after[name])
    verdicts = tuple(
        name for name in changed if {each.zone for each in before[name]} != {each.zone for each in after[name]}
    )
    moved = [
        (after[name][0].time_ns - before[name][0].time_ns) / 1e6 for name in changed if before[name] and after[name]
    ]
    return Change(changed, verdicts, max(moved, key=abs, default=0.0))


@contextmanager
def replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """`module.name` is `value` for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def numbers() -> dict[str, float]:
    """The choices, in the order of their table."""
    return {name: value for name, value in vars(choices).items() if name.isupper()}


def _without(rule: object) -> tuple[object, ...]:
    return tuple(each for each in evidence.RULES if each is not rule)


def _nothing(*_args: object) -> int:
    return 0


def _always(*_args: object) -> bool:
    return True


REMOVED: Final[tuple[tuple[str, ModuleType, str, object], ...]] = (
    *((f"rule `{rule.__name__}`", evidence, "RULES", _without(rule)) for rule in evidence.RULES),
    ("in earnest: a part of all anonymous pages", choices, "ANON_KB", 0),
    ("in earnest: a share of what is scanned", choices, "ANON_SHARE", 1 << 60),
    ("in earnest: not for page cache", choices, "FILE_PART", 1e-12),
    ("program text is not left", forecast, "text_pages", _nothing),
    ("slab is left", forecast, "slab_pages", _nothing),
    ("the ARC is left", forecast, "arc_pages", _nothing),
    ("room on slower nodes is left", forecast, "room_below", _nothing),
    ("crumbs of anonymous memory raise no zone", zones, "has_a_share", _always),
)
"""Rules and parts of rules, by what they say, and what takes their place."""

TITLE: Final = """# What each number of the rules is good for

`make sensitivity` plays all {count} recordings and made-up machines (tests/support/constructed.py) as the scanner
would have looked at them: once with the rules as they are, then with each number of `scanner/choices.py` halved and
doubled, and without each rule or part of one. A cell says in how many of them any notice has changed (its time, zone,
reason or level), by how much the first notice of one has moved at most, and where other zones were told than before,
or none.
"""


def measure(of: Sequence[Played], *, said: TextIO) -> str:
    """The page. What is being done is said to `said`."""
    as_they_are = outcome(of)
    idle: list[str] = []
    rows = []
    for name, value in numbers().items():
        print(f"{name} …", file=said, flush=True)
        cells = []
        for factor in (0.5, 2):
            with replaced(choices, name, type(value)(value * factor)):
                cells.append(compare(as_they_are, outcome(of)))
        if all(cell.is_none for cell in cells) and name not in ONLY_REMOVED:
            idle.append(f"`{name}`" + (f" ({NOT_RECORDED[name]})" if name in NOT_RECORDED else ""))
        rows.append((f"`{name}`", f"{value:,}", *map(str, cells)))
    without = []
    for what, module, name, instead in REMOVED:
        print(f"without: {what} …", file=said, flush=True)
        with replaced(module, name, instead):
            cell = compare(as_they_are, outcome(of))
        if cell.is_none:
            idle.append(what)
        without.append((what, str(cell)))
    return "\n".join(
        [
            TITLE.format(count=len(of)),
            str(Table(("number", "value", "halved", "doubled"), rows)),
            "",
            str(Table(("without", "changes"), without)),
            "",
            wrapped(f"Changes nothing: {'; '.join(idle) if idle else 'none'}."),
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description="what each number of the scanner's rules is good for")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    args = parser.parse_args(argv)
    page = measure(recordings(), said=sys.stderr)
    if args.write:
        PAGE.write_text(page)
    else:
        print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
