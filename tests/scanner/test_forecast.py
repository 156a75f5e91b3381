"""How much is left, how fast it shrinks, and when to say so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memnotify_cuse.kernel.zoneinfo import Zone
from memnotify_cuse.scanner.forecast import SWAP_CLUSTER_PAGES, Forecast, Forecaster
from tests.scanner.samples import CLASSIC, MGLRU, sample, zone

MIB = 256
"""Pages."""
PRESENT = 512 * MIB
HIGH = 4 * MIB


def machine(left_mib: float, *, file_mib: float = 0, present: int = PRESENT) -> Zone:
    """One zone, with so much left to be had, of which a part is page cache."""
    free = HIGH + int((left_mib - file_mib) * MIB)
    return zone(free=free, high=HIGH, file=int(file_mib * MIB), present=present)


def forecasts(*left_mib: float, every_ms: int = 100) -> list[Forecast]:
    """What comes of samples of a machine without swap."""
    tracker = Forecaster(CLASSIC)
    return [
        tracker.update(sample(machine(left), time_ms=number * every_ms, swap_kb=0))[0]
        for number, left in enumerate(left_mib)
    ]


class TestLeft:
    def test_free_and_file_pages_above_the_watermark(self) -> None:
        tracker = Forecaster(CLASSIC)
        assert tracker.update(sample(machine(100, file_mib=60), swap_kb=0))[0].left_pages == 100 * MIB

    def test_program_text_is_not_to_be_had(self) -> None:
        tracker = Forecaster(CLASSIC)
        now = sample(machine(100, file_mib=60), swap_kb=0, mapped=20 * MIB)
        assert tracker.update(now)[0].left_pages == 80 * MIB

    def test_shared_memory_that_is_mapped_is_not_program_text(self) -> None:
        now = sample(machine(100, file_mib=60), swap_kb=0, mapped=20 * MIB, shmem=15 * MIB)
        assert Forecaster(CLASSIC).update(now)[0].text_pages == 5 * MIB

    def test_mapped_data_that_nobody_needs_any_more_is_to_be_had(self) -> None:
        """As packs that `git gc` maps: of 200 MiB of files 170 are mapped, and 40 of all are on the active list."""
        idle = replace(machine(300, file_mib=200), active_file_pages=40 * MIB, inactive_file_pages=160 * MIB)
        now = sample(idle, swap_kb=0, mapped=170 * MIB)
        assert Forecaster(CLASSIC).update(now)[0].text_pages == (40 + 32) * MIB
        assert Forecaster(MGLRU).update(now)[0].text_pages == 32 * MIB

    @pytest.mark.parametrize(("present_mib", "text_mib"), [(256, 16), (1024, 64)])
    def test_what_may_be_text_is_a_16th_of_the_node(self, present_mib: int, text_mib: int) -> None:
        now = sample(machine(900, file_mib=800, present=present_mib * MIB), swap_kb=0, mapped=800 * MIB)
        assert Forecaster(MGLRU).update(now)[0].text_pages == text_mib * MIB

    def test_what_swap_wins_counts_as_far_as_there_is_something_to_swap(self) -> None:
        tracker = Forecaster(CLASSIC)
        few = sample(machine(100), swap_kb=4 * 10 * MIB)
        many = sample(machine(100), swap_kb=10_000_000)
        assert tracker.update(few)[0].left_pages == 110 * MIB
        assert tracker.update(many)[0].left_pages == 100 * MIB + 100_000, "the anonymous pages of a test zone"

    def test_what_the_kernels_own_caches_have_grown_by_counts_as_in_mem_available(self) -> None:
        """All of it but half, or the low watermark where that is less. What has been there all along may be in use."""
        low = HIGH * 3 // 4
        forecaster = Forecaster(CLASSIC)

        def left(slab: int, *, stalls: bool = False) -> int:
            now = sample(machine(10), swap_kb=0, slab=slab)
            return forecaster.update(now, stalls=stalls)[0].left_pages - 10 * MIB

        assert left(40 * MIB) == 0
        assert left(140 * MIB) == 100 * MIB - low
        assert left(140 * MIB, stalls=True) == 0, "what shrinks them does not keep up"
        assert left(40 * MIB + low) == low // 2
        assert left(30 * MIB) == 0
        assert left(40 * MIB) == 10 * MIB - low, "the least there ever was"

    def test_the_kernels_own_caches_count_although_programs_reclaim_if_they_shrink(self) -> None:
        low = HIGH * 3 // 4
        forecaster = Forecaster(CLASSIC)

        def left(time_ms: int, slab: int, *, stalls: bool = True) -> int:
            now = sample(machine(10), swap_kb=0, slab=slab, time_ms=time_ms)
            return forecaster.update(now, stalls=stalls)[0].left_pages - 10 * MIB

        left(0, 40 * MIB, stalls=False)
        assert left(100, 140 * MIB) == 0
        assert left(200, 140 * MIB - SWAP_CLUSTER_PAGES) == 100 * MIB - SWAP_CLUSTER_PAGES - low
        assert left(1050, 140 * MIB - SWAP_CLUSTER_PAGES) > 0
        assert left(1250, 140 * MIB - SWAP_CLUSTER_PAGES) == 0, "it is what came after the last second's begin"

    def test_the_least_that_the_kernels_own_caches_had_is_carried(self) -> None:
        before, after = Forecaster(CLASSIC), Forecaster(CLASSIC)
        before.update(sample(machine(10), swap_kb=0, slab=40 * MIB))
        after.go_on(before.carried(), 0)
        now = sample(machine(10), swap_kb=0, slab=140 * MIB)
        assert after.update(now)[0].left_pages == 110 * MIB - HIGH * 3 // 4

    def test_what_zfs_gives_back_counts_as_far_as_nothing_else_accounts_for_it(self) -> None:
        now = sample(machine(10), swap_kb=0, arc_gain_kb=4 * 100 * MIB)
        assert Forecaster(CLASSIC).update(now)[0].left_pages == 110 * MIB
        full = machine(10, present=HIGH + 10 * MIB + 100_000 + 5 * MIB)
        now = sample(full, swap_kb=0, arc_gain_kb=4 * 100 * MIB)
        assert Forecaster(CLASSIC).update(now)[0].left_pages == 15 * MIB

    def test_anonymous_pages_that_are_demoted_have_the_room_that_is_on_slower_nodes(self) -> None:
        below = zone("Movable", 1, free=HIGH + 40 * MIB, high=HIGH, file=0, present=PRESENT)
        demoting = replace(sample(machine(10), below, swap_kb=0), demoting=frozenset({0}))
        fast, slow = Forecaster(CLASSIC).update(demoting).values()
        assert (fast.left_pages, slow.left_pages) == (50 * MIB, 40 * MIB)
        assert fast.cache_pages == 50 * MIB
        none = replace(sample(machine(10), below, swap_kb=0), demoting=frozenset())
        assert Forecaster(CLASSIC).update(none, demotes=True)[0].left_pages == 10 * MIB
        unknown = sample(machine(10), below, swap_kb=0)
        assert Forecaster(CLASSIC).update(unknown)[0].left_pages == 10 * MIB
        assert Forecaster(CLASSIC).update(unknown, demotes=True)[0].left_pages == 50 * MIB

    def test_swap_wins_only_what_there_is_no_room_for_on_slower_nodes(self) -> None:
        below = zone("Movable", 1, free=HIGH + 40 * MIB, high=HIGH, file=0, present=PRESENT)
        now = replace(sample(machine(10), below, swap_kb=10_000_000), demoting=frozenset({0}))
        assert Forecaster(CLASSIC).update(now)[0].left_pages == 10 * MIB + 100_000

    def test_a_zone_below_its_watermark_takes_nothing_from_another(self) -> None:
        tracker = Forecaster(CLASSIC)
        now = sample(machine(100), zone("DMA32", free=0, file=0, high=MIB), swap_kb=0)
        assert tracker.update(now)[0].left_pages == 100 * MIB


class TestDecline:
    def test_is_the_net_of_a_second(self) -> None:
        *_, last = forecasts(100, 98, 96, 94, 92, 90, 88, 86, 84, 82, 80)
        assert last.decline_pages_s == pytest.approx(20 * MIB)
        assert last.lasts_s == pytest.approx(4.0)

    def test_a_fast_taker_is_seen_within_a_quarter_of_a_second(self) -> None:
        *_, last = forecasts(100, 100, 100, 90, 80, 70)
        assert last.decline_pages_s == pytest.approx(100 * MIB)

    def test_a_short_burst_counts_for_a_part(self) -> None:
        *_, last = forecasts(100, 90, 80, every_ms=20)
        assert last.decline_pages_s == pytest.approx(80 * MIB), "and not 500 MiB/s"

    def test_a_step_for_nothing(self) -> None:
        assert [each.decline_pages_s for each in forecasts(500, 100, 100, 100)] == [0, 0, 0, 0]
        *_, last = forecasts(500, 100, 99, 98)
        assert last.decline_pages_s <= 12 * MIB

    def test_a_load_that_takes_and_gives_is_none(self) -> None:
        *_, last = forecasts(*[60, 50] * 40)
        assert last.decline_pages_s <= 10 * MIB / 0.25

    def test_is_remembered_while_clients_give_memory_back(self) -> None:
        falling = [100 - 2 * each for each in range(11)]
        *_, last = forecasts(*falling, *[90.0] * 15)
        assert last.decline_pages_s == pytest.approx(20 * MIB)
        *_, last = forecasts(*falling, *[90.0] * 45)
        assert last.decline_pages_s == 0
        assert last.lasts_s == float("inf")


class TestDeclining:
    """Whether anything is taken, by however little at a time."""

    def test_less_than_reclaim_takes_at_a_time_is_noise(self) -> None:
        page = 1 / MIB
        assert not any(each.declining for each in forecasts(*[10, 10 - 31 * page] * 20))

    def test_a_slow_decline_adds_up(self) -> None:
        page = 1 / MIB
        found = [each.declining for each in forecasts(*[10 - 8 * page * number for number in range(9)])]
        assert found == [False] * 4 + [True] + [False] * 3 + [True]

    def test_what_was_taken_before_more_came_back_is_over(self) -> None:
        assert [each.declining for each in forecasts(10, 9, 12, 12, 11.9)] == [False, True, False, False, False]
        assert forecasts(10, 9, 12, 11.8)[-1].declining

    def test_the_kernels_own_caches_take_nothing(self) -> None:
        tracker = Forecaster(CLASSIC)
        tracker.update(sample(machine(100), swap_kb=0))
        now = tracker.update(sample(machine(60), swap_kb=0, slab=40 * MIB, time_ms=100))
        assert not now[0].declining


class TestTarget:
    def test_is_enough_to_be_left_alone_for_a_second(self) -> None:
        *_, last = forecasts(*[400 - 20 * each for each in range(20)])
        assert last.decline_pages_s == pytest.approx(200 * MIB)
        assert last.headroom_pages == 32 * MIB
        assert last.left_alone_pages == pytest.approx(232 * MIB, rel=0.01)

    def test_a_slow_decline_asks_for_no_more_than_ends_the_pressure(self) -> None:
        *_, last = forecasts(10, 9.9, 9.8, 9.7)
        assert last.left_alone_pages == last.recovered_pages == 16 * MIB


class TestHeadroom:
    def test_is_what_is_taken_until_clients_have_acted(self) -> None:
        *_, last = forecasts(*[100 - 2 * each for each in range(11)])
        assert last.headroom_pages == pytest.approx(20 * MIB, rel=0.01)

    def test_a_slow_decline_has_a_floor(self) -> None:
        *_, last = forecasts(100, 99.9)
        assert last.headroom_pages == 8 * MIB

    def test_a_fast_one_a_ceiling(self) -> None:
        *_, last = forecasts(*[500 - 30 * each for each in range(11)])
        assert last.headroom_pages == 32 * MIB

    @pytest.mark.parametrize(
        ("present_mib", "high_mib", "floor_mib"),
        [(128, 2, 2), (512, 4, 8), (512, 400, 8), (24 * 1024, 120, 240), (1024 * 1024, 2200, 4400)],
    )
    def test_the_floor_is_a_64th_or_what_the_zone_is_clear_with(
        self, present_mib: int, high_mib: int, floor_mib: int
    ) -> None:
        """From 128 MiB to 1 TiB; and on a machine whose watermarks were raised."""
        now = sample(replace(machine(50, present=present_mib * MIB), high_pages=high_mib * MIB), swap_kb=0)
        assert Forecaster(CLASSIC).update(now)[0].headroom_pages == floor_mib * MIB

    def test_can_be_given(self) -> None:
        tracker = Forecaster(CLASSIC, headroom_kb=40 * 1024)
        tracker.update(sample(machine(100), time_ms=0, swap_kb=0))
        assert tracker.update(sample(machine(41), time_ms=500, swap_kb=0))[0].headroom_pages == 40 * MIB


@pytest.mark.parametrize(
    ("left_mib", "decline_mib_s", "level"),
    [
        (100, 0, "low"),
        (100, 19, "low"),
        (100, 21, "medium"),
        (8, 0, "medium"),
        (9, 0, "low"),
        (100, 201, "critical"),
        (1, 0, "medium"),
        (0, 0, "critical"),
        (-5, 0, "critical"),
    ],
)
def test_the_level_says_what_comes_next(left_mib: int, decline_mib_s: int, level: str) -> None:
    forecast = Forecast(left_mib * MIB, left_mib * MIB, float(decline_mib_s * MIB), 8 * MIB, 8 * MIB)
    assert forecast.level == level
