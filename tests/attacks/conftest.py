"""Fixtures of the attacks: root and /dev/fuse are needed, programs in C are compiled once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.folders import SOURCES, folder
from tests.support.programs import Programs, compiler_problem


@pytest.fixture(autouse=True)
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("attacks: only root can be several users")


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """The C programs of tests/attacks/programs, where every user can run them."""
    problem = compiler_problem()
    if problem is not None:
        pytest.skip(problem)
    with folder() as built:
        yield Programs(SOURCES, built)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the server and its users meet."""
    with folder() as made:
        yield made
