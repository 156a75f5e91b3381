"""Tiers of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.tiers import MemoryTiers, parse_nodelist


def switch(sys_root: Path, text: str) -> None:
    path = sys_root / "kernel" / "mm" / "numa" / "demotion_enabled"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def tier(sys_root: Path, number: int, nodes: str) -> None:
    folder = sys_root / "devices" / "virtual" / "memory_tiering" / f"memory_tier{number}"
    folder.mkdir(parents=True)
    (folder / "nodelist").write_text(f"{nodes}\n")


def test_pages_are_demoted_from_all_tiers_but_the_slowest(tmp_path: Path) -> None:
    tier(tmp_path, 22, "3")
    tier(tmp_path, 4, "0-1")
    tier(tmp_path, 10, "2")
    tier(tmp_path, 30, "")
    switch(tmp_path, "false\n")
    tiers = MemoryTiers(tmp_path)
    assert tiers.demoting() == frozenset()
    switch(tmp_path, "true\n")
    assert tiers.demoting() == frozenset({0, 1, 2})
    tiers.close()


def test_one_tier_demotes_nothing(tmp_path: Path) -> None:
    tier(tmp_path, 4, "0-1")
    switch(tmp_path, "1\n")
    assert MemoryTiers(tmp_path).demoting() == frozenset()


def test_a_kernel_that_does_not_say(tmp_path: Path) -> None:
    assert MemoryTiers(tmp_path).demoting() is None
    switch(tmp_path, "true\n")
    assert MemoryTiers(tmp_path).demoting() is None, "before 6.1 there is the switch, and no list of tiers"


@pytest.mark.parametrize("text", ["maybe\n", ""])
def test_a_switch_that_is_nonsense_is_named(text: str, tmp_path: Path) -> None:
    switch(tmp_path, text)
    with pytest.raises(MalformedKernelFileError, match="demotion_enabled:1"):
        MemoryTiers(tmp_path).demoting()


@pytest.mark.parametrize(("text", "nodes"), [("0\n", {0}), ("0,2-4\n", {0, 2, 3, 4}), ("\n", set())])
def test_a_list_of_nodes(text: str, nodes: set[int]) -> None:
    assert parse_nodelist(text, "nodelist") == nodes


@pytest.mark.parametrize("text", ["0-", "a", "3-1", "0-99999999", "0,,x"])
def test_a_list_that_is_nonsense_is_named(text: str) -> None:
    with pytest.raises(MalformedKernelFileError, match="nodelist:1"):
        parse_nodelist(text, "nodelist")
