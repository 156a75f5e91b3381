"""Fixtures of the mount tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Server, mount_problem


def pytest_runtest_setup(item: pytest.Item) -> None:
    problem = mount_problem()
    if problem is not None and item.get_closest_marker("mount"):
        pytest.skip(f"mount tier: {problem}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with a mount of its own, which ends the test with exit code 0 and no warning of its own."""
    with Server(tmp_path) as running:
        yield running
        assert running.process.poll() is None, f"the server ended: {running.log}"
        assert running.stop() == 0
        unexpected = [
            line
            for line in running.log.splitlines()
            if not line.startswith("ready: ") and "not permitted" not in line
        ]
        assert not unexpected, f"the server complained: {unexpected}"
