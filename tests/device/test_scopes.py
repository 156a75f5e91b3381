"""Files with a scope: told of the memory cgroups that their opener is in, and of zones as all others are."""

from __future__ import annotations

import gc

import pytest

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.topics import Special, Topic
from memnotify_cuse.domain import CgroupId, Scope
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_CRITICAL, LEVEL_LOW, LEVEL_MEDIUM, Record
from tests.device.bench import ALICE, BOB, MS, NORMAL, UserBench

POD, BOX, OTHER = CgroupId("/pod", 1), CgroupId("/pod/box", 2), CgroupId("/other", 3)


class Bench(UserBench):
    """Files with scopes."""

    def within(self, uid: int, *scope: CgroupId, topic: Topic = None) -> OpenFile:
        """An open file whose opener is in those cgroups."""
        file = self.device.open(uid, topic, self._woken.append)
        self.device.set_scope(file, scope)
        return file

    def asleep(self, uid: int, *scope: CgroupId, topic: Topic = None) -> OpenFile:
        file = self.within(uid, *scope, topic=topic)
        self.device.watch(file)
        return file

    def subscriber(self, uid: int, *scope: CgroupId) -> OpenFile:
        file = self.within(uid, *scope)
        self.device.subscribe(file, subscribed=True)
        return file

    def end(self, now_ms: int, *zones: ZoneId) -> None:
        self.device.pressure_ended(zones, now_ms * MS)

    def reads_zone(self, file: OpenFile, now_ms: int) -> str | None:
        """The zone or cgroup in the record that `file` reads."""
        record = self.reads(file, now_ms)
        return Record.parse(record).zone if record is not None else None


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestTold:
    @pytest.mark.parametrize("of", [BOX, POD, NORMAL])
    def test_of_its_cgroup_of_what_that_lies_in_and_of_zones(self, of: ZoneId, bench: Bench) -> None:
        file = bench.asleep(ALICE, BOX, POD)
        bench.notify(1000, of)
        assert bench.woken() == [file]
        assert bench.polls(file, 1001)
        assert bench.reads_zone(file, 1001) == of.name

    def test_of_no_other_cgroup(self, bench: Bench) -> None:
        files = [bench.asleep(BOB, OTHER), bench.asleep(BOB), bench.asleep(BOB, POD)]
        bench.notify(1000, BOX, level=LEVEL_CRITICAL, rises=True)
        assert bench.woken() == []
        for file in files:
            assert not bench.polls(file, 1001)
            assert bench.reads(file, 1001) is None

    def test_of_no_other_cgroup_of_that_path(self, bench: Bench) -> None:
        """It was there before, and is gone."""
        bench.asleep(ALICE, BOX)
        bench.notify(1000, CgroupId(BOX.path, BOX.generation + 1))
        assert bench.woken() == []

    def test_of_zones_with_those_that_have_no_scope(self, bench: Bench) -> None:
        files = {bench.asleep(1000 + number, *scope).number for number, scope in enumerate([(BOX, POD), (OTHER,), ()])}
        bench.notify(1000, NORMAL)
        assert {file.number for file in bench.woken()} == files

    def test_all_of_those_of_a_cgroup_of_its_rise(self, bench: Bench) -> None:
        inside = {bench.asleep(ALICE, BOX, POD).number for _ in range(40)}
        outside = [bench.asleep(BOB, OTHER) for _ in range(40)]
        bench.notify(1000, POD, level=LEVEL_CRITICAL, rises=True)
        assert {file.number for file in bench.woken()} == inside
        assert not any(bench.polls(file, 1001) for file in outside)

    def test_a_part_of_those_of_a_cgroup_in_turn(self, bench: Bench) -> None:
        files = [bench.asleep(ALICE, BOX) for _ in range(40)]
        bench.notify(1000, BOX)
        assert bench.woken() == files[:3]

    def test_at_once_when_it_is_opened_while_its_cgroup_is_under_pressure(self, bench: Bench) -> None:
        bench.asleep(ALICE, BOX)
        bench.notify(1000, BOX)
        file = bench.within(BOB, BOX, POD)
        assert bench.polls(file, 1500)
        assert bench.reads_zone(file, 1500) == BOX.name
        assert not bench.polls(bench.within(BOB, OTHER), 1500)

    def test_at_once_although_its_user_was_told_of_another_cgroup(self, bench: Bench) -> None:
        """All containers' roots may be one user."""
        bench.notify(1000, BOX)
        bench.notify(1010, OTHER)
        elsewhere = bench.within(ALICE, OTHER)
        assert bench.polls(elsewhere, 1020)
        bench.device.close(elsewhere)
        assert bench.polls(bench.within(ALICE, BOX), 1030)

    def test_again_while_its_own_cgroup_is_critical_and_not_another(self, bench: Bench) -> None:
        """Guard time is for all whose memory is not about to end."""
        inside, outside = bench.asleep(ALICE, BOX), bench.asleep(BOB, OTHER)
        bench.notify(1000, BOX, level=LEVEL_CRITICAL)
        bench.notify(1000, OTHER)
        assert set(map(id, bench.woken())) == {id(inside), id(outside)}
        bench.answer([inside, outside], 1001)
        bench.notify(1020, BOX, level=LEVEL_CRITICAL)
        bench.notify(1020, OTHER)
        assert bench.woken() == [inside]
        assert not bench.polls(outside, 1021)

    def test_of_the_machine_in_time_whatever_goes_on_in_another_cgroup(self, bench: Bench) -> None:
        """A program that answers within a moment may be told by the next notification, 200 ms after the last one."""
        file = bench.asleep(ALICE)
        bench.asleep(BOB, OTHER)
        bench.notify(1000, NORMAL)
        bench.woken()
        bench.notify(1030, OTHER)
        bench.woken()
        bench.answer([file], 1040)
        bench.notify(1200, NORMAL)
        assert bench.woken() == [file]

    def test_no_more_when_the_pressure_ends(self, bench: Bench) -> None:
        file = bench.asleep(ALICE, BOX, POD)
        bench.notify(1000, BOX)
        bench.end(1010, BOX)
        assert not bench.polls(file, 1020)
        assert bench.reads(file, 1020) is None

    def test_of_what_is_left_when_one_pressure_ends(self, bench: Bench) -> None:
        file = bench.asleep(ALICE, BOX, POD)
        bench.notify(1000, BOX)
        bench.notify(1005, POD)
        bench.end(1010, BOX)
        assert bench.polls(file, 1020)
        assert bench.reads_zone(file, 1020) == POD.name

    def test_whether_a_program_waits_is_asked_for_each_cgroup(self, bench: Bench) -> None:
        bench.asleep(ALICE, BOX, POD)
        states = {cgroup: ZoneState(cgroup, 1, 50, 60, 0, "anon_scan") for cgroup in (BOX, POD, OTHER)}
        assert [bench.device.awaits((states[each],)) for each in (BOX, POD, OTHER)] == [True, True, False]


