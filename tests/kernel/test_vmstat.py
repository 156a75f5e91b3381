"""/proc/vmstat: counters of old and new kernels, and malformed text."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.vmstat import Vmstat, parse_vmstat, read_vmstat

FIXTURES = Path(__file__).parents[1] / "fixtures"
ALL = sorted(FIXTURES.glob("**/vmstat"))
NAMES = [field.name for field in fields(Vmstat) if field.name != "pgdemote"]
"""Those that have one line: demoted pages are counted in one for each that demotes."""


def test_today_every_counter_is_there() -> None:
    vmstat = read_vmstat(FIXTURES / "host-6.18")
    assert None not in asdict(vmstat).values()
    lines = dict(line.split() for line in (FIXTURES / "host-6.18" / "vmstat").read_text().splitlines())
    assert vmstat.nr_free_pages == int(lines["nr_free_pages"])
    assert vmstat.workingset_refault_file == int(lines["workingset_refault_file"])
    assert vmstat.pgscan_kswapd == int(lines["pgscan_kswapd"])


def test_4_17_has_no_split_by_kind_of_page() -> None:
    vmstat = read_vmstat(FIXTURES / "x86-4.17")
    assert (vmstat.pgscan_anon, vmstat.pgscan_file, vmstat.pgsteal_anon, vmstat.pgsteal_file) == (None,) * 4
    assert vmstat.workingset_refault_anon is None
    assert vmstat.oom_kill == 0
    assert vmstat.nr_free_pages == 631224


def test_3_10_counts_per_zone_and_has_no_oom_kill() -> None:
    vmstat = read_vmstat(FIXTURES / "x86-3.10-2node")
    assert vmstat.pgscan_kswapd == 0
    assert vmstat.oom_kill is None
    assert vmstat.nr_free_pages == 21821632


def test_per_zone_counters_are_summed_without_their_neighbours() -> None:
    text = (
        "pgscan_kswapd_dma 1\npgscan_kswapd_normal 20\npgscan_kswapd_movable 300\n"
        "pgscan_direct_normal 7\npgscan_direct_throttle 1000\n"
        "allocstall_dma32 2\nallocstall_device 3\nworkingset_refault 9\n"
    )
    vmstat = parse_vmstat(text)
    assert (vmstat.pgscan_kswapd, vmstat.pgscan_direct, vmstat.allocstall) == (321, 7, 5)
    assert (vmstat.workingset_refault_anon, vmstat.workingset_refault_file) == (None, 9)
    assert vmstat.pgsteal_kswapd is None


@pytest.mark.parametrize(
    ("text", "line_number", "reason"),
    [
        ("", 0, "empty"),
        ("nr_free_pages 1\npgscan_anon\npswpin 2\n", 2, "expected 'name value'"),
        ("nr_free_pages 1\npgscan_anon -1\n", 2, "expected 'name value'"),
        ("nr_free_pages 1\npgscan_anon 1_0\n", 2, "expected 'name value'"),
        ("nr_free_pages 1\npgscan_anon ٣\n", 2, "expected 'name value'"),
        ("nr_free_pages 1 2\npgscan_anon\n", 2, "expected 'name value'"),
        ("nr_free_pages 1\npgscan_anon 12", 2, "ends before"),
        ("pgscan_anon " + "9" * 5000 + "\n", 1, "expected 'name value'"),
        ("pgscan_direct_normal many\n", 1, "expected 'name value'"),
        ("all quiet\n", 0, "no counter"),
    ],
)
def test_malformed_text_names_the_line(text: str, line_number: int, reason: str) -> None:
    with pytest.raises(MalformedKernelFileError, match=reason) as caught:
        parse_vmstat(text)
    assert caught.value.line_number == line_number


@pytest.mark.parametrize("line", ["", "nr_new many", "nr_new", "nr_new 1 2", "oom_kill -1", "  a table", "x"])
def test_a_line_that_nobody_needs_may_look_like_anything(line: str) -> None:
    text = (FIXTURES / "host-6.18" / "vmstat").read_text()
    sound = parse_vmstat(text)
    oom_kill = None if line.startswith("oom_kill") else sound.oom_kill
    shown = text.replace("oom_kill 0", line if oom_kill is None else f"oom_kill 0\n{line}")
    assert parse_vmstat(shown) == replace(sound, oom_kill=oom_kill)
    assert parse_vmstat(f"{text}{line}") == sound


def test_word_in_place_of_a_number_that_nobody_needs() -> None:
    vmstat = parse_vmstat((FIXTURES / "hostile" / "vmstat_word_for_number").read_text())
    assert vmstat.nr_free_pages is None
    assert vmstat.pgscan_kswapd is not None


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2**64 - 1), min_size=1))
def test_any_set_of_counters_comes_back(counters: dict[str, int]) -> None:
    text = "".join(f"{name} {value}\n" for name, value in counters.items())
    assert {k: v for k, v in asdict(parse_vmstat(text)).items() if v is not None} == counters


@given(st.sampled_from(ALL), st.data())
def test_mutated_text_parses_or_is_malformed(file: Path, data: st.DataObject) -> None:
    text = file.read_text()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 100)))
    with contextlib.suppress(MalformedKernelFileError):
        parse_vmstat(text[:start] + data.draw(st.text(max_size=30)) + text[end:])


def test_pages_are_demoted_by_kswapd_and_by_others() -> None:
    assert parse_vmstat("pgdemote_kswapd 5\npgdemote_direct 3\npgdemote_proactive 1\n").pgdemote == 9
    assert parse_vmstat("nr_free_pages 5\n").pgdemote is None
