"""Memory cgroups of a test's own, and a server that sees the real machine.

What that machine is short of meanwhile is no matter here: each test looks at what is said of its own cgroups.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cgroups import Cgroup, cgroup_problem, folder_on_disk, new_cgroup
from tests.support.mounted import serving
from tests.support.server import Server, mount_problem

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session", autouse=True)
def _memory_cgroups() -> None:
    problem = mount_problem() or cgroup_problem()
    if problem is not None:
        pytest.skip(f"no memory cgroups here: {problem}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server on the real /proc. It must end with exit code 0 and without a complaint."""
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    """A cgroup without a limit yet."""
    with new_cgroup() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Cgroup]:
    """Another one."""
    with new_cgroup() as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder whose files come into the page cache."""
    folder = folder_on_disk(tmp_path, Path("/var/tmp"))
    if folder is None:
        pytest.skip(f"neither {tmp_path} nor /var/tmp is on a disk")
    return folder
