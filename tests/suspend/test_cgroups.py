"""Which hierarchies have a freezer, and which group a process is in, by what the kernel prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from memnotify_cuse.suspend.cgroups import Hierarchy, hierarchies

UNIFIED = "31 23 0:28 / {root}/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
FREEZER = "37 31 0:34 / {root}/freezer rw,relatime - cgroup cgroup rw,freezer\n"
MEMORY = "35 31 0:32 / {root}/memory rw,relatime - cgroup cgroup rw,memory\n"
PART = "40 31 0:28 /docker/4f2a {root}/part rw,relatime - cgroup2 cgroup2 rw\n"


def machine(tmp_path: Path, text: str, groups: str = "0::/\n") -> Path:
    """A /proc with one process, 4711, and groups that can be frozen."""
    proc = tmp_path / "proc"
    for pid in ("self", "4711"):
        (proc / pid).mkdir(parents=True)
        (proc / pid / "mountinfo").write_text(text.format(root=tmp_path))
        (proc / pid / "cgroup").write_text(groups)
    (tmp_path / "unified" / "user.slice").mkdir(parents=True)
    (tmp_path / "unified" / "user.slice" / "cgroup.freeze").write_text("0\n")
    return proc


@pytest.mark.parametrize(
    ("text", "versions"),
    [(UNIFIED, [2]), (MEMORY + FREEZER, [1]), (FREEZER + MEMORY + UNIFIED, [2, 1]), (MEMORY, []), (PART, []), ("", [])],
)
def test_each_hierarchy_with_a_freezer_is_found_version_2_first(tmp_path: Path, text: str, versions: list[int]) -> None:
    assert [tree.version for tree in hierarchies(machine(tmp_path, text))] == versions


def test_before_linux_5_2_version_2_has_no_freezer(tmp_path: Path) -> None:
    proc = machine(tmp_path, UNIFIED + FREEZER)
    (tmp_path / "unified" / "user.slice" / "cgroup.freeze").unlink()
    assert [tree.version for tree in hierarchies(proc)] == [1]


@pytest.mark.parametrize(
    ("version", "groups", "path"),
    [
        (2, "5:freezer:/docker\n0::/user.slice/a b:c\n", "user.slice/a b:c"),
        (1, "5:freezer:/docker/4f2a\n0::/user.slice\n", "docker/4f2a"),
        (1, "5:cpu,freezer:/\n0::/user.slice\n", "."),
        (1, "0::/user.slice\n", None),
        (2, "0::/../beyond\n", None),
    ],
)
def test_the_group_of_a_process(tmp_path: Path, version: int, groups: str, path: str | None) -> None:
    proc = machine(tmp_path, "", groups)
    found = Hierarchy(tmp_path, version).group_of(4711, proc)
    assert found == (None if path is None else tmp_path / path)


def test_a_process_whose_threads_have_groups_of_their_own_is_frozen_above_them(tmp_path: Path) -> None:
    proc = machine(tmp_path, "", "0::/service/pool/workers\n")
    for group, kind in (
        ("service", "domain threaded"),
        ("service/pool", "threaded"),
        ("service/pool/workers", "threaded"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / "cgroup.type").write_text(f"{kind}\n")
    assert Hierarchy(tmp_path, 2).group_of(4711, proc) == tmp_path / "service"