class TestRecord:
    def states(self, bench: Bench, **free: int) -> None:
        """All three are under pressure, with so many pages free."""
        zones: dict[str, ZoneId] = {"box": BOX, "pod": POD, "zone": NORMAL}
        bench.device.notified(
            tuple(ZoneState(zones[name], 1, pages, 1000, 0, "anon_scan", 5) for name, pages in free.items()), 1000 * MS
        )

    @pytest.mark.parametrize("worst", ["box", "pod", "zone"])
    def test_is_of_the_one_that_is_furthest_from_being_clear(self, worst: str, bench: Bench) -> None:
        file = bench.within(ALICE, BOX, POD)
        self.states(bench, **{"box": 500, "pod": 500, "zone": 500, worst: 100})
        assert bench.polls(file, 1001)
        expected = {"box": BOX.name, "pod": POD.name, "zone": NORMAL.name}[worst]
        assert bench.reads_zone(file, 1001) == expected

    @pytest.mark.parametrize("worst", [BOX, POD, NORMAL])
    def test_is_of_the_highest_level_however_much_is_free(self, worst: ZoneId, bench: Bench) -> None:
        file = bench.within(ALICE, BOX, POD)
        for zone in (BOX, POD, NORMAL):
            level = LEVEL_MEDIUM if zone is worst else LEVEL_LOW
            free = 900 if zone is worst else 100
            bench.device.notified((ZoneState(zone, 1, free, 1000, 0, "anon_scan", 5, level=level),), 1000 * MS)
        assert bench.reads_zone(file, 1001) == worst.name

    def test_is_of_the_worst_zone_for_a_file_of_another_scope(self, bench: Bench) -> None:
        files = [bench.within(ALICE, OTHER), bench.within(BOB)]
        self.states(bench, box=0, pod=0, zone=500)
        assert [bench.reads_zone(file, 1001) for file in files] == [NORMAL.name, NORMAL.name]

    def test_says_how_the_cgroup_is_now(self, bench: Bench) -> None:
        file = bench.within(ALICE, BOX)
        bench.notify(1000, BOX)
        assert bench.polls(file, 1001)
        bench.device.follow({BOX: ZoneState(BOX, 1, 7, 60, 0, "anon_scan", level=LEVEL_MEDIUM)})
        record = bench.reads(file, 1002)
        assert record is not None
        read = Record.parse(record)
        assert (read.node, read.zone, read.free_pages, read.level) == (-1, BOX.name, 7, LEVEL_MEDIUM)


