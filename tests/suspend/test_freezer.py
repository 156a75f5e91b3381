"""Freezing programs, with real cgroups where this machine has any that root may make."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.suspend.cgroups import OWN_GROUP, Hierarchy, hierarchies
from memnotify_cuse.suspend.freezer import FreezeError, Freezer
from memnotify_cuse.suspend.holders import Found, Process

LIMIT_S = 60.0


@pytest.fixture(params=[2, 1])
def tree(request: pytest.FixtureRequest) -> Hierarchy:
    """A hierarchy of each version."""
    found = {each.version: each for each in hierarchies()}
    if request.param not in found or os.geteuid() != 0:
        pytest.skip(f"no cgroup of version {request.param} with a freezer that this user may use")
    return found[request.param]


@pytest.fixture
def only(tree: Hierarchy, monkeypatch: pytest.MonkeyPatch) -> Hierarchy:
    """The one hierarchy that there is."""
    monkeypatch.setattr("memnotify_cuse.suspend.freezer.hierarchies", lambda proc: [tree])
    return tree


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    """A program that counts as fast as it can."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time\nwhile True: time.sleep(0.001)"], stdin=subprocess.DEVNULL
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def group(tree: Hierarchy, program: subprocess.Popen[bytes]) -> Iterator[Path]:
    """A group of the hierarchy; its programs go back to the root at the end: thawed, or `program` could not end."""
    folder = tree.mount_point / f"memnotify-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    tree.thaw(folder)
    for pid in (folder / "cgroup.procs").read_text().split():
        (tree.mount_point / "cgroup.procs").write_text(pid)
    folder.rmdir()


def switches(pid: int) -> int:
    """How often a process has given up its processor: it grows while the program runs."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    raise AssertionError("no such line")


def stands_still(pid: int) -> bool:
    """Whether it does nothing for a time in which it would do something a hundred times."""
    before = switches(pid)
    time.sleep(0.1)
    return switches(pid) == before


def wait_goes_on(pid: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while stands_still(pid):
        assert time.monotonic() < deadline, "it stands still"


def freezer(state: Path, *pids: int, servers: tuple[int, ...] = (), name: str = "program") -> Freezer:
    found = Found(tuple(Process(pid, name) for pid in pids), tuple(Process(pid, "memnotify-serve") for pid in servers))
    return Freezer(pytest.fail, state=state, find=lambda: found)


def cgroup(tree: Hierarchy, pid: int) -> Path | None:
    return tree.group_of(pid)


def test_a_program_in_a_group_is_frozen_in_it(
    only: Hierarchy, group: Path, program: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (group / "cgroup.procs").write_text(str(program.pid))
    state = tmp_path / "state"
    assert freezer(state, program.pid).freeze() == 1
    assert stands_still(program.pid)
    assert cgroup(only, program.pid) == group
    # Another process thaws it.
    freezer(state).thaw()
    wait_goes_on(program.pid)
    assert not state.exists()


def test_one_in_the_root_group_is_moved_and_comes_back(
    only: Hierarchy, program: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (only.mount_point / "cgroup.procs").write_text(str(program.pid))
    state = tmp_path / "state"
    assert freezer(state, program.pid).freeze() == 1
    assert stands_still(program.pid)
    freezer(state).thaw()
    wait_goes_on(program.pid)
    assert cgroup(only, program.pid) == only.mount_point
    assert not (only.mount_point / OWN_GROUP).exists()


def test_one_that_shares_its_group_with_the_server_is_frozen_without_it(
    only: Hierarchy, group: Path, program: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with subprocess.Popen([sys.executable, "-c", "import time\nwhile True: time.sleep(0.001)"]) as server:
        try:
            for pid in (program.pid, server.pid):
                (group / "cgroup.procs").write_text(str(pid))
            assert freezer(state, program.pid, servers=(server.pid,)).freeze() == 1
            assert stands_still(program.pid)
            wait_goes_on(server.pid)
            freezer(state).thaw()
            wait_goes_on(program.pid)
            assert cgroup(only, program.pid) == group
        finally:
            freezer(state).thaw()
            server.kill()


def test_what_somebody_else_has_frozen_stays_frozen(
    only: Hierarchy, group: Path, program: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (group / "cgroup.procs").write_text(str(program.pid))
    only.freeze(group)
    assert only.wait_frozen(group, time.monotonic() + LIMIT_S)
    freezer(tmp_path / "state", program.pid).freeze()
    freezer(tmp_path / "state").thaw()
    assert stands_still(program.pid)


def test_a_second_freezing_begins_with_thawing_the_first(
    only: Hierarchy, group: Path, program: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """The first one was never thawed, as after a crash."""
    (group / "cgroup.procs").write_text(str(program.pid))
    state = tmp_path / "state"
    freezer(state, program.pid).freeze()
    assert freezer(state).freeze() == 0
    wait_goes_on(program.pid)


def test_neither_this_process_nor_those_above_it_are_frozen(tmp_path: Path) -> None:
    assert freezer(tmp_path / "state", 1, os.getpid(), os.getppid()).freeze() == 0


def test_a_program_that_ends_meanwhile_is_passed_over(only: Hierarchy, tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    freezer(tmp_path / "state", process.pid).freeze()
    freezer(tmp_path / "state").thaw()
    assert not (only.mount_point / OWN_GROUP).exists()


def test_without_a_freezer_there_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memnotify_cuse.suspend.freezer.hierarchies", lambda proc: [])
    with pytest.raises(FreezeError, match="no cgroup file system"):
        freezer(tmp_path / "state", 2**22 + 1).freeze()
    assert freezer(tmp_path / "state").freeze() == 0


def test_a_malformed_line_of_the_state_file_is_named_and_the_others_heeded(tmp_path: Path) -> None:
    state, said = tmp_path / "state", list[str]()
    state.write_text(f"nonsense\nmoved x y /z\nfrozen 2 {tmp_path}/gone\n")
    Freezer(said.append, state=state).thaw()
    assert len(said) == 2
    assert "nonsense" in said[1]
    assert not state.exists()


@pytest.mark.parametrize("arguments", [[], ["melt"], ["freeze", "thaw"]])
def test_wrong_usage_is_one_line(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "memnotify_cuse.suspend", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "usage: python -m memnotify_cuse.suspend freeze|thaw\n"
