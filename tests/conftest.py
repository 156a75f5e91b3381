"""Fixtures of the mount tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import calm_proc, serving
from tests.support.server import Server, mount_problem


def pytest_runtest_setup(item: pytest.Item) -> None:
    problem = mount_problem()
    if problem is not None and item.get_closest_marker("mount"):
        pytest.skip(f"mount tier: {problem}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server whose only pressure is simulated. It must end with exit code 0 and without a complaint."""
    with serving(tmp_path, "--proc", str(calm_proc(tmp_path).path)) as running:
        yield running


@pytest.fixture
def fuse_for_all() -> Iterator[None]:
    """/dev/fuse as udev makes it on most machines: open to every user."""
    device = Path("/dev/fuse")
    mode = device.stat().st_mode & 0o7777
    device.chmod(mode | 0o666)
    try:
        yield
    finally:
        device.chmod(mode)
