"""SIGIO subscribers: their share of the wake-ups, their turn, and what it does to the file that is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.kernel.zoneinfo import ZoneId

NORMAL = ZoneId(0, "Normal")
DMA32 = ZoneId(0, "DMA32")
MS = 1_000_000


def pressure(zone: ZoneId = NORMAL) -> tuple[ZoneState, ...]:
    return (ZoneState(zone, 1, free_pages=50, high_pages=60, reserve_pages=0, reason="anon_scan", time_ns=1),)


class Bench:
    """A device, the files that it woke, and the notifications that it announced."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.device = Device(page_kb=4, policy=policy)
        self.woken: list[OpenFile] = []
        self.notified = 0

    def open(self, zone: ZoneId | None = None) -> OpenFile:
        return self.device.open(0, zone, self.woken.append)

    def subscriber(self, zone: ZoneId | None = None) -> OpenFile:
        file = self.open(zone)
        self.device.subscribe(file, subscribed=True)
        return file

    def sleeper(self, zone: ZoneId | None = None) -> OpenFile:
        file = self.open(zone)
        self.device.watch(file)
        return file

    def notify(self, now_ms: float, zone: ZoneId = NORMAL) -> None:
        self.device.notified(pressure(zone), int(now_ms * MS))
        self.notified += self.device.take_told()

    def signal(self, now_ms: float) -> list[OpenFile]:
        """What the SIGIO service does at a notification: pick, and tell each that it was signalled."""
        picked = self.device.pick_subscribers(int(now_ms * MS))
        for file in picked:
            assert self.device.signalled(file, int(now_ms * MS))
        return picked


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestShares:
    @given(st.integers(0, 5000), st.integers(0, 5000))
    def test_in_all_they_are_as_many_as_if_all_waited_in_poll(self, watchers: int, subscribers: int) -> None:
        policy = Policy()
        told = policy.shares(watchers, subscribers)
        least = (watchers > 0) + (subscribers > 0)
        wanted = policy.wake_count(watchers + subscribers) if watchers + subscribers else 0
        assert sum(told) == max(wanted, least)

    @given(st.integers(0, 5000), st.integers(0, 5000))
    def test_there_is_somebody_of_each(self, watchers: int, subscribers: int) -> None:
        woken, signalled = Policy().shares(watchers, subscribers)
        assert (woken > 0) == (watchers > 0)
        assert (signalled > 0) == (subscribers > 0)

    @given(st.integers(1, 5000), st.integers(1, 5000))
    def test_they_are_in_proportion(self, watchers: int, subscribers: int) -> None:
        woken, signalled = Policy().shares(watchers, subscribers)
        exact = (woken + signalled) * subscribers / (watchers + subscribers)
        assert signalled in (1, max(1, woken + signalled - 1)) or abs(signalled - exact) <= 0.5

    @given(st.integers(0, 5000), st.integers(0, 5000))
    def test_without_herd_control_all_are_told(self, watchers: int, subscribers: int) -> None:
        assert Policy(herd_divisor=None).shares(watchers, subscribers) == (watchers, subscribers)


class TestTurns:
    def test_a_notification_is_announced(self, bench: Bench) -> None:
        bench.notify(1000)
        assert bench.notified == 1

    def test_forty_subscribers_take_turns(self) -> None:
        """40 / 16 + 1 = 3 at each notification, first in, first out."""
        bench = Bench(Policy(guard_step_ns=0))
        subscribers = [bench.subscriber() for _ in range(40)]
        told: list[OpenFile] = []
        for number in range(40):
            bench.notify(1000 + 200 * number)
            told += bench.signal(1000 + 200 * number)
        assert told == subscribers * 3

    def test_a_new_one_goes_to_the_end_and_one_that_is_known_keeps_its_place(self, bench: Bench) -> None:
        first, second = bench.subscriber(), bench.subscriber()
        bench.device.subscribe(first, subscribed=True)
        bench.notify(1000)
        assert bench.signal(1000) == [first]
        bench.notify(1200)
        assert bench.signal(1200) == [second]

    def test_one_who_was_told_is_left_alone_for_the_guard_time(self, bench: Bench) -> None:
        file = bench.subscriber()
        bench.open()
        bench.notify(1000)
        assert bench.signal(1000) == [file]
        bench.notify(1399)
        assert bench.signal(1399) == []
        bench.notify(1400)
        assert bench.signal(1400) == [file]

    def test_of_eighty_half_of_whom_poll_six_are_told(self, bench: Bench) -> None:
        for _ in range(40):
            bench.sleeper()
            bench.subscriber()
        bench.notify(1000)
        assert (len(bench.woken), len(bench.signal(1000))) == (3, 3)

    @given(st.integers(0, 200), st.integers(0, 200))
    def test_a_notification_tells_each_group_its_share(self, watchers: int, subscribers: int) -> None:
        bench = Bench()
        for _ in range(watchers):
            bench.sleeper()
        for _ in range(subscribers):
            bench.subscriber()
        bench.notify(1000)
        told = (len(bench.woken), len(bench.signal(1000)))
        assert told == bench.device.policy.shares(watchers, subscribers)

    def test_subscribers_of_another_zone_do_not_count(self, bench: Bench) -> None:
        for _ in range(40):
            bench.sleeper(NORMAL)
            bench.subscriber(DMA32)
        bench.notify(1000, NORMAL)
        assert (len(bench.woken), bench.signal(1000)) == (3, [])

    def test_watchers_of_another_zone_do_not_count(self, bench: Bench) -> None:
        for _ in range(40):
            bench.sleeper(DMA32)
            bench.subscriber(NORMAL)
        bench.notify(1000, NORMAL)
        assert (bench.woken, len(bench.signal(1000))) == ([], 3)

    def test_who_is_found_late_gets_the_places_that_are_left(self, bench: Bench) -> None:
        for _ in range(40):
            bench.subscriber()
        bench.notify(1000)
        known = bench.device.pick_subscribers(1000 * MS)
        assert len(known) == 3
        for file in known:
            assert bench.device.signalled(file, 1000 * MS)
        told = {file.number for file in known}
        assert bench.device.pick_subscribers(1002 * MS, told) == []
        for _ in range(24):
            bench.subscriber()
        late = bench.device.pick_subscribers(1002 * MS, told)
        assert len(late) == 2
        assert not set(late) & set(known)

    def test_nobody_is_told_twice_of_one_notification_however_long_the_search_takes(self, bench: Bench) -> None:
        file = bench.subscriber()
        bench.notify(1000)
        assert bench.signal(1000) == [file]
        assert bench.device.pick_subscribers(9000 * MS, {file.number}) == []


