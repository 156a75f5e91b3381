"""What one look at the kernel has in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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
