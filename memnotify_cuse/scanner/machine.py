"""What does not change while the server runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """What the rules need to know of a machine: whether MGLRU is in use, and the page size in KiB."""

    mglru: bool
    page_kb: int
