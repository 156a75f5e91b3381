"""What a measurement hands back, and how it looks: a table that reads the same on a terminal and in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 120


class CannotRunError(Exception):
    """This measurement cannot be made here; the message is the reason, in one line."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under their headers; the first column is left-aligned, the others are numbers."""

    headers: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def __str__(self) -> str:
        lines = [self.headers, *self.rows]
        widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(self.headers))]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        shown = [self.headers, tuple(rule), *self.rows]
        return "\n".join("| " + " | ".join(_padded(line, widths)) + " |" for line in shown)


def _padded(line: tuple[str, ...], widths: list[int]) -> list[str]:
    first, *others = zip(line, widths, strict=True)
    return [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]


@dataclass(slots=True)
class Part:
    """One measurement: what was measured and how, its tables, and what they come to."""

    title: str
    how: list[str]
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    not_run: str | None = None

    def body(self) -> str:
        """Everything but the title."""
        if self.not_run is not None:
            return f"Not run: {self.not_run}."
        texts = [*map(wrapped, self.how), *map(str, self.tables), *map(wrapped, self.remarks)]
        return "\n\n".join(texts)


def wrapped(text: str) -> str:
    """One paragraph, or one item of a list when it starts with "- "."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def aim(what: str, reached: bool) -> str:
    """The line that says whether an aim was reached."""
    return f"**Aim:** {what}: {'reached' if reached else 'NOT reached'}."


def milliseconds(value_ns: float) -> str:
    return f"{value_ns / 1e6:.2f}"


def microseconds(value_ns: float) -> str:
    return f"{value_ns / 1e3:.1f}"


def ratio(value: float, other: float) -> str:
    """`value` in multiples of `other`."""
    return f"{value / other:.2f}" if other > 0 else "-"
