"""Fixtures of the mount tier."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from tests.support.mounted import calm_proc, serving
from tests.support.programs import Programs, compiler_problem
from tests.support.server import Server, mount_problem
from tests.support.sigio import NewPuppet, Puppet
from tests.support.transport import TRANSPORTS

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

# A shell has its background jobs ignore SIGINT, nohup SIGHUP, and what is ignored stays so in every program that a test
# starts: Ctrl-C would not end it, and the test would wait for ever.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

ALONE = ("attacks", "mount", "suspend")
"""Folders of tests that are about what the machine has once, or take all of it: mounts, trace instances, the mode of
/dev/fuse, cgroups, processors."""

LEFT_OUT = pytest.StashKey[Counter[str]]()
"""How many tests cannot run here, by the reason."""


def _reason_to_leave_out(item: pytest.Item) -> str | None:
    """Why a test that is for another machine is left out; one line says so for all of them."""
    if isinstance(item, pytest.Function) and "cuse" in getattr(item, "callspec", _NoParams).params.values():
        problem = TRANSPORTS["cuse"].problem()
        return f"the device through CUSE: {problem}" if problem else None
    if item.path.parent.name == "guest" and "MEMNOTIFY_RESULTS" not in os.environ:
        return "the guest tier: `make test-vm` runs it in a virtual machine"
    return None


class _NoParams:
    params: Mapping[str, object] = MappingProxyType({})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = config.stash[LEFT_OUT] = Counter()
    kept, dropped = [], []
    for item in items:
        reason = _reason_to_leave_out(item)
        if reason is None:
            kept.append(item)
        else:
            dropped.append(item)
            left_out[reason] += 1
    items[:] = kept
    if dropped:
        config.hook.pytest_deselected(items=dropped)


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.parent.name in ALONE or item.get_closest_marker("reclaim"):
        item.add_marker("alone")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes that share the tests: what it left out is for the first one to say."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        left_out: Counter[str] = session.config.stash.get(LEFT_OUT, Counter())
        told["left_out"] = dict(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    """And what it says comes to the first one here: the same of each."""
    told: dict[str, dict[str, int]] = getattr(node, "workeroutput", {})
    if "left_out" in told:
        node.config.stash[LEFT_OUT] = Counter(told["left_out"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for reason, count in config.stash.get(LEFT_OUT, Counter[str]()).items():
        terminalreporter.write_line(f"not run here: {count} tests of {reason}")


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


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A folder that every user may look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="memnotify-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def poll_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with a cache of 64 MiB that it frees."""
    problem = compiler_problem()
    if problem is not None:
        pytest.skip(problem)
    program = tmp_path_factory.mktemp("examples") / "poll_cache"
    subprocess.run(
        ["cc", "-std=c11", "-O2", "-o", str(program), str(Path(__file__).parents[1] / "examples" / "poll_cache.c")],
        check=True,
    )
    return program


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """The C programs of tests/programs."""
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
