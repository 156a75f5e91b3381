"""What one look at the kernel has in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.scanner.health import Health
from memnotify_cuse.scanner.sample import Sampler
from tests.scanner.samples import shrink

HOST = Path(__file__).parents[1] / "fixtures" / "host-6.18"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for name in ("zoneinfo", "vmstat", "meminfo"):
        (tmp_path / name).write_text((HOST / name).read_text())
    swap_is(tmp_path, 1000)
    return tmp_path


@pytest.fixture
def sampler(proc: Path) -> Iterator[Sampler]:
    opened = Sampler(proc)
    yield opened
    opened.close()


def swap_is(proc: Path, free_kb: int) -> None:
    path = proc / "meminfo"
    path.write_text(re.sub(r"(?m)^SwapFree: +\d+", f"SwapFree: {free_kb}", path.read_text()))


def test_swap_is_as_it_is_now(proc: Path, sampler: Sampler) -> None:
    assert sampler.sample().meminfo.swap_free_kb == 1000
    swap_is(proc, 500)
    assert sampler.sample(()).meminfo.swap_free_kb == 500


def test_swap_is_not_looked_at_when_anonymous_pages_are_first_seen_to_be_scanned_but_after_that_it_is(
    proc: Path, sampler: Sampler
) -> None:
    """Where the trace goes on under pressure, as with several nodes, each look comes with such events."""
    sampler.sample()
    swap_is(proc, 0)
    assert [sampler.sample((shrink(),)).meminfo.swap_free_kb for _ in range(2)] == [1000, 0]


def test_swap_is_looked_at_where_it_never_was(proc: Path, sampler: Sampler) -> None:
    assert sampler.sample((shrink(),)).meminfo.swap_free_kb == 1000


@pytest.mark.parametrize("name", ["vmstat", "meminfo"])
def test_what_was_read_last_stands_in_for_a_file_that_fails(name: str, proc: Path) -> None:
    health = Health()
    sampler = Sampler(proc, health)
    before = sampler.sample()
    text = (proc / name).read_text()
    (proc / name).write_text("")
    after = sampler.sample()
    assert (after.vmstat, after.meminfo) == (before.vmstat, before.meminfo)
    assert [(each.source, each.reason) for each in health.failures] == [(name, f"{proc / name}: empty")]
    (proc / name).write_text(text)
    sampler.sample()
    assert health.is_settling
    sampler.close()


@pytest.mark.parametrize("name", ["zoneinfo", "vmstat", "meminfo"])
def test_the_first_sample_needs_all_of_them(name: str, proc: Path) -> None:
    (proc / name).write_text("")
    sampler = Sampler(proc)
    with pytest.raises(MalformedKernelFileError, match=name):
        sampler.sample()
    sampler.close()


def test_the_kind_of_lru_is_as_it_is_now(proc: Path) -> None:
    switch = proc / "kernel" / "mm" / "lru_gen" / "enabled"
    switch.parent.mkdir(parents=True)
    switch.write_text("0x0000\n")
    health = Health()
    sampler = Sampler(proc, health, sys_root=proc)
    assert sampler.sample().mglru is False
    switch.write_text("0x0007\n")
    assert sampler.sample().mglru is True
    switch.write_text("maybe\n")
    assert sampler.sample().mglru is True
    assert [each.source for each in health.failures] == ["lru_gen"]
    sampler.close()


def test_a_switch_that_is_nonsense_at_the_start_is_taken_as_off(proc: Path) -> None:
    switch = proc / "kernel" / "mm" / "lru_gen" / "enabled"
    switch.parent.mkdir(parents=True)
    switch.write_text("maybe\n")
    sampler = Sampler(proc, sys_root=proc)
    assert sampler.sample().mglru is False
    sampler.close()


def test_zfs_may_be_loaded_and_unloaded_while_the_server_runs(proc: Path) -> None:
    health = Health()
    sampler = Sampler(proc, health)
    assert sampler.sample().arc_gain_kb == 0
    arcstats = proc / "spl" / "kstat" / "zfs" / "arcstats"
    arcstats.parent.mkdir(parents=True)
    arcstats.write_text("size 4 4194304\nc_min 4 1048576\n")
    assert sampler.sample().arc_gain_kb == 3072
    arcstats.write_text("size 4 1048576\nc_min 4 1048576\n")
    assert sampler.sample().arc_gain_kb == 0
    arcstats.write_text("")
    assert sampler.sample().arc_gain_kb == 0
    assert [each.source for each in health.failures] == ["arcstats"]
    sampler.close()


def test_the_tiers_of_memory_are_as_they_are_now(proc: Path) -> None:
    switch = proc / "kernel" / "mm" / "numa" / "demotion_enabled"
    switch.parent.mkdir(parents=True)
    switch.write_text("false\n")
    for number, node in ((4, 0), (22, 1)):
        nodelist = proc / "devices" / "virtual" / "memory_tiering" / f"memory_tier{number}" / "nodelist"
        nodelist.parent.mkdir(parents=True)
        nodelist.write_text(f"{node}\n")
    health = Health()
    sampler = Sampler(proc, health, sys_root=proc)
    assert sampler.sample().demoting == frozenset()
    switch.write_text("true\n")
    assert sampler.sample().demoting == frozenset({0})
    switch.write_text("maybe\n")
    assert sampler.sample().demoting == frozenset({0})
    assert [each.source for each in health.failures] == ["tiers"]
    sampler.close()
