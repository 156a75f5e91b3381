"""A server that sees the real machine, which no other run of the tests puts under pressure meanwhile."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import serving
from tests.support.reclaim import supported
from tests.support.server import Server

LOCK = Path("/run/memnotify-reclaim-tests.lock")
LIMIT_S = 900.0


@pytest.fixture
def _machine() -> Iterator[None]:
    """The machine to ourselves, as far as real reclaim goes: runs of the tests take turns."""
    reason = supported()
    if reason is not None:
        pytest.skip(f"no real reclaim here: {reason}")
    with LOCK.open("w") as lock:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, f"another run holds {LOCK} for more than {LIMIT_S} s"
                time.sleep(0.1)
        # An episode takes place in free memory, and page cache that others left would have it refused.
        Path("/proc/sys/vm/drop_caches").write_text("1")
        yield


@pytest.fixture
def server(_machine: None, tmp_path: Path) -> Iterator[Server]:
    """A server on the real /proc."""
    with serving(tmp_path) as running:
        yield running
