"""How much memory swapping can still win."""

from __future__ import annotations

from pathlib import Path

import pytest

from memnotify_cuse.kernel.meminfo import Meminfo
from memnotify_cuse.scanner.health import Health
from memnotify_cuse.scanner.swapspace import SwapSpace

MIB_KB = 1024
TITLE = "Filename\tType\tSize\tUsed\tPriority\n"


def meminfo(*, total_kb: int, free_kb: int, zswap_kb: int | None = None, zswapped_kb: int | None = None) -> Meminfo:
    return Meminfo(1000, 500, 600, total_kb, free_kb, 0, 0, 0, zswap_kb, zswapped_kb)


class Machine:
    """A tree with the files of /proc and /sys that tell of swap."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lines: list[str] = []
        self._total_kb = self._free_kb = 0

    def swap(self, name: str, size_kb: int, used_kb: int) -> None:
        self._lines.append(f"{name}\tpartition\t{size_kb}\t{used_kb}\t-2\n")
        self._total_kb += size_kb
        self._free_kb += size_kb - used_kb
        (self._root / "swaps").write_text(TITLE + "".join(self._lines))

    def zram(self, name: str, *, stored_mib: int, memory_mib: int) -> None:
        path = self._root / "block" / name / "mm_stat"
        path.parent.mkdir(parents=True)
        path.write_text(f"{stored_mib << 20} {memory_mib << 20} {memory_mib << 20} 0 0 0 0 0 0\n")

    def gain_mib(self, zswap_kb: int | None = None, zswapped_kb: int | None = None) -> float:
        space = SwapSpace(self._root, sys_root=self._root)
        info = meminfo(total_kb=self._total_kb, free_kb=self._free_kb, zswap_kb=zswap_kb, zswapped_kb=zswapped_kb)
        try:
            return space.gain_kb(info) / MIB_KB
        finally:
            space.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_no_swap_wins_nothing(machine: Machine) -> None:
    assert machine.gain_mib() == 0


def test_a_disk_wins_a_page_for_each_page(machine: Machine) -> None:
    machine.swap("/dev/sda2", 100 * MIB_KB, 40 * MIB_KB)
    assert machine.gain_mib() == 60


def test_zram_with_nothing_in_it_is_not_counted_on(machine: Machine) -> None:
    """Until its first pages have shown what they cost nobody can know, and then it may be too late to tell."""
    machine.swap("/dev/zram0", 1000 * MIB_KB, 0)
    machine.zram("zram0", stored_mib=0, memory_mib=0)
    assert machine.gain_mib() == 0


def test_zram_wins_what_it_was_seen_to_save(machine: Machine) -> None:
    machine.swap("/dev/zram0", 1000 * MIB_KB, 200 * MIB_KB)
    machine.zram("zram0", stored_mib=200, memory_mib=50)
    assert 800 * 0.6 < machine.gain_mib() < 800 * 0.75


def test_zram_full_of_what_does_not_compress_wins_nothing(machine: Machine) -> None:
    machine.swap("/dev/zram0", 1000 * MIB_KB, 200 * MIB_KB)
    machine.zram("zram0", stored_mib=200, memory_mib=204)
    assert machine.gain_mib() == 0


def test_each_swap_wins_for_itself(machine: Machine) -> None:
    machine.swap("/dev/zram0", 100 * MIB_KB, 0)
    machine.zram("zram0", stored_mib=0, memory_mib=0)
    machine.swap("/dev/sda2", 300 * MIB_KB, 100 * MIB_KB)
    assert machine.gain_mib() == 200


def test_zram_of_which_nothing_can_be_learnt_wins_nothing(machine: Machine) -> None:
    """Kernels before 4.1 have no mm_stat."""
    machine.swap("/dev/zram0", 100 * MIB_KB, 0)
    assert machine.gain_mib() == 0


def test_zswap_in_front_of_a_disk_costs_what_its_pool_takes(machine: Machine) -> None:
    machine.swap("/dev/sda2", 100 * MIB_KB, 20 * MIB_KB)
    assert machine.gain_mib(zswap_kb=5 * MIB_KB, zswapped_kb=20 * MIB_KB) == 60
    assert machine.gain_mib(zswap_kb=0, zswapped_kb=0) == 80


def test_without_a_list_of_swaps_what_is_free_counts(tmp_path: Path) -> None:
    space = SwapSpace(tmp_path)
    assert space.gain_kb(meminfo(total_kb=100 * MIB_KB, free_kb=70 * MIB_KB)) == 70 * MIB_KB


@pytest.mark.parametrize("text", ["Filename\nnonsense\n", ""])
def test_a_list_of_swaps_that_is_malformed_or_empty_leaves_what_is_free(text: str, tmp_path: Path) -> None:
    (tmp_path / "swaps").write_text(text)
    health = Health()
    space = SwapSpace(tmp_path, health)
    assert space.gain_kb(meminfo(total_kb=100 * MIB_KB, free_kb=70 * MIB_KB)) == 70 * MIB_KB
    assert [each.source for each in health.failures] == (["swaps"] if text else [])
    space.close()