class TestLevels:
    @pytest.mark.parametrize(
        ("topic", "told_at"),
        [
            (None, [LEVEL_LOW, LEVEL_MEDIUM, LEVEL_CRITICAL]),
            (Special.MEDIUM, [LEVEL_MEDIUM, LEVEL_CRITICAL]),
            (Special.CRITICAL, [LEVEL_CRITICAL]),
        ],
    )
    def test_a_file_is_told_from_its_level_up(self, topic: Special | None, told_at: list[str], bench: Bench) -> None:
        file = bench.within(ALICE, BOX, POD, topic=topic)
        for number, level in enumerate((LEVEL_LOW, LEVEL_MEDIUM, LEVEL_CRITICAL)):
            now_ms = 1000 + 10_000 * number
            bench.notify(now_ms, BOX, level=level)
            assert bench.polls(file, now_ms) == (level in told_at)
            assert (bench.reads_zone(file, now_ms) == BOX.name) == (level in told_at)
            bench.end(now_ms + 5000, BOX)

    def test_it_does_not_read_of_another_that_is_below_it(self, bench: Bench) -> None:
        file = bench.within(ALICE, BOX, POD, topic=Special.CRITICAL)
        low = ZoneState(NORMAL, 1, 0, 100_000, 0, "anon_scan")
        bench.device.notified((low, ZoneState(BOX, 1, 50, 60, 0, "anon_scan", level=LEVEL_CRITICAL)), 1000 * MS)
        assert bench.reads_zone(file, 1001) == BOX.name

    def test_what_the_device_of_a_level_was_told_ends_when_the_level_falls(self, bench: Bench) -> None:
        file = bench.asleep(ALICE, BOX, topic=Special.CRITICAL)
        bench.notify(1000, BOX, level=LEVEL_CRITICAL)
        assert bench.woken() == [file]
        bench.device.follow({BOX: ZoneState(BOX, 1, 55, 60, 0, "anon_scan")})
        assert not bench.polls(file, 1010)


class TestNoScope:
    @pytest.mark.parametrize("topic", [NORMAL, Special.STATE])
    def test_have_the_devices_of_one_zone_and_of_states(self, topic: Topic, bench: Bench) -> None:
        asked: list[OpenFile] = []

        def scope_of(file: OpenFile) -> Scope:
            asked.append(file)
            return (BOX, POD)

        bench.device.scope_of = scope_of
        file = bench.within(ALICE, BOX, topic=topic)
        bench.device.opened_by(file, 7)
        bench.device.watch(file)
        assert asked == []
        assert file.scope == ()
        bench.notify(1000, BOX, level=LEVEL_CRITICAL, rises=True)
        assert bench.woken() == []
        assert not bench.polls(file, 1001)

    def test_has_a_file_whose_opener_is_in_no_cgroup_with_a_limit(self, bench: Bench) -> None:
        file = bench.asleep(ALICE)
        bench.notify(1000, BOX)
        assert bench.woken() == []
        bench.notify(1000, NORMAL)
        assert bench.woken() == [file]


