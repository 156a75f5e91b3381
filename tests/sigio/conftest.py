"""Fixtures for SIGIO on the mount."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.mounted import SwaplessProc, calm_proc
from tests.support.programs import Programs, compiler_problem
from tests.support.server import Server
from tests.support.sigio import (
    DeviceSource,
    FifoSource,
    NewPuppet,
    PtySource,
    Puppet,
    SocketSource,
    Source,
    Witness,
    serving,
)

SOURCES = ("device", "fifo", "pty", "socket")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server whose only pressure is simulated, and that tells everybody at each notification."""
    with serving(tmp_path, "--proc", str(calm_proc(tmp_path).path), "--no-herd-control") as running:
        yield running


@pytest.fixture
def swapless(tmp_path: Path) -> SwaplessProc:
    """What the `swapless_server` sees."""
    return SwaplessProc(tmp_path)


@pytest.fixture
def swapless_server(tmp_path: Path, swapless: SwaplessProc) -> Iterator[Server]:
    """A server that can be made to notify exactly once."""
    with serving(tmp_path, "--proc", str(swapless.path), "--no-herd-control") as running:
        yield running


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """The C programs of the folder programs/."""
    problem = compiler_problem()
    if problem is not None:
        pytest.skip(problem)
    return Programs(Path(__file__).parent / "programs", tmp_path_factory.mktemp("programs"))


@pytest.fixture
def new_puppet(programs: Programs) -> Iterator[NewPuppet]:
    """Starts puppets, which end with the test."""
    with ExitStack() as stack:

        def new(pass_fds: Sequence[int] = ()) -> Puppet:
            return stack.enter_context(Puppet(programs("puppet"), pass_fds=pass_fds))

        yield new


@pytest.fixture
def puppet(new_puppet: NewPuppet) -> Puppet:
    return new_puppet()


@pytest.fixture
def witness(server: Server, new_puppet: NewPuppet) -> Witness:
    return Witness(server, new_puppet())


def _source(name: str, directory: Path, request: pytest.FixtureRequest) -> Source:
    match name:
        case "fifo":
            return FifoSource(directory)
        case "pty":
            return PtySource()
        case "socket":
            return SocketSource(directory)
    return DeviceSource(request.getfixturevalue("swapless_server"), request.getfixturevalue("swapless"))


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, open_directory: Path) -> Iterator[Source]:
    """The device, and what the kernel itself has O_ASYNC for: one test for all of them."""
    made = _source(str(request.param), open_directory, request)
    yield made
    made.close()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A folder that every user may look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="memnotify-") as name:
        os.chmod(name, 0o755)
        yield Path(name)
