"""What is evidence of anonymous reclaim, and what is not."""

from __future__ import annotations

import pytest

from memnotify_cuse.scanner.evidence import Evidence, find_evidence, headroom_pages, swap_is_usable
from tests.scanner.samples import CLASSIC, MGLRU, deactivate, direct_begin, sample, shrink, zone

SHORT = 1500
"""Free pages between the high watermark and twice it."""


class TestAnonScan:
    def test_scanned_anonymous_pages_of_global_reclaim(self) -> None:
        before = sample(zone(free=SHORT))
        now = sample(zone(free=SHORT), pgscan_anon=64, pgscan_kswapd=500)
        assert find_evidence(before, now, CLASSIC) == {0: Evidence("anon_scan", 64)}

    def test_also_under_mglru(self) -> None:
        before = sample(zone(free=SHORT))
        now = sample(zone(free=SHORT), pgscan_anon=64, pgscan_direct=64, events=[])
        assert find_evidence(before, now, MGLRU) == {0: Evidence("anon_scan", 64)}

    def test_bulk_ageing_under_mglru_is_none(self) -> None:
        before = sample(zone(active_anon=91_399, inactive_anon=4000, free=SHORT))
        now = sample(zone(active_anon=1342, inactive_anon=94_057, free=SHORT), pgscan_kswapd=900, pgrefill=90_000)
        assert find_evidence(before, now, MGLRU) == {}

    def test_file_pages_alone_are_none(self) -> None:
        before = sample(zone(free=SHORT))
        now = sample(zone(free=SHORT), pgscan_file=90_000, pgsteal_file=90_000, pgscan_kswapd=90_000)
        assert find_evidence(before, now, CLASSIC) == {}

    def test_reclaim_within_a_cgroups_own_limit_is_none(self) -> None:
        before = sample(zone(free=SHORT))
        now = sample(zone(free=SHORT), pgscan_anon=9000)
        assert find_evidence(before, now, CLASSIC) == {}

    def test_no_more_than_global_reclaim_scanned_is_counted(self) -> None:
        before = sample(zone(free=SHORT))
        now = sample(zone(free=SHORT), pgscan_anon=9000, pgscan_kswapd=32)
        assert find_evidence(before, now, CLASSIC) == {0: Evidence("anon_scan", 32)}

    def test_a_kernel_that_does_not_count_it_shows_swapping_out(self) -> None:
        before = sample(zone(free=SHORT), pgscan_anon=None, pswpout=10)
        now = sample(zone(free=SHORT), pgscan_anon=None, pswpout=50, pgscan_kswapd=100)
        assert find_evidence(before, now, CLASSIC) == {0: Evidence("anon_scan", 40)}

    def test_of_two_nodes_the_one_that_is_short(self) -> None:
        before = sample(zone(node=0), zone(node=1, free=SHORT))
        now = sample(zone(node=0), zone(node=1, free=SHORT), pgscan_anon=64, pgscan_kswapd=64)
        assert set(find_evidence(before, now, CLASSIC)) == {1}

    def test_of_two_short_nodes_the_one_that_loses_anonymous_pages(self) -> None:
        before = sample(zone(node=0, free=SHORT), zone(node=1, free=SHORT))
        now = sample(
            zone(node=0, inactive_anon=49_000, free=SHORT), zone(node=1, free=SHORT), pgscan_anon=64, pgscan_kswapd=64
        )
        assert set(find_evidence(before, now, CLASSIC)) == {0}