class TestOpenAndClose:
    def test_the_opener_s_cgroups_are_asked_for_and_forgotten(self, bench: Bench) -> None:
        asked: list[tuple[int, int]] = []
        forgotten: list[int] = []

        def scope_of(file: OpenFile) -> Scope:
            asked.append((file.number, file.opener_tid))
            return (BOX,)

        bench.device.scope_of = scope_of
        bench.device.forget_scope = lambda file: forgotten.append(file.number)
        file = bench.open(ALICE)
        bench.device.opened_by(file, 77)
        assert asked == [(file.number, 77)]
        assert file.scope == (BOX,)
        bench.notify(1000, BOX)
        assert bench.polls(file, 1001)
        bench.device.close(file)
        bench.device.close(file)
        assert forgotten == [file.number]

    def test_one_that_is_closed_has_no_scope_set(self, bench: Bench) -> None:
        file = bench.within(ALICE, BOX)
        bench.device.close(file)
        bench.device.set_scope(file, (POD,))
        bench.notify(1000, POD)
        assert bench.within(BOB, POD).number > file.number
        assert bench.woken() == []

    def test_others_of_the_scope_stay_when_one_is_closed(self, bench: Bench) -> None:
        first, second = bench.asleep(ALICE, BOX), bench.asleep(ALICE, BOX)
        bench.device.close(first)
        bench.notify(1000, BOX)
        assert bench.woken() == [second]


class TestMoved:
    def test_while_it_waits_it_keeps_its_place(self, bench: Bench) -> None:
        files = [bench.asleep(ALICE, BOX) for _ in range(20)]
        bench.device.set_scope(files[0], (OTHER,))
        bench.device.set_scope(files[0], (BOX, POD))
        bench.notify(1000, BOX)
        assert bench.woken() == files[:2]

    def test_it_is_told_of_where_it_is_and_not_of_where_it_was(self, bench: Bench) -> None:
        file = bench.asleep(ALICE, BOX, POD)
        bench.device.set_scope(file, (OTHER,))
        bench.notify(1000, BOX)
        bench.notify(1005, POD)
        assert bench.woken() == []
        assert not bench.polls(file, 1006)
        bench.notify(1010, OTHER)
        assert bench.woken() == [file]
        assert bench.reads_zone(file, 1011) == OTHER.name

    def test_out_of_a_cgroup_under_pressure_a_pending_notice_is_withdrawn(self, bench: Bench) -> None:
        changed: list[OpenFile] = []
        bench.device.on_changed = changed.append
        file = bench.asleep(ALICE, BOX, POD)
        bench.notify(1000, BOX)
        assert bench.woken() == [file]
        bench.device.set_scope(file, (POD,))
        assert changed == [file]
        assert not bench.polls(file, 1010)
        assert bench.reads(file, 1010) is None

    def test_but_not_what_it_is_told_of_where_it_is_now(self, bench: Bench) -> None:
        file = bench.asleep(ALICE, BOX, POD)
        bench.notify(1000, BOX)
        bench.notify(1000, OTHER)
        bench.device.set_scope(file, (OTHER,))
        assert bench.polls(file, 1010)
        assert bench.reads_zone(file, 1010) == OTHER.name

    def test_and_what_was_announced_stays_to_be_read(self, bench: Bench) -> None:
        file = bench.asleep(ALICE, BOX)
        bench.notify(1000, BOX)
        assert bench.polls(file, 1001)
        bench.device.set_scope(file, ())
        assert bench.reads_zone(file, 1010) == BOX.name

    def test_into_a_cgroup_under_pressure_it_is_told_when_it_asks(self, bench: Bench) -> None:
        bench.notify(1000, BOX)
        file = bench.within(ALICE)
        assert not bench.polls(file, 1010)
        bench.device.set_scope(file, (BOX,))
        assert bench.polls(file, 1020)

    def test_the_same_scope_once_more_changes_nothing(self, bench: Bench) -> None:
        file = bench.asleep(ALICE, BOX)
        bench.notify(1000, BOX)
        bench.device.set_scope(file, (CgroupId(BOX.path, BOX.generation),))
        assert bench.polls(file, 1001)