class TestWhoIsASubscriber:
    def test_subscribing_and_not_any_more(self, bench: Bench) -> None:
        file = bench.open()
        assert not bench.device.is_subscribed(file)
        bench.device.subscribe(file, subscribed=True)
        assert bench.device.is_subscribed(file)
        assert bench.device.subscribers == 1
        bench.device.subscribe(file, subscribed=False)
        bench.device.subscribe(file, subscribed=False)
        assert bench.device.subscribers == 0
        bench.notify(1000)
        assert bench.signal(1000) == []

    def test_a_closed_file_is_none(self, bench: Bench) -> None:
        file = bench.subscriber()
        bench.device.close(file)
        assert bench.device.subscribers == 0
        bench.device.subscribe(file, subscribed=True)
        assert bench.device.subscribers == 0

    def test_a_file_that_was_closed_after_it_was_picked_is_not_signalled(self, bench: Bench) -> None:
        file = bench.subscriber()
        bench.notify(1000)
        assert bench.device.pick_subscribers(1000 * MS) == [file]
        bench.device.close(file)
        assert not bench.device.signalled(file, 1000 * MS)

    def test_nobody_is_signalled_once_the_pressure_has_ended(self, bench: Bench) -> None:
        file = bench.subscriber()
        bench.notify(1000)
        assert bench.device.pick_subscribers(1000 * MS) == [file]
        bench.device.pressure_ended((NORMAL,), 1001 * MS)
        assert not bench.device.signalled(file, 1001 * MS)
        assert bench.device.pick_subscribers(1001 * MS) == []

    def test_a_zone_s_subscriber_is_told_of_its_zone_only(self, bench: Bench) -> None:
        normal, dma32 = bench.subscriber(NORMAL), bench.subscriber(DMA32)
        bench.notify(1000, NORMAL)
        assert bench.signal(1000) == [normal]
        bench.device.pressure_ended((NORMAL,), 1500 * MS)
        bench.notify(2000, DMA32)
        assert bench.signal(2000) == [dma32]

    def test_pressure_that_lasts_is_not_signalled_when_another_zone_is_notified(self, bench: Bench) -> None:
        normal = bench.subscriber(NORMAL)
        bench.notify(1000, NORMAL)
        assert bench.signal(1000) == [normal]
        bench.notify(9000, DMA32)
        assert bench.signal(9000) == []


class TestPollAndSigioOnOneFile:
    def test_a_signalled_file_is_readable(self, bench: Bench) -> None:
        file = bench.subscriber()
        bench.notify(1000)
        bench.signal(1000)
        assert bench.device.poll(file, 5000 * MS), "however late the handler gets to run"
        record = bench.device.read(file, 4096, 5001 * MS)
        assert record is not None
        assert record.startswith(b"node=0 zone=Normal pressure=1 ")
        assert not bench.device.poll(file, 5001 * MS)

    def test_it_is_withdrawn_when_the_pressure_ends(self, bench: Bench) -> None:
        file = bench.subscriber()
        bench.notify(1000)
        bench.signal(1000)
        bench.device.pressure_ended((NORMAL,), 1100 * MS)
        assert not bench.device.poll(file, 1200 * MS)

    def test_the_guard_time_counts_for_both(self, bench: Bench) -> None:
        file = bench.subscriber()
        bench.notify(1000)
        assert bench.device.poll(file, 1000 * MS), "told by poll"
        assert bench.device.pick_subscribers(1001 * MS) == []

    def test_a_signal_a_moment_after_a_notification_does_not_miss_the_next_one(self, bench: Bench) -> None:
        """Nor does a program that reads its record after the signal."""
        file = bench.subscriber()
        for at_ms in (1000, 1200, 1400):
            bench.notify(at_ms)
            assert bench.device.pick_subscribers((at_ms + 1) * MS) == [file]
            bench.device.signalled(file, (at_ms + 2) * MS)
            assert bench.device.read(file, 4096, (at_ms + 10) * MS)

    def test_one_who_polls_and_is_signalled_reads_one_record_for_a_notification(self, bench: Bench) -> None:
        file = bench.subscriber()
        bench.device.watch(file)
        bench.notify(1000)
        assert bench.woken == [file]
        assert bench.device.pick_subscribers(1000 * MS) == [file]
        # The program, woken, polls and reads before the signal is on its way.
        assert bench.device.poll(file, 1001 * MS)
        assert bench.device.read(file, 4096, 1001 * MS)
        bench.device.signalled(file, 1002 * MS)
        assert not bench.device.poll(file, 1003 * MS)
        assert bench.device.read(file, 4096, 1003 * MS) is None
