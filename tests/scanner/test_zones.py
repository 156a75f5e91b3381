"""The state of a zone: the rules of the 2008 patch, by name."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

from memnotify_cuse.carried import Carried, CarriedZone
from memnotify_cuse.kernel.zoneinfo import Zone, ZoneId
from memnotify_cuse.scanner.sample import Sample
from memnotify_cuse.scanner.zones import Scan, ZoneTracker
from tests.scanner.samples import CLASSIC, MS, sample, zone

NORMAL = ZoneId(0, "Normal")
BATCH = 4000
"""Anonymous pages scanned between two samples: beyond doubt, whatever page cache there is."""


class Kernel:
    """Counters that grow from sample to sample, and the tracker that follows them."""

    def __init__(self) -> None:
        self.tracker = ZoneTracker(CLASSIC)
        self._scanned = 0
        self._time_ms = 0

    def step(self, *zones: Zone, scanned: int = 0, swap_kb: int = 1_000_000) -> Scan:
        self._scanned += scanned
        self._time_ms += 50
        return self.tracker.update(self.sample(*zones, swap_kb=swap_kb))

    def sample(self, *zones: Zone, swap_kb: int = 1_000_000) -> Sample:
        return sample(
            *zones,
            time_ms=self._time_ms,
            swap_kb=swap_kb,
            pgscan_anon=self._scanned,
            pgscan_kswapd=self._scanned,
            pgsteal_anon=self._scanned,
        )


def status(scan: Scan, of: ZoneId = NORMAL) -> int:
    return next(state.status for state in scan.states if state.zone == of)


def test_raise_when_anonymous_pages_are_reclaimed() -> None:
    kernel = Kernel()
    assert status(kernel.step(zone(free=1500))) == 0
    scan = kernel.step(zone(free=1500), scanned=BATCH)
    assert scan.moved == (NORMAL,)
    (state,) = scan.states
    assert (state.status, state.reason, state.time_ns, state.raised) == (1, "anon_scan", 100 * MS, 1)


def test_no_raise_while_free_pages_are_above_twice_high_and_reserve() -> None:
    kernel = Kernel()
    kernel.step(zone(free=2101, high=1000, reserve=50))
    scan = kernel.step(zone(free=2101, high=1000, reserve=50), scanned=BATCH)
    assert (status(scan), scan.moved) == (0, ())
    assert status(kernel.step(zone(free=2100, high=1000, reserve=50), scanned=BATCH)) == 1


def test_stays_raised_without_further_evidence() -> None:
    kernel = Kernel()
    kernel.step(zone(free=1500))
    kernel.step(zone(free=1500), scanned=BATCH)
    for _ in range(10):
        scan = kernel.step(zone(free=1500))
        assert (status(scan), scan.moved) == (1, ())


def test_clear_when_free_pages_rise_above_the_threshold() -> None:
    kernel = Kernel()
    kernel.step(zone(free=1500))
    kernel.step(zone(free=1500), scanned=BATCH)
    assert status(kernel.step(zone(free=2000))) == 1
    scan = kernel.step(zone(free=2001))
    assert status(scan) == 0
    assert scan.states[0].raised == 1, "it still says how often"


def test_lowmem_reserve_is_the_largest_of_the_protection_row() -> None:
    kernel = Kernel()
    kernel.step(zone(free=1500, high=100, reserve=700))
    assert status(kernel.step(zone(free=1500, high=100, reserve=700), scanned=BATCH)) == 1


def test_small_zones_are_ignored() -> None:
    kernel = Kernel()
    small = zone("DMA", present=109_999, free=10)
    kernel.step(small, zone(free=1500, present=1_000_000))
    scan = kernel.step(small, zone(free=1500, present=1_000_000), scanned=BATCH)
    assert status(scan, ZoneId(0, "DMA")) == -1
    assert scan.moved == (NORMAL,)


def test_a_zone_of_a_tenth_is_not_small() -> None:
    kernel = Kernel()
    tenth = zone("DMA32", present=100_000, free=10)
    kernel.step(tenth, zone(present=900_000))
    scan = kernel.step(tenth, zone(present=900_000), scanned=BATCH)
    assert status(scan, ZoneId(0, "DMA32")) == 1
    assert status(scan) == 0, "and the other one has plenty of free pages"


def test_smallness_is_a_matter_of_the_zones_own_node() -> None:
    kernel = Kernel()
    scan = kernel.step(zone(node=0, present=1_000_000), zone(node=1, present=1000))
    assert [state.status for state in scan.states] == [0, 0]


def test_empty_zones_are_left_out() -> None:
    kernel = Kernel()
    scan = kernel.step(zone("Movable", present=0, free=0), zone())
    assert [state.zone for state in scan.states] == [NORMAL]


def test_a_zone_without_anonymous_pages_is_not_raised_by_their_reclaim() -> None:
    kernel = Kernel()
    bare = zone("DMA32", free=100, active_anon=0, inactive_anon=0)
    kernel.step(bare, zone(free=1500))
    scan = kernel.step(bare, zone(free=1500), scanned=BATCH)
    assert scan.moved == (NORMAL,)


def test_swapless_raise() -> None:
    kernel = Kernel()
    kernel.step(zone(free=1000, file=3000), swap_kb=0)
    scan = kernel.step(zone(free=1000, file=2000), swap_kb=0)
    assert scan.moved == (NORMAL,)
    assert scan.states[0].reason == "file_exhausted"


def test_the_first_sample_raises_nothing() -> None:
    assert Kernel().step(zone(free=10), scanned=10_000).moved == ()


def test_each_raise_is_counted_once() -> None:
    kernel = Kernel()
    kernel.step(zone(free=1500))
    for _ in range(3):
        for _ in range(4):
            kernel.step(zone(free=1500), scanned=BATCH)
        kernel.step(zone(free=9000))
    assert kernel.tracker.states[0].raised == 3


def test_the_kind_of_lru_is_followed_and_its_switch_is_no_evidence() -> None:
    """MGLRU ages in bulk: the kernel moves all pages between its lists when it is switched, and at each step of it."""
    tracker = ZoneTracker(CLASSIC)
    much, little = 90_000, 10_000

    def step(time_ms: int, active: int, *, mglru: bool, refilled: int) -> int:
        lists = zone(free=1500, file=100, active_anon=active, inactive_anon=100_000 - active)
        each = sample(lists, time_ms=time_ms, pgrefill=refilled)
        return status(tracker.update(replace(each, mglru=mglru)))

    assert step(0, much, mglru=False, refilled=0) == 0
    assert step(50, little, mglru=True, refilled=100) == 0
    assert step(100, much, mglru=True, refilled=200) == 0
    assert step(150, little, mglru=False, refilled=300) == 0
    assert step(200, much, mglru=False, refilled=400) == 0
    assert step(250, little, mglru=False, refilled=500) == 1


class TestTakenOver:
    """The next scanner goes on from the last sample, and from what the zones were then."""

    def succeed(self, kernel: Kernel, *zones: Zone, now: tuple[Zone, ...] = ()) -> Kernel:
        """The same counters with another tracker, which was left `now`, or all of `zones`, in the last sample."""
        known = [
            CarriedZone(state.zone, state.under_pressure, state.reason, state.time_ns, state.raised)
            for state in kernel.tracker.states
        ]
        following = copy(kernel)
        following.tracker = ZoneTracker(CLASSIC)
        following.tracker.go_on(following.sample(*(now or zones)), Carried(zones=tuple(known)))
        return following

    def test_pressure_stays_without_further_evidence_and_is_cleared_by_the_threshold(self) -> None:
        kernel = Kernel()
        kernel.step(zone(free=1500))
        kernel.step(zone(free=1500), scanned=BATCH)
        kernel = self.succeed(kernel, zone(free=1500))
        scan = kernel.step(zone(free=2000))
        (state,) = scan.states
        assert scan.moved == ()
        assert (state.status, state.reason, state.time_ns, state.raised) == (1, "anon_scan", 100 * MS, 1)
        assert status(kernel.step(zone(free=2001))) == 0
        assert kernel.step(zone(free=1500), scanned=BATCH).states[0].raised == 2

    def test_evidence_between_two_scanners_is_seen(self) -> None:
        kernel = Kernel()
        kernel.step(zone(free=1500))
        kernel = self.succeed(kernel, zone(free=1500))
        scan = kernel.step(zone(free=1500), scanned=BATCH)
        assert scan.moved == (NORMAL,)
        assert scan.states[0].raised == 1

    def test_zones_that_are_gone_or_ignored_by_now_are_not_under_pressure(self) -> None:
        kernel = Kernel()
        both = zone(free=1500), zone("DMA32", free=1500)
        kernel.step(*both)
        assert kernel.step(*both, scanned=BATCH).moved == (NORMAL, ZoneId(0, "DMA32"))
        now = (zone("DMA32", free=1500, present=1000), zone("Movable"))
        kernel = self.succeed(kernel, now=now)
        assert [state.status for state in kernel.step(*now).states] == [-1, 0]

    def test_the_headroom_is_still_what_the_decline_asks_for(self) -> None:
        """Else pressure would end for a moment while memory is taken as fast as before."""
        kernel = Kernel()
        # Without swap, 20,000 pages are taken in each 50 ms.
        amounts = [zone(free=5000, file=amount, active_anon=500_000) for amount in range(260_000, 30_000, -20_000)]
        for each in amounts:
            scan = kernel.step(each, swap_kb=0)
        assert status(scan) == 1
        known = scan.states[0]
        carried = CarriedZone(known.zone, True, known.reason, known.time_ns, known.raised)
        last = kernel.sample(amounts[-1], swap_kb=0)
        for nodes, expected in ((kernel.tracker.forecast, 1), ((), 0)):
            following = ZoneTracker(CLASSIC)
            following.go_on(last, Carried(zones=(carried,), nodes=nodes))
            scan = following.update(replace(last, time_ns=last.time_ns + 400 * MS))
            assert status(scan) == expected
