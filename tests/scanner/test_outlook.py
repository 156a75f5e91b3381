"""How much is left, how fast it shrinks, and when to say so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memnotify_cuse.kernel.zoneinfo import Zone
from memnotify_cuse.scanner.outlook import Outlook, OutlookTracker, Responses
from tests.scanner.samples import CLASSIC, MGLRU, MS, sample, zone

MIB = 256
"""Pages."""
PRESENT = 512 * MIB
HIGH = 2 * MIB


def machine(left_mib: float, *, file_mib: float = 0, present: int = PRESENT) -> Zone:
    """One zone, with so much left to be had, of which a part is page cache."""
    free = HIGH + int((left_mib - file_mib) * MIB)
    return zone(free=free, high=HIGH, file=int(file_mib * MIB), present=present)


def outlooks(*left_mib: float, every_ms: int = 100) -> list[Outlook]:
    """What comes of samples of a machine without swap."""
    tracker = OutlookTracker(CLASSIC)
    return [
        tracker.update(sample(machine(left), time_ms=number * every_ms, swap_kb=0))[0]
        for number, left in enumerate(left_mib)
    ]


class TestLeft:
    def test_free_and_file_pages_above_the_watermark(self) -> None:
        tracker = OutlookTracker(CLASSIC)
        assert tracker.update(sample(machine(100, file_mib=60), swap_kb=0))[0].left_pages == 100 * MIB

    def test_program_text_is_not_to_be_had(self) -> None:
        tracker = OutlookTracker(CLASSIC)
        now = sample(machine(100, file_mib=60), swap_kb=0, mapped=20 * MIB)
        assert tracker.update(now)[0].left_pages == 80 * MIB

    def test_shared_memory_that_is_mapped_is_not_program_text(self) -> None:
        now = sample(machine(100, file_mib=60), swap_kb=0, mapped=20 * MIB, shmem=15 * MIB)
        assert OutlookTracker(CLASSIC).update(now)[0].text_pages == 5 * MIB

    def test_mapped_data_that_nobody_needs_any_more_is_to_be_had(self) -> None:
        """As packs that `git gc` maps: of 200 MiB of files 170 are mapped, and 40 of all are on the active list."""
        idle = replace(machine(300, file_mib=200), active_file_pages=40 * MIB, inactive_file_pages=160 * MIB)
        now = sample(idle, swap_kb=0, mapped=170 * MIB)
        assert OutlookTracker(CLASSIC).update(now)[0].text_pages == (40 + 32) * MIB
        assert OutlookTracker(MGLRU).update(now)[0].text_pages == 32 * MIB

    @pytest.mark.parametrize(("present_mib", "text_mib"), [(256, 32), (1024, 64), (100_000, 512)])
    def test_what_may_be_text_is_a_16th_of_the_node_within_bounds(self, present_mib: int, text_mib: int) -> None:
        now = sample(machine(900, file_mib=800, present=present_mib * MIB), swap_kb=0, mapped=800 * MIB)
        assert OutlookTracker(MGLRU).update(now)[0].text_pages == text_mib * MIB

    def test_what_swap_wins_counts_as_far_as_there_is_something_to_swap(self) -> None:
        tracker = OutlookTracker(CLASSIC)
        few = sample(machine(100), swap_kb=4 * 10 * MIB)
        many = sample(machine(100), swap_kb=10_000_000)
        assert tracker.update(few)[0].left_pages == 110 * MIB
        assert tracker.update(many)[0].left_pages == 100 * MIB + 100_000, "the anonymous pages of a test zone"

    def test_a_zone_below_its_watermark_takes_nothing_from_another(self) -> None:
        tracker = OutlookTracker(CLASSIC)
        now = sample(machine(100), zone("DMA32", free=0, file=0, high=MIB), swap_kb=0)
        assert tracker.update(now)[0].left_pages == 100 * MIB


class TestDecline:
    def test_is_the_net_of_a_second(self) -> None:
        *_, last = outlooks(100, 98, 96, 94, 92, 90, 88, 86, 84, 82, 80)
        assert last.decline_pages_s == pytest.approx(20 * MIB)
        assert last.lasts_s == pytest.approx(4.0)

    def test_a_fast_taker_is_seen_within_a_quarter_of_a_second(self) -> None:
        *_, last = outlooks(100, 100, 100, 90, 80, 70)
        assert last.decline_pages_s == pytest.approx(100 * MIB)

    def test_a_short_burst_counts_for_a_part(self) -> None:
        *_, last = outlooks(100, 90, 80, every_ms=20)
        assert last.decline_pages_s == pytest.approx(80 * MIB), "and not 500 MiB/s"

    def test_a_step_for_nothing(self) -> None:
        assert [each.decline_pages_s for each in outlooks(500, 100, 100, 100)] == [0, 0, 0, 0]
        *_, last = outlooks(500, 100, 99, 98)
        assert last.decline_pages_s <= 12 * MIB

    def test_a_load_that_takes_and_gives_is_none(self) -> None:
        *_, last = outlooks(*[60, 50] * 40)
        assert last.decline_pages_s <= 10 * MIB / 0.25

    def test_is_remembered_while_clients_give_memory_back(self) -> None:
        falling = [100 - 2 * each for each in range(11)]
        *_, last = outlooks(*falling, *[90.0] * 15)
        assert last.decline_pages_s == pytest.approx(20 * MIB)
        *_, last = outlooks(*falling, *[90.0] * 45)
        assert last.decline_pages_s == 0
        assert last.lasts_s == float("inf")


class TestResponses:
    def test_a_second_is_allowed_for_where_nobody_was_slow(self) -> None:
        responses = Responses()
        assert responses.reaction_s(0) == 1.0
        responses.update(0, told=True, gave=False)
        responses.update(150 * MS, told=False, gave=True)
        assert responses.reaction_s(200 * MS) == 1.0

    def test_slow_programs_are_allowed_more_for_a_minute(self) -> None:
        responses = Responses()
        responses.update(0, told=True, gave=False)
        responses.update(300 * MS, told=True, gave=False)
        responses.update(700 * MS, told=False, gave=True)
        assert responses.reaction_s(800 * MS) == pytest.approx(0.6 + 2 * 0.7)
        assert responses.reaction_s(61_000 * MS) == 1.0

    def test_memory_that_comes_back_unasked_says_nothing(self) -> None:
        responses = Responses()
        responses.update(0, told=False, gave=True)
        responses.update(100 * MS, told=True, gave=False)
        responses.update(3000 * MS, told=False, gave=True)
        assert responses.reaction_s(3001 * MS) == pytest.approx(3.0), "as much as is ever allowed"
        late = Responses()
        late.update(0, told=True, gave=False)
        late.update(2500 * MS, told=False, gave=False)
        late.update(2600 * MS, told=False, gave=True)
        assert late.reaction_s(2601 * MS) == 1.0, "nobody had answered within two seconds"

    def test_the_headroom_grows_with_the_time_they_take(self) -> None:
        """10 MiB/s; told at 10 MiB, and 30 MiB come back after 0.7 s."""
        *_, before = outlooks(*range(20, 10, -1))
        *_, after = outlooks(*range(20, 2, -1), *range(33, 20, -1))
        assert before.headroom_pages == pytest.approx(10 * MIB, rel=0.01)
        assert after.headroom_pages == pytest.approx(20 * MIB, rel=0.1)


class TestHeadroom:
    def test_is_what_is_taken_until_clients_have_acted(self) -> None:
        *_, last = outlooks(*[100 - 2 * each for each in range(11)])
        assert last.headroom_pages == pytest.approx(20 * MIB, rel=0.01)

    def test_a_slow_decline_has_a_floor(self) -> None:
        *_, last = outlooks(100, 99.9)
        assert last.headroom_pages == 8 * MIB

    def test_a_fast_one_a_ceiling(self) -> None:
        *_, last = outlooks(*[500 - 30 * each for each in range(11)])
        assert last.headroom_pages == 32 * MIB

    @pytest.mark.parametrize(("present_mib", "floor_mib"), [(64, 4), (512, 8), (100_000, 64)])
    def test_the_floor_is_a_64th_within_4_and_64_mib(self, present_mib: int, floor_mib: int) -> None:
        tracker = OutlookTracker(CLASSIC)
        now = tracker.update(sample(machine(50, present=present_mib * MIB), swap_kb=0))[0]
        assert now.headroom_pages == floor_mib * MIB

    def test_can_be_given(self) -> None:
        tracker = OutlookTracker(CLASSIC, headroom_kb=40 * 1024)
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
        (2, 0, "critical"),
        (-5, 0, "critical"),
    ],
)
def test_the_level_says_what_comes_next(left_mib: int, decline_mib_s: int, level: str) -> None:
    outlook = Outlook(left_mib * MIB, left_mib * MIB, float(decline_mib_s * MIB), 8 * MIB, 8 * MIB, declining=True)
    assert outlook.level == level
