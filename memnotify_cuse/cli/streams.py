"""stdout and stderr as a command finds them: closed, full, or a pipe without a reader.

What a command has to say may be lost then. That must change neither what it does nor its exit code; only output that
the user asked for, and that cannot be written, is an error.
"""

from __future__ import annotations

import contextlib
import os
import sys


def have_standard_streams() -> None:
    """Have something open at descriptors 0 to 2, or the first file that is opened would be taken for one of them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # What Python found closed at its start is None.
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def complain(line: str) -> None:
    """Write a line to stderr, if that can be done."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(2)


def silence(fd: int) -> None:
    """Lose what is still to be written to `fd`: the interpreter tries again at its end, and would complain itself."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fd)
        os.close(null)
