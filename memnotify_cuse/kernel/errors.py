"""Errors of the parsers: which file, which line, what is wrong with it."""

from __future__ import annotations


class KernelFileError(Exception):
    """A kernel interface could not be used."""


class MalformedKernelFileError(KernelFileError):
    """A kernel file was read but does not have the documented format.

    `path` is the file, `line_number` counts from 1 (0: the file as a whole), `reason` says what is wrong.
    """

    def __init__(self, path: str, line_number: int, reason: str) -> None:
        super().__init__(f"{path}:{line_number}: {reason}" if line_number else f"{path}: {reason}")
        self.path = path
        self.line_number = line_number
        self.reason = reason


class KernelFileGoneError(KernelFileError):
    """A kernel file that is needed does not exist or cannot be opened; `path` names it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class NoKernelMemoryError(KernelFileGoneError):
    """The kernel has no memory for it just now, and may have some later."""