class TestTrace:
    def test_counts_by_node(self) -> None:
        before = sample(zone(node=0, free=SHORT), zone(node=1, free=SHORT))
        now = sample(
            zone(node=0, free=SHORT),
            zone(node=1, free=SHORT),
            pgscan_anon=96,
            pgscan_kswapd=900,
            events=[shrink(32, node=1), shrink(64, node=1)],
        )
        assert find_evidence(before, now, CLASSIC) == {1: Evidence("anon_scan", 96)}

    def test_without_anonymous_events_there_is_none(self) -> None:
        before = sample(zone(free=SHORT))
        now = sample(
            zone(free=SHORT), pgscan_anon=64, pgscan_kswapd=900, events=[direct_begin(), shrink(32, anon=False)]
        )
        assert find_evidence(before, now, CLASSIC) == {}

    def test_a_cgroups_own_reclaim_beside_kswapd_at_work_on_files_is_none(self) -> None:
        before = sample(zone(free=SHORT))
        now = sample(
            zone(free=SHORT), pgscan_anon=9000, pgscan_file=500, pgscan_kswapd=500, events=[shrink(comm="greedy")] * 300
        )
        assert find_evidence(before, now, CLASSIC) == {}

    def test_direct_reclaim(self) -> None:
        before = sample(zone(free=SHORT))
        now = sample(zone(free=SHORT), pgscan_anon=32, pgscan_direct=32, events=[direct_begin(), shrink(comm="cc1")])
        assert find_evidence(before, now, CLASSIC) == {0: Evidence("anon_scan", 32)}

    def test_when_events_were_lost_the_counters_decide(self) -> None:
        before = sample(zone(free=SHORT))
        now = sample(zone(free=SHORT), pgscan_anon=64, pgscan_kswapd=64, events=[], lost=True)
        assert find_evidence(before, now, CLASSIC) == {0: Evidence("anon_scan", 64)}

    def test_an_empty_batch_is_none(self) -> None:
        before = sample(zone(free=SHORT))
        now = sample(zone(free=SHORT), pgscan_kswapd=64, events=[shrink(0), deactivate(0)])
        assert find_evidence(before, now, CLASSIC) == {}


class TestFileExhausted:
    def test_without_swap_when_free_and_file_pages_are_as_good_as_gone(self) -> None:
        before = sample(zone(free=1000, file=2000), swap_kb=0)
        now = sample(zone(free=1000, file=1500), swap_kb=0, pgscan_kswapd=10)
        assert find_evidence(before, now, CLASSIC) == {0: Evidence("file_exhausted", 0)}

    def test_with_swap_full(self) -> None:
        before = sample(zone(free=1000, file=2000), swap_free_kb=100)
        now = sample(zone(free=1000, file=1500), swap_free_kb=100, pgscan_kswapd=10)
        assert find_evidence(before, now, CLASSIC) == {0: Evidence("file_exhausted", 0)}

    def test_not_with_swap_to_spare(self) -> None:
        before = sample(zone(free=1000, file=2000))
        now = sample(zone(free=1000, file=1500), pgscan_kswapd=10)
        assert find_evidence(before, now, CLASSIC) == {}

    def test_not_while_there_is_page_cache_to_take(self) -> None:
        before = sample(zone(free=1000, file=90_000), swap_kb=0)
        now = sample(zone(free=1000, file=89_000), swap_kb=0, pgscan_kswapd=9000)
        assert find_evidence(before, now, CLASSIC) == {}

    def test_program_text_is_not_to_be_taken(self) -> None:
        before = sample(zone(free=1000, file=30_000), swap_kb=0, mapped=29_000)
        now = sample(zone(free=1000, file=29_900), swap_kb=0, mapped=29_000, pgscan_kswapd=10)
        assert set(find_evidence(before, now, CLASSIC)) == {0}

    def test_not_on_a_machine_that_is_small_and_at_rest(self) -> None:
        before = sample(zone(free=1000, file=1500), swap_kb=0)
        assert find_evidence(before, before, CLASSIC) == {}

    def test_free_memory_counts_as_much_as_page_cache(self) -> None:
        before = sample(zone(free=90_000, file=10), swap_kb=0)
        now = sample(zone(free=80_000, file=10), swap_kb=0)
        assert find_evidence(before, now, CLASSIC) == {}


@pytest.mark.parametrize(
    ("total_kb", "free_kb", "usable"),
    [(0, 0, False), (1_000_000, 1_000_000, True), (1_000_000, 3000, False), (8192, 1024, False), (8192, 1025, True)],
)
def test_swap_is_usable_until_only_crumbs_are_left(total_kb: int, free_kb: int, usable: bool) -> None:
    assert swap_is_usable(sample(swap_kb=total_kb, swap_free_kb=free_kb)) is usable


@pytest.mark.parametrize(("present", "cushion_kb"), [(1000, 4096), (128 * 1024, 8192), (100_000_000, 65536)])
def test_headroom_is_a_64th_within_4_and_64_mib(present: int, cushion_kb: int) -> None:
    assert headroom_pages([zone(present=present, high=10)], 4) == cushion_kb // 4 + 20
