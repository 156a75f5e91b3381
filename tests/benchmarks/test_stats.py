"""The statistics that the benchmark tables show."""

from __future__ import annotations

import pytest

from benchmarks.report import Table, ratio
from benchmarks.stats import first_between, percentile, summarise


def test_the_percentile_is_the_nearest_rank() -> None:
    values = list(range(1, 201))
    assert percentile(values, 99) == 198
    assert percentile(values, 50) == 100
    assert percentile(values, 100) == 200


def test_p99_of_few_values_is_the_largest() -> None:
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0


@pytest.mark.parametrize("percent", [0, -1, 101])
def test_a_percentage_out_of_range_is_an_error(percent: float) -> None:
    with pytest.raises(ValueError, match="not a percentage"):
        percentile([1.0], percent)


def test_no_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_a_summary_of_values_in_any_order() -> None:
    summary = summarise([4.0, 1.0, 3.0, 2.0])
    assert (summary.count, summary.minimum, summary.median, summary.p99, summary.maximum) == (4, 1.0, 2.5, 4.0, 4.0)


def test_only_times_within_the_episode_count() -> None:
    times = [5, 30, 12, 10, 20]
    assert first_between(times, 10, 20) == 10
    assert first_between(times, 11, 20) == 12
    assert first_between(times, 21, 30) is None


def test_a_ratio_to_nothing_is_no_number() -> None:
    assert ratio(3.0, 2.0) == "1.50"
    assert ratio(3.0, 0.0) == "-"


def test_a_table_is_markdown_with_aligned_columns() -> None:
    assert str(Table(("way", "ms"), [("poll", "1.50"), ("a longer one", "12.25")])) == (
        "| way          |    ms |\n| ------------ | ----: |\n| poll         |  1.50 |\n| a longer one | 12.25 |"
    )