class TestSigio:
    def test_is_for_those_of_the_cgroup(self, bench: Bench) -> None:
        inside, outside = bench.subscriber(ALICE, BOX, POD), bench.subscriber(BOB, OTHER)
        bench.notify(1000, POD)
        assert bench.signal(1000) == [inside]
        assert bench.reads_zone(inside, 1001) == POD.name
        bench.notify(1200, OTHER)
        assert bench.signal(1200) == [outside]

    def test_is_not_for_one_that_was_moved_out_since(self, bench: Bench) -> None:
        file = bench.subscriber(ALICE, BOX)
        bench.notify(1000, BOX)
        assert bench.picks(1000) == [file]
        bench.device.set_scope(file, (OTHER,))
        assert bench.device.signalled(file, 1001 * MS) is None
        assert bench.picks(1001) == []

    def test_of_a_rise_is_for_all_of_the_cgroup(self, bench: Bench) -> None:
        inside = [bench.subscriber(ALICE, BOX) for _ in range(40)]
        for _ in range(40):
            bench.subscriber(BOB, OTHER)
        bench.notify(1000, BOX, level=LEVEL_CRITICAL, rises=True)
        assert bench.signal(1000) == inside

    def test_of_a_rise_is_not_for_one_that_was_moved_out(self, bench: Bench) -> None:
        file = bench.subscriber(ALICE, BOX)
        bench.notify(1000, BOX, level=LEVEL_CRITICAL, rises=True)
        bench.device.set_scope(file, ())
        assert bench.picks(1001) == []

    def test_of_the_machine_is_not_lost_by_a_notification_about_a_cgroup(self, bench: Bench) -> None:
        """Each cgroup has a rate of its own, so one may come before the signals of the one before it are sent."""
        first, second = bench.subscriber(ALICE), bench.subscriber(BOB, OTHER)
        bench.notify(1000, NORMAL)
        bench.notify(1001, OTHER)
        assert {file.number for file in bench.picks(1002)} == {first.number, second.number}


class TestMemory:
    def test_nothing_is_left_of_cgroups_that_are_gone(self, bench: Bench) -> None:
        """There may be a new one every second, as long as the server runs."""
        bench.asleep(ALICE)
        self.play(bench, 1, 20)
        before = cgroups_in_memory()
        self.play(bench, 21, 120)
        assert cgroups_in_memory() - before <= 5

    def test_nothing_is_left_of_scopes_of_a_cgroup_that_stays(self, bench: Bench) -> None:
        bench.notify(1000, POD)
        for number in range(1, 100):
            file = bench.within(ALICE, CgroupId("/pod/box", number), POD)
            bench.device.close(file)
        del file
        assert cgroups_in_memory("/pod/box") - 1 <= 2, "beside the one that this file has"

    def play(self, bench: Bench, first: int, last: int) -> None:
        """Programs in cgroups of their own are told of them, and end, as do the cgroups."""
        for number in range(first, last):
            cgroup, now_ms = CgroupId(f"/made-{number}", number), number * 10_000
            files = [bench.asleep(ALICE, cgroup, POD), bench.subscriber(BOB, cgroup), bench.within(ALICE, cgroup)]
            for level in (LEVEL_LOW, LEVEL_CRITICAL):
                bench.notify(now_ms, cgroup, level=level, rises=level == LEVEL_CRITICAL)
                bench.signal(now_ms)
                bench.answer(bench.woken(), now_ms)
                now_ms += 1000
            bench.end(now_ms, cgroup)
            for file in files:
                bench.device.close(file)


def cgroups_in_memory(path: str = "/made-") -> int:
    gc.collect()
    return sum(isinstance(each, CgroupId) and each.path.startswith(path) for each in gc.get_objects())


class TestBounds:
    def test_what_is_known_of_files_that_are_closed_is_bounded(self, bench: Bench) -> None:
        """Each cgroup may be made anew as often as its user likes."""
        outer = CgroupId("/outer", 1)
        for number in range(6000):
            bench.notify(1000 + number, outer) if number % 1000 == 0 else None
            file = bench.within(ALICE, CgroupId(f"/outer/{number}", number), outer)
            bench.polls(file, 1000 + number)
            bench.reads(file, 1000 + number)
            bench.device.close(file)
        assert cgroups_in_memory("/outer/") < 50

    def test_a_file_that_is_opened_again_in_a_cgroup_made_anew_is_not_told_again(self, bench: Bench) -> None:
        bench.notify(1000, BOX)
        bench.device.scope_of = lambda _file: (BOX,)
        for number in range(1, 5):
            file = bench.open(ALICE)
            bench.device.opened_by(file, 7)
            assert bench.polls(file, 1000 + number) == (number == 1)
            bench.device.close(file)
