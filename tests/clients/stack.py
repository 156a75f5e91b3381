"""What one line of the list says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

PYTHON: Final = "python"
"""The interpreter with the packages of PyPI, in a virtual environment of its own."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A language, a way to wait, and what they need.

    `title` names it in the table. `source` is a file of programs/, "" for a tool; `language` says how that becomes a
    command. `libraries` are what the language links or imports: for C, names of pkg-config, and flags. `command` are
    the words before the source (an interpreter), or all of a tool's, where DEVICE stands for the device.

    `debian`, `pypi` and `npm` are the packages to install. `blocks`: it reads, and never polls. `in_tests`: `make test`
    runs it too, where what it needs is installed. `remark` is the cause of what stands out in its row.
    """

    title: str
    source: str
    language: str
    libraries: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()
    pypi: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    blocks: bool = False
    in_tests: bool = False
    remark: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For files: letters, digits and hyphens."""
        letters = "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())
        return "-".join(word for word in letters.split("-") if word)

    @property
    def is_tool(self) -> bool:
        return not self.source
