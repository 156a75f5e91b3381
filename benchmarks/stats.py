"""The few statistics that the tables show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """Of `count` values; the unit is that of the values."""

    count: int
    minimum: float
    median: float
    p99: float
    maximum: float


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all are not above (nearest rank); ValueError without values."""
    if not values:
        raise ValueError("no values")
    if not 0 < percent <= 100:
        raise ValueError(f"not a percentage: {percent}")
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


def summarise(values: Sequence[float]) -> Summary:
    """ValueError without values."""
    if not values:
        raise ValueError("no values")
    return Summary(
        count=len(values),
        minimum=min(values),
        median=statistics.median(values),
        p99=percentile(values, 99),
        maximum=max(values),
    )


def first_between(times_ns: Sequence[int], begin_ns: int, end_ns: int) -> int | None:
    """The first of these times that is not before `begin_ns` and before `end_ns`; None if there is none."""
    return min((each for each in times_ns if begin_ns <= each < end_ns), default=None)
