"""Fixtures of the conformance suite: each test of the device runs over every transport."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import Machine
from tests.support.server import Server
from tests.support.sigio import (
    DeviceSource,
    FifoSource,
    NewPuppet,
    PtySource,
    SocketSource,
    Source,
    Witness,
    needs_kprobes,
)
from tests.support.spawner import Spawner
from tests.support.stage import EXACT, PLAIN, TELLS_ALL, Setup, Stage, Stages
from tests.support.transport import TRANSPORTS, Transport

DESCRIPTORS = 5000
KERNEL_SOURCES = ("fifo", "pty", "socket")
EXACTLY = "-exact"
"""In mode `auto`, where that sees O_ASYNC."""


def transport_called(name: str) -> Transport:
    transport = TRANSPORTS[name]
    problem = transport.problem()
    if problem is not None:
        pytest.skip(f"{name}: {problem}")
    return transport


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Transport:
    return transport_called(str(request.param))


@pytest.fixture(scope="session")
def stages() -> Iterator[Stages]:
    # Other users must be able to look into it, which they may not into pytest's own folders.
    with tempfile.TemporaryDirectory(prefix="memnotify-") as name:
        os.chmod(name, 0o755)
        with Spawner() as spawner:
            stages = Stages(Path(name), spawner)
            yield stages
            stages.end()


@pytest.fixture
def needs() -> Setup:
    """What the tests of a module need of their server."""
    return PLAIN


@pytest.fixture
def stage(stages: Stages, transport: Transport, needs: Setup) -> Iterator[Stage]:
    with stages.lend(transport, needs) as stage:
        yield stage


@pytest.fixture
def server(stage: Stage) -> Server:
    """A server whose only pressure is simulated, or what the test does to `machine`."""
    return stage.server


@pytest.fixture
def machine(stage: Stage) -> Machine:
    """What `server` sees: it can be made to notify exactly once, for as long as it takes."""
    return stage.machine


@pytest.fixture
def witness(server: Server, new_puppet: NewPuppet) -> Witness:
    return Witness(server, new_puppet())


@pytest.fixture
def room_for_descriptors() -> Iterator[None]:
    """Room for some thousand descriptors in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(before[0], DESCRIPTORS)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(before[1], wanted)))
    except (ValueError, PermissionError):
        pytest.skip(f"no {wanted} descriptors for one process here: the limit is {before[1]}")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _kernel_source(name: str, directory: Path) -> Source:
    match name:
        case "fifo":
            return FifoSource(directory)
        case "pty":
            return PtySource()
    return SocketSource(directory)


@pytest.fixture(params=[*TRANSPORTS, *(name + EXACTLY for name in TRANSPORTS), *KERNEL_SOURCES])
def source(request: pytest.FixtureRequest, stages: Stages, open_directory: Path) -> Iterator[Source]:
    """The device, over each transport, and what the kernel itself has O_ASYNC for: one test for all of them."""
    name = str(request.param)
    if name in TRANSPORTS:
        with stages.lend(transport_called(name), TELLS_ALL) as stage:
            yield DeviceSource(stage.server, stage.machine)
    elif name.endswith(EXACTLY):
        needs_kprobes()
        with stages.lend(transport_called(name.removesuffix(EXACTLY)), EXACT) as stage:
            yield DeviceSource(stage.server, stage.machine, "exact")
    else:
        made = _kernel_source(name, open_directory)
        yield made
        made.close()
