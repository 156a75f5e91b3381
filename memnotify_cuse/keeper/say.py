"""A line of the keeper's on stderr."""

from __future__ import annotations

import contextlib
import os
import select


def say(text: str) -> None:
    """Write a line to stderr, if that does not wait."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(0):
            os.write(2, f"memnotify: {text}\n".encode(errors="replace"))
