"""Fixtures of the guest tier: what `make test-vm` booted, and a server in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.guest.experiment import Place, Row, save
from tests.guest.scenarios import server


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Where the experiments take place: never on the machine itself, whose memory must not run out."""
    if "MEMNOTIFY_RESULTS" not in os.environ:
        pytest.skip("guest tier: runs in a virtual machine, by `make test-vm`")
    return Place.of_boot(tmp_path_factory.mktemp("logs"))


@pytest.fixture
def rows(place: Place) -> Iterator[list[Row]]:
    """What a test measured; it goes out with the results, whether the test passes or not."""
    measured: list[Row] = []
    yield measured
    for row in measured:
        save(row, place.results)


@pytest.fixture(scope="module")
def device_server(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """The server, at its default paths, as the tests of this module need it."""
    with server(place.logs) as process:
        yield process
