"""What is evidence of anonymous reclaim, and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memnotify_cuse.kernel.zoneinfo import Zone
from memnotify_cuse.scanner.evidence import Evidence, find_evidence
from memnotify_cuse.scanner.forecast import Forecast, Forecaster
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.measured import Measured, Reclaim, reclaim_between
from memnotify_cuse.scanner.sample import Sample
from tests.scanner.samples import CLASSIC, MGLRU, deactivate, direct_begin, sample, shrink, zone


def short(node: int = 0, *, active_anon: int = 50_000, inactive_anon: int = 50_000) -> Zone:
    """A zone that would be short even without its page cache: free + file are below the high watermark."""
    return zone(node=node, free=700, file=200, high=1000, active_anon=active_anon, inactive_anon=inactive_anon)


def cached(node: int = 0) -> Zone:
    """A zone that is short, but has page cache to give: 100,000 anonymous pages, of which a 64th is 1,562."""
    return zone(node=node, free=700, file=200_000, high=1000)


def evidence(
    before: Sample, now: Sample, machine: Machine = CLASSIC, recent: Reclaim | None = None
) -> dict[int, Evidence]:
    """The evidence of one interval, with nothing scanned in the second before it."""
    forecaster = Forecaster(machine)
    forecaster.update(before)
    reclaim = reclaim_between(before, now)
    return find_evidence(Measured(before, now, machine, reclaim, recent or reclaim, forecaster.update(now)))


def forecast_is(forecast: Forecast, before: Sample, now: Sample) -> Measured:
    """What was measured in an interval, with another forecast."""
    return Measured(before, now, CLASSIC, reclaim_between(before, now), Reclaim(), {0: forecast})


def grown(pages: int) -> Zone:
    """The zone of `cached`, after programs took so many pages."""
    return replace(cached(), inactive_anon_pages=cached().inactive_anon_pages + pages)


class TestReclaim:
    def test_is_what_was_scanned_globally_and_what_of_it_was_not_file_pages(self) -> None:
        now = sample(pgscan_kswapd=70, pgscan_direct=20, pgscan_khugepaged=10, pgscan_file=60, pgscan_anon=40)
        assert reclaim_between(sample(), now) == Reclaim(scanned_pages=100, anon_pages=40)

    def test_leaves_out_the_anonymous_pages_of_a_cgroup(self) -> None:
        now = sample(pgscan_kswapd=100, pgscan_file=60, pgscan_anon=40 + 9000)
        assert reclaim_between(sample(), now) == Reclaim(scanned_pages=100, anon_pages=40)

    def test_is_nothing_for_a_cgroup_alone(self) -> None:
        now = sample(pgscan_file=5000, pgscan_anon=9000)
        assert reclaim_between(sample(), now) == Reclaim()

    def test_takes_swapping_out_on_a_kernel_that_does_not_count_it(self) -> None:
        before = sample(pgscan_anon=None, pgscan_file=None, pswpout=10)
        now = sample(pgscan_anon=None, pgscan_file=None, pswpout=50, pgscan_kswapd=100)
        assert reclaim_between(before, now) == Reclaim(100, 40, anon_taken_pages=40, anon_grown_pages=40)

    def test_is_never_negative(self) -> None:
        before = sample(pgscan_kswapd=1000, pgscan_file=1000)
        assert reclaim_between(before, sample()) == Reclaim()


class TestAnonScanWherePageCacheCannotHelp:
    def test_a_single_batch_is_enough(self) -> None:
        now = sample(short(), pgscan_kswapd=500, pgscan_file=468)
        assert evidence(sample(short()), now) == {0: Evidence("anon_scan", 32)}

    def test_also_by_direct_reclaim_and_under_mglru(self) -> None:
        now = sample(short(), pgscan_direct=64, events=[])
        assert evidence(sample(short()), now, MGLRU) == {0: Evidence("anon_scan", 64)}

    def test_file_pages_alone_are_none(self) -> None:
        now = sample(short(), pgscan_file=90_000, pgsteal_file=90_000, pgscan_kswapd=90_000)
        assert evidence(sample(short()), now) == {}

    def test_reclaim_within_a_cgroups_own_limit_is_none(self) -> None:
        assert evidence(sample(short()), sample(short(), pgscan_anon=9000)) == {}

    def test_of_two_nodes_the_one_that_is_short(self) -> None:
        before = sample(zone(node=0), short(node=1))
        now = sample(zone(node=0), short(node=1), pgscan_kswapd=64)
        assert set(evidence(before, now)) == {1}

    def test_of_two_short_nodes_the_one_that_loses_anonymous_pages(self) -> None:
        before = sample(short(node=0), short(node=1))
        now = sample(short(node=0, inactive_anon=49_000), short(node=1), pgscan_kswapd=64)
        assert set(evidence(before, now)) == {0}

    def test_every_zone_of_the_node_must_be_past_help(self) -> None:
        roomy = zone("DMA32", free=500, file=200_000)
        now = sample(roomy, short(), pgscan_kswapd=32)
        assert evidence(sample(roomy, short()), now) == {}

    def test_a_zone_closed_by_its_reserve_does_not_help(self) -> None:
        closed = zone("DMA32", free=700_000, file=0, reserve=5_000_000)
        now = sample(closed, short(), pgscan_kswapd=32)
        assert set(evidence(sample(closed, short()), now)) == {0}


class TestAnonScanBesidePageCache:
    def test_a_64th_of_all_anonymous_pages_is_enough(self) -> None:
        before = sample(cached())
        enough = sample(cached(), pgscan_kswapd=2000, pgscan_file=2000 - 1562)
        assert evidence(before, enough) == {0: Evidence("anon_scan", 1562)}
        too_few = sample(cached(), pgscan_kswapd=2000, pgscan_file=2000 - 1561)
        assert evidence(before, too_few) == {}

    def test_less_than_a_quarter_of_what_was_scanned_is_none(self) -> None:
        enough = sample(cached(), pgscan_kswapd=8000, pgscan_file=6000)
        assert set(evidence(sample(cached()), enough)) == {0}
        too_few = sample(cached(), pgscan_kswapd=8000, pgscan_file=6001)
        assert evidence(sample(cached()), too_few) == {}

    def test_pages_that_are_demoted_are_none(self) -> None:
        """Until the slower nodes are full as well, and some are swapped out."""
        moved = sample(cached(), pgscan_kswapd=9000, pgsteal_anon=8000, pgdemote=8000)
        assert evidence(sample(cached()), moved) == {}
        swapped = sample(cached(), pgscan_kswapd=9000, pgsteal_anon=8000, pgdemote=6000, pswpout=2000)
        assert evidence(sample(cached()), swapped) == {0: Evidence("anon_scan", 2000)}

    def test_any_number_is_none_while_page_cache_is_what_comes_in(self) -> None:
        """As when a file is read, and idle memory is looked at, and even swapped out, to make room for page cache."""
        looked = sample(cached(), pgscan_kswapd=12_000, pgscan_file=8000, pgsteal_file=8000)
        assert evidence(sample(cached()), looked) == {}
        swapped = sample(grown(-9000), pgscan_kswapd=20_000, pgscan_file=10_000, pgsteal_file=10_000, pswpout=9000)
        assert evidence(sample(cached()), swapped) == {}

    @pytest.mark.parametrize(("read", "told"), [(3000, True), (3001, False)])
    def test_not_where_little_was_read_beside_what_was_swapped_out(self, read: int, told: bool) -> None:
        """Somebody reads a little, a third of that at most, and memory is short all the same."""
        now = sample(grown(-9000), pgscan_kswapd=20_000, pgscan_file=read, pgsteal_file=read, pswpout=9000)
        assert bool(evidence(sample(cached()), now)) is told

    def test_not_while_programs_take_memory(self) -> None:
        now = sample(grown(2000), pgscan_kswapd=12_000, pgscan_file=8000, pgsteal_file=8000)
        assert set(evidence(sample(cached()), now)) == {0}

    def test_what_went_to_swap_meanwhile_counts_as_had_by_programs(self) -> None:
        """Also by a swap that is slow, which has it later, and by zswap, where no swap device sees it."""
        read = {"pgscan_kswapd": 20_000, "pgscan_file": 15_000, "pgsteal_file": 15_000}
        slow = sample(grown(-3000), events=None, **read, pswpout=5000)
        zswap = sample(grown(-3000), events=None, **read, pgsteal_anon=5000)
        assert set(evidence(sample(cached()), slow)) == set(evidence(sample(cached()), zswap)) == {0}
        neither = sample(grown(-3000), events=None, **read)
        assert evidence(sample(cached()), neither) == {}

    def test_what_a_cgroup_swapped_does_not(self) -> None:
        read = {"pgscan_kswapd": 12_000, "pgscan_file": 10_400, "pgsteal_file": 10_400}
        now = sample(grown(-3000), events=None, **read, pgscan_anon=9100, pswpout=9000, pgsteal_anon=9000)
        assert evidence(sample(cached()), now) == {}

    def test_a_small_burst_of_them_alone_is_none(self) -> None:
        assert evidence(sample(cached()), sample(grown(9000), pgscan_kswapd=1500)) == {}

    def test_bursts_within_a_second_add_up(self) -> None:
        before, now = sample(cached()), sample(cached(), pgscan_kswapd=100)
        assert evidence(before, now, recent=Reclaim(4000, 1600)) == {0: Evidence("anon_scan", 100)}
        assert evidence(before, now, recent=Reclaim(4000, 1500)) == {}
        assert evidence(before, now, recent=Reclaim(8000, 1600)) == {}

    def test_an_interval_without_any_is_none_whatever_was_before(self) -> None:
        now = sample(cached(), pgscan_kswapd=100, pgscan_file=100)
        assert evidence(sample(cached()), now, recent=Reclaim(4000, 4000)) == {}

    def test_on_a_large_machine_16_mib_are_enough(self) -> None:
        large = zone(free=700, file=9_000_000, active_anon=9_000_000, inactive_anon=9_000_000)
        assert set(evidence(sample(large), sample(large, pgscan_kswapd=4096))) == {0}


class TestTrace:
    def test_counts_by_node(self) -> None:
        before = sample(short(node=0), short(node=1))
        events = [shrink(32, node=1), shrink(64, node=1)]
        now = sample(short(node=0), short(node=1), pgscan_kswapd=900, pgscan_file=804, events=events)
        assert evidence(before, now) == {1: Evidence("anon_scan", 96)}

    def test_leaves_out_a_cgroups_own_reclaim(self) -> None:
        before = sample(short(node=0), short(node=1))
        events = [shrink(320, node=0, comm="greedy"), shrink(32, node=1)]
        now = sample(short(node=0), short(node=1), pgscan_kswapd=32, events=events)
        assert evidence(before, now) == {1: Evidence("anon_scan", 32)}

    def test_direct_reclaim(self) -> None:
        now = sample(short(), pgscan_direct=32, events=[direct_begin(), shrink(comm="cc1")])
        assert evidence(sample(short()), now) == {0: Evidence("anon_scan", 32)}

    def test_without_an_anonymous_event_the_counters_decide(self) -> None:
        now = sample(short(), pgscan_kswapd=64, events=[])
        assert evidence(sample(short()), now) == {0: Evidence("anon_scan", 64)}


class TestAnonDeactivate:
    def test_movement_where_page_cache_cannot_help(self) -> None:
        now = sample(short(), pgscan_kswapd=10, pgscan_file=10, events=[deactivate(20)])
        assert evidence(sample(short()), now) == {0: Evidence("anon_deactivate", 20)}

    def test_rebalancing_beside_page_cache_is_none(self) -> None:
        now = sample(cached(), pgscan_kswapd=9000, pgscan_file=9000, events=[deactivate()] * 90)
        assert evidence(sample(cached()), now) == {}

    def test_movement_as_the_zone_counters_show_it(self) -> None:
        before = sample(short(active_anon=50_000, inactive_anon=10_000))
        now = sample(short(active_anon=49_000, inactive_anon=10_900), pgrefill=1000, pgscan_kswapd=10, pgscan_file=10)
        assert evidence(before, now) == {0: Evidence("anon_deactivate", 900)}

    def test_programs_that_come_and_go_are_none(self) -> None:
        before = sample(short(active_anon=50_000, inactive_anon=10_000))
        now = sample(short(active_anon=49_000, inactive_anon=10_900))
        assert evidence(before, now) == {}

    def test_bulk_ageing_under_mglru_is_none(self) -> None:
        before = sample(short(active_anon=91_399, inactive_anon=4000))
        now = sample(short(active_anon=1342, inactive_anon=94_057), pgscan_kswapd=900, pgscan_file=900, pgrefill=90_000)
        assert evidence(before, now, MGLRU) == {}
        assert set(evidence(before, now, CLASSIC)) == {0}, "and would have been"

    def test_an_empty_batch_is_none(self) -> None:
        now = sample(short(), pgscan_kswapd=64, pgscan_file=64, events=[shrink(0), deactivate(0)])
        assert evidence(sample(short()), now) == {}


class TestExhausted:
    @pytest.mark.parametrize(
        ("left", "declining", "scanned", "told"),
        [
            (999, True, 0, True),
            (1000, False, 10, True),
            (1000, False, 0, False),
            (1001, True, 10, False),
        ],
    )
    def test_no_more_left_than_the_headroom_and_somebody_takes_it(
        self, left: int, declining: bool, scanned: int, told: bool
    ) -> None:
        taken = 32 if declining else 31
        forecast = Forecast(left, 1000, 100.0, headroom_pages=1000, floor_pages=100, taken_pages=taken)
        now = sample(pgscan_kswapd=scanned, pgscan_file=scanned)
        found = find_evidence(forecast_is(forecast, sample(), now))
        assert found == ({0: Evidence("file_exhausted", 0)} if told else {})


@pytest.mark.parametrize(("cache", "helps"), [(100, False), (101, True)])
def test_page_cache_helps_while_there_is_more_than_the_headroom_s_floor(cache: int, helps: bool) -> None:
    forecast = Forecast(10_000, cache, 0.0, headroom_pages=1000, floor_pages=100)
    now = sample(cached(), pgscan_kswapd=32)
    found = find_evidence(forecast_is(forecast, sample(), now))
    assert bool(found) is not helps
