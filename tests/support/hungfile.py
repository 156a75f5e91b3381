"""A file that can be opened and that answers nothing else: a FUSE file system of one file, as any user may have one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.support.onefile import INTERRUPT, RELEASE, OneFile

_UNASKED: Final = frozenset({RELEASE, INTERRUPT})


class HungFile(OneFile):
    """The file at `path`, for the block, for root to make. `asked` has the requests that wait for an answer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "hung", 0o100644)
        self.asked: list[int] = []
        self.begin()

    def __enter__(self) -> HungFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.unmount()
        self.end()

    def heed(self, opcode: int, unique: int, body: bytes) -> None:
        if opcode not in _UNASKED:
            self.asked.append(opcode)
