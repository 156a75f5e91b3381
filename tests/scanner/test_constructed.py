"""The rules on made-up counters of machines that no recording is of."""

from __future__ import annotations

import pytest

from tests.support.constructed import CASES, Case
from tests.support.replay import play_samples


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
@pytest.mark.parametrize("every", [1, 3])
def test_who_is_told(case: Case, every: int) -> None:
    notices = play_samples(list(case.samples())[::every], case.machine).notices
    assert {notice.zone for notice in notices} == case.told
