"""A stand-in for the device, for what the real one never does: a FIFO that the test writes to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


class Fifo:
    """A FIFO with a writer: it blocks and polls as the device does, and sends whatever it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # Read-write, so that the opening does not wait for the reader.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def send(self, data: bytes) -> None:
        """Let ``data`` be read."""
        assert os.write(self._fd, data) == len(data)

    def hang_up(self) -> None:
        """Let the reader see the end of file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    """A FIFO in place of the device."""
    fifo = Fifo(tmp_path / "fifo")
    yield fifo
    fifo.hang_up()
