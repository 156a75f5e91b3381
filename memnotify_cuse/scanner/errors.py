"""What can go wrong with a recording; apart from the rest, which a server without one need not load."""

from __future__ import annotations


class RecordingError(Exception):
    """A recording that cannot be written, or read: `path` is the file, `reason` says what is wrong.

    `line_number` counts the lines of the uncompressed file from 1 (0: the file as a whole).
    """

    def __init__(self, path: str, line_number: int, reason: str) -> None:
        super().__init__(f"{path}:{line_number}: {reason}" if line_number else f"{path}: {reason}")
        self.path = path
        self.line_number = line_number
        self.reason = reason
