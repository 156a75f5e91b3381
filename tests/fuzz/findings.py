"""What a part of the fuzzer did and found, and the table that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

KEPT_EXAMPLES: Final = 5
"""Of each kind of finding; the others are counted."""


@dataclass(slots=True)
class Findings:
    """Findings by kind: how many, and the first few in a form that can be run again."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < KEPT_EXAMPLES and example not in kept:
            kept.append(example)

    def merge(self, other: Findings) -> None:
        self.counts += other.counts
        for kind, examples in other.examples.items():
            kept = self.examples.setdefault(kind, [])
            kept += examples[: KEPT_EXAMPLES - len(kept)]

    def lines(self) -> list[str]:
        """Each kind with its number, its examples below it."""
        lines: list[str] = []
        for kind, count in sorted(self.counts.items()):
            lines.append(f"{count} × {kind}")
            lines += [f"    {example}" for example in self.examples[kind]]
        return lines


@dataclass(frozen=True, slots=True)
class Outcome:
    """One part's run: `what` was tried, `tried` of it, in `seconds`; `facts` are counted and are no findings."""

    what: str
    tried: int
    seconds: float
    findings: Findings
    facts: Counter[str] = field(default_factory=Counter)


def table(outcomes: Iterable[Outcome]) -> str:
    """What was tried, how often, for how long, and how many findings; then the facts and the findings themselves."""
    rows = [("what", "how many", "seconds", "findings")]
    notes: list[str] = []
    for each in outcomes:
        rows.append((each.what, f"{each.tried:,}", f"{each.seconds:.0f}", str(each.findings.counts.total())))
        notes += [f"{each.what}: {count:,} {fact}" for fact, count in sorted(each.facts.items())]
        notes += [f"{each.what}: FOUND {line}" for line in each.findings.lines()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}" for row in rows
    ]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def merged(outcomes: Sequence[Outcome], seconds: float) -> Outcome:
    """Several runs of the same part as one, which took `seconds`."""
    findings, facts = Findings(), Counter[str]()
    for each in outcomes:
        findings.merge(each.findings)
        facts += each.facts
    return Outcome(outcomes[0].what, sum(each.tried for each in outcomes), seconds, findings, facts)
