"""Fixtures of the mount tier: servers that see a machine at rest, whatever the one that runs the tests does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import SwaplessProc, serving
from tests.support.programs import Programs, compiler_problem
from tests.support.server import Server


@pytest.fixture
def swapless(tmp_path: Path) -> SwaplessProc:
    """What the `swapless_server` sees."""
    return SwaplessProc(tmp_path)


@pytest.fixture
def swapless_server(tmp_path: Path, swapless: SwaplessProc) -> Iterator[Server]:
    """A server that can be made to notify exactly once, for as long as it takes."""
    with serving(tmp_path, "--proc", str(swapless.path)) as running:
        yield running


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """The C programs of the folder programs/."""
    problem = compiler_problem()
    if problem is not None:
        pytest.skip(problem)
    return Programs(Path(__file__).parent / "programs", tmp_path_factory.mktemp("programs"))


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A folder that every user may look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="memnotify-") as name:
        os.chmod(name, 0o755)
        yield Path(name)
