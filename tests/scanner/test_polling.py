"""How often the scanner looks."""

from __future__ import annotations

import pytest

from memnotify_cuse.kernel.zoneinfo import Zone
from memnotify_cuse.scanner.forecast import Forecast
from memnotify_cuse.scanner.polling import PollingInterval
from tests.scanner.samples import MS, zone


def delay(
    interval: PollingInterval,
    now_ms: int,
    *zones: Zone,
    reclaiming: bool = False,
    raised: bool = False,
    forecasts: tuple[Forecast, ...] = (),
) -> float:
    return interval.next_delay_s(
        now_ns=now_ms * MS, reclaiming=reclaiming, raised=raised, zones=zones or (zone(),), forecasts=forecasts
    )


@pytest.mark.parametrize("wakeup", [True, False])
def test_every_20_to_50_ms_while_the_kernel_reclaims(wakeup: bool) -> None:
    interval = PollingInterval(wakeup=wakeup, page_kb=4)
    assert delay(interval, 0, reclaiming=True) == 0.02
    assert delay(interval, 100, reclaiming=True, raised=True) == 0.05
    assert delay(interval, 500) == 0.02, "reclaim comes in spells"


def test_back_to_rest_when_kswapd_sleeps_and_no_zone_is_under_pressure() -> None:
    interval = PollingInterval(wakeup=True, page_kb=4)
    delay(interval, 0, reclaiming=True)
    assert delay(interval, 1100) == 5.0


def test_at_rest_with_plenty_of_memory_less_than_once_a_second() -> None:
    plenty = zone(free=4_000_000)
    assert delay(PollingInterval(wakeup=True, page_kb=4), 0, plenty) > 1
    assert delay(PollingInterval(wakeup=False, page_kb=4), 0, plenty) > 1


def test_without_a_wakeup_source_never_longer_than_memory_can_last() -> None:
    interval = PollingInterval(wakeup=False, page_kb=4)
    half_a_gib = zone(free=131_072 + 2000, high=1000)
    assert delay(interval, 0, half_a_gib) == pytest.approx(0.5 / 8)
    assert delay(interval, 0, zone(free=2000, high=1000)) == 0.05


def test_a_zone_that_stays_short_after_reclaim_has_ended_is_looked_at_less_often() -> None:
    interval = PollingInterval(wakeup=True, page_kb=4)
    delay(interval, 0, reclaiming=True, raised=True)
    assert delay(interval, 3000, raised=True) == 0.05
    assert delay(interval, 6000, raised=True) == 0.25
    assert delay(interval, 6250, reclaiming=True, raised=True) == 0.05


def test_a_ring_counts_as_reclaim() -> None:
    interval = PollingInterval(wakeup=True, page_kb=4)
    interval.woken(100 * MS)
    assert delay(interval, 101) == 0.02


def test_what_is_about_to_end_is_looked_at_more_often_until_nothing_is_taken_any_more() -> None:
    interval = PollingInterval(wakeup=True, page_kb=4)
    ending = Forecast(0, 0, 1000.0, headroom_pages=1000, floor_pages=100, taken_pages=1000)
    still = Forecast(0, 0, 0.0, headroom_pages=1000, floor_pages=100)
    assert delay(interval, 0, raised=True, forecasts=(ending,)) == 0.02
    assert delay(interval, 4999, raised=True, forecasts=(still,)) == 0.02
    assert delay(interval, 5000, raised=True, forecasts=(still,)) == 0.25
