"""The table, and docs/clients.md, which it is written to."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks import machine
from benchmarks.report import Table, wrapped
from tests.clients.course import HOLD_S, NOTIFICATIONS, SPARE, Outcome, Run
from tests.clients.stack import Stack
from tests.clients.stacks import CANNOT_BE_HAD

MOST_WAKES: Final = 2.0
"""Wake-ups of one notification that a program which only polls may have."""

HEADERS: Final = (
    "program",
    "told",
    "wake-ups",
    "CPU ms",
    "server ms",
    "only polls: told",
    "wake-ups",
    "server ms",
    "restart",
    "at the end",
)
INTRODUCTION: Final = (
    "Programs as their users would write them, unmodified, against the device: each waits for it in the way that its "
    "language or library has. `make clients` installs what it can of them, runs them, and prints this table; this page "
    "is what one run wrote. Each program is a short file in `tests/clients/programs`."
)
READING: Final = (
    f"**told**: of how many of {NOTIFICATIONS} notifications the program was told. They are simulated; pressure ends "
    f"{HOLD_S * 1000:.0f} ms after it was told, and its guard time passes before the next ({SPARE} more files are "
    "open, so that it is long enough to tell notifications apart).",
    "**wake-ups**: how often its loop said that the device is readable, for each notification, when it reads the "
    "record each time. In the columns **only polls** it never reads. A dash: it blocks in a read. Where pressure "
    "outlasts the guard time, as on a busy machine, a notification counts again.",
    "**CPU ms** and **server ms**: processor time of the program, and of the server, for each notification. Nobody "
    "waiting, a notification costs the server {idle} ms.",
    "**restart**: the process that serves is killed (SIGKILL), and its keeper replaces it. *told*: the program noticed "
    "nothing, and was told of the notification after that.",
    "**at the end**: what the program sees when the server ends (SIGTERM): what its way of waiting says, and the error "
    "of its read.",
)


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one stack: an outcome, or the reason why there is none. `polling`: None when it only blocks."""

    stack: Stack
    outcome: Outcome | None = None
    polling: Run | None = None
    reason: str = ""

    def cells(self) -> tuple[str, ...]:
        assert self.outcome is not None
        reading, polling = self.outcome.reading, self.polling
        return (
            self.stack.title,
            f"{reading.told}/{NOTIFICATIONS}",
            f"{reading.wakes_each:.1f}",
            _milliseconds(reading.program_ns),
            _milliseconds(reading.server_ns),
            f"{polling.told}/{NOTIFICATIONS}" if polling else "-",
            f"{polling.wakes_each:.1f}" if polling else "-",
            _milliseconds(polling.server_ns) if polling else "-",
            self._restart(),
            self.outcome.end.replace("|", "\\|"),
        )

    def problems(self) -> list[str]:
        """What is not as it should be."""
        if self.outcome is None:
            return []
        found = []
        runs = [("", self.outcome.reading), *([("when it only polls, ", self.polling)] if self.polling else [])]
        for when, run in runs:
            if run.told < NOTIFICATIONS:
                found.append(f"{when}told {run.told} of {NOTIFICATIONS} times")
            if run.wakes_each > MOST_WAKES:
                found.append(f"{when}woken {run.wakes_each:.0f} times for each notification")
        if self.outcome.noticed:
            found.append("noticed the restart")
        if not self.outcome.told_after:
            found.append("not told after the restart")
        if self.outcome.end == "nothing" or self.outcome.end.startswith("spins"):
            found.append(f"at the end: {self.outcome.end}")
        return found

    def _restart(self) -> str:
        assert self.outcome is not None
        return f"{'told' if self.outcome.told_after else 'NOT told'}{', noticed' if self.outcome.noticed else ''}"


def table(rows: Sequence[Row]) -> str:
    return str(Table(HEADERS, [row.cells() for row in rows if row.outcome is not None]))


def standing_out(rows: Sequence[Row]) -> list[str]:
    """A line for each row in which something is not as it should be, with the cause where it is known."""
    lines = []
    for row in rows:
        problems = row.problems()
        if problems or (row.stack.remark and row.outcome is not None):
            said = f"- **{row.stack.title}**: {'; '.join(problems) or 'all told'}. {row.stack.remark}"
            lines.append(wrapped(said.strip()))
    return lines


def not_run(rows: Sequence[Row]) -> list[str]:
    lines = [
        wrapped(f"- {row.stack.title}: {row.reason}{'. ' if row.stack.remark else ''}{row.stack.remark}")
        for row in rows
        if row.outcome is None
    ]
    return [*lines, *(wrapped(f"- {name}: {reason}") for name, reason in CANNOT_BE_HAD)]


def summary(rows: Sequence[Row]) -> str:
    outcomes = [row.outcome for row in rows if row.outcome is not None]
    polling = [row.polling for row in rows if row.polling is not None]
    return (
        f"{len(outcomes)} programs were run. Told of all {NOTIFICATIONS} notifications: "
        f"{sum(outcome.reading.told == NOTIFICATIONS for outcome in outcomes)}; of those {len(polling)} that only "
        f"polled: {sum(run.told == NOTIFICATIONS for run in polling)}, with at most "
        f"{max((run.wakes_each for run in polling), default=0.0):.1f} wake-ups for each notification. Told after a "
        f"restart that they did not notice: {sum(outcome.told_after and not outcome.noticed for outcome in outcomes)}."
    )


def page(rows: Sequence[Row], idle_ns: int, began: datetime.datetime) -> str:
    """docs/clients.md."""
    facts = [
        ("command", "`.venv/bin/python -m tests.clients --write`"),
        ("date", f"{began:%Y-%m-%d %H:%M} UTC"),
        *machine.facts(),
    ]
    parts = [
        "# Clients",
        wrapped(INTRODUCTION),
        "\n".join(wrapped(f"- {name}: {value}") for name, value in facts),
        wrapped(summary(rows)),
        "\n".join(wrapped(f"- {text.format(idle=_milliseconds(idle_ns))}") for text in READING),
        table(rows),
        "## What stands out",
        "\n".join(standing_out(rows)) or "Nothing.",
        "## Not run",
        "\n".join(not_run(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def _milliseconds(total_ns: int) -> str:
    return f"{total_ns / NOTIFICATIONS / 1e6:.2f}"
