"""/proc/meminfo."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.meminfo import Meminfo, parse_meminfo, read_meminfo

FIXTURES = Path(__file__).parents[1] / "fixtures"
ALL = sorted(FIXTURES.glob("**/meminfo"))


def test_machine_with_swap() -> None:
    assert read_meminfo(FIXTURES / "x86-5.14-2node") == Meminfo(
        8141728, 4211712, 7202848, 8140796, 8140796, 0, 100264, 1148, None, None
    )


def test_no_swap_no_available_but_zswap() -> None:
    meminfo = read_meminfo(FIXTURES / "x86-4.20-noswap")
    assert (meminfo.swap_total_kb, meminfo.swap_free_kb) == (0, 0)
    assert meminfo.available_kb is None
    assert (meminfo.zswap_kb, meminfo.zswapped_kb) == (22414, 10502)


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.parent.name)
def test_every_fixture_is_sound(file: Path) -> None:
    meminfo = parse_meminfo(file.read_text())
    assert 0 < meminfo.free_kb < meminfo.total_kb
    assert meminfo.swap_free_kb <= meminfo.swap_total_kb


@pytest.mark.parametrize(
    ("old", "new", "line_number"),
    [
        ("MemTotal: ", "MemTotal ", 1),
        ("MemFree: ", "MemFree: -", 2),
        (" kB\nMemFree", " MB\nMemFree", 1),
        ("SwapFree: ", "SwapFre: ", 0),
        ("SwapFree: ", "SwapFree ", 16),
    ],
)
def test_malformed_text_names_the_line(old: str, new: str, line_number: int) -> None:
    text = (FIXTURES / "host-6.18" / "meminfo").read_text()
    assert old in text
    with pytest.raises(MalformedKernelFileError) as caught:
        parse_meminfo(text.replace(old, new, 1))
    assert caught.value.line_number == line_number


def test_cut_off_and_word_in_place_of_a_number() -> None:
    with pytest.raises(MalformedKernelFileError, match=":2: ends before"):
        parse_meminfo("MemTotal: 1 kB\nMemFree:   24")
    with pytest.raises(MalformedKernelFileError, match=":2: expected"):
        parse_meminfo((FIXTURES / "hostile" / "meminfo_word_for_number").read_text())
    with pytest.raises(MalformedKernelFileError):
        parse_meminfo("")


@pytest.mark.parametrize("name", ["no_blank", "empty_line", "foreign_table"])
def test_a_line_that_nobody_needs_may_look_like_anything(name: str) -> None:
    odd = parse_meminfo((FIXTURES / "odd" / f"meminfo_{name}").read_bytes().decode("latin-1"))
    assert odd == read_meminfo(FIXTURES / "x86-5.14-2node")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("Shmem: ", "Shmen: ", "shmem_kb"),
        ("SwapCached:            0 kB", "SwapCached:            0", "swap_cached_kb"),
        ("Mapped: ", "Mapped ", "mapped_kb"),
        ("MemAvailable: ", "MemAvailable: ?", "available_kb"),
    ],
)
def test_a_size_that_only_refines_may_be_missing(old: str, new: str, field: str) -> None:
    text = (FIXTURES / "host-6.18" / "meminfo").read_text()
    assert old in text
    assert getattr(parse_meminfo(text.replace(old, new, 1)), field) is None


def test_what_is_cut_off_may_be_what_nobody_needs() -> None:
    text = (FIXTURES / "host-6.18" / "meminfo").read_text()
    assert parse_meminfo(text[: text.index("HugePages_Free") + 5]) == parse_meminfo(text)


@given(st.sampled_from(ALL), st.data())
def test_mutated_text_parses_or_is_malformed(file: Path, data: st.DataObject) -> None:
    text = file.read_text()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 100)))
    with contextlib.suppress(MalformedKernelFileError):
        parse_meminfo(text[:start] + data.draw(st.text(max_size=30)) + text[end:])
