"""One cgroup with a limit: when it is under pressure, what of it is read, and when it is looked at again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from memnotify_cuse.board import ZoneState
from memnotify_cuse.domain import CgroupId
from memnotify_cuse.kernel.cgroup import CgroupFiles, CgroupGoneError
from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.scanner import cgroupchoices, choices
from memnotify_cuse.scanner.cgroupdomain import CgroupDomain
from memnotify_cuse.scanner.machine import Machine
from tests.scanner.cgroupfiles import GIB_KB, MIB, FakeCgroup
from tests.scanner.samples import CLASSIC, MGLRU, MS

LIMIT = 256
QUIET_S = 0.05


class Bench:
    """A cgroup of 256 MiB and what looks at it, in steps of some milliseconds."""

    def __init__(
        self,
        root: Path,
        *,
        unified: bool = True,
        swap_max: int | None = 0,
        swap_free_kb: int = 0,
        machine: Machine = CLASSIC,
    ) -> None:
        self.cgroup = FakeCgroup(root, unified=unified, limit=LIMIT, swap_max=swap_max)
        self.domain = CgroupDomain(CgroupId("/a"), self.cgroup.files(), machine, fill_kb_per_s=GIB_KB)
        self.now_ms = 0
        self.raised_at: list[float] = []
        self._swap_free_kb = swap_free_kb

    def look(
        self,
        *,
        anon: float | None = None,
        file: float | None = None,
        swap: float | None = None,
        scanned: int | None = None,
        stolen: int | None = None,
        after_ms: int = 20,
    ) -> bool:
        """It has so much by then; whether a look gives evidence."""
        self.cgroup.now(anon=anon, file=file, swap=swap, scanned=scanned, stolen=stolen)
        self.now_ms += after_ms
        return self.domain.look(self.now_ms * MS, self._swap_free_kb)

    def grow(self, sizes: Iterable[int], *, file: int = 0) -> int | None:
        """Anonymous memory is of each of `sizes` in turn; the first one at which there is pressure."""
        for size in sizes:
            self.look(anon=size, file=file)
            if self.domain.pressed:
                return size
        return None

    @property
    def state(self) -> ZoneState:
        state = self.domain.state
        assert state is not None
        return state


@pytest.fixture(params=["v2", "v1"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(tmp_path, unified=request.param == "v2")


class TestPressure:
    @pytest.mark.parametrize("machine", [CLASSIC, MGLRU])
    @pytest.mark.parametrize("unified", [True, False])
    def test_begins_before_programs_have_taken_all(self, unified: bool, machine: Machine, tmp_path: Path) -> None:
        bench = Bench(tmp_path, unified=unified, machine=machine)
        size = bench.grow(range(8, LIMIT + 1, 4))
        assert size is not None
        assert LIMIT - LIMIT / cgroupchoices.CEILING_FRACTION <= size < LIMIT
        assert (bench.state.reason, bench.state.zone, bench.state.raised) == ("file_exhausted", CgroupId("/a"), 1)
        assert bench.state.time_ns == bench.now_ms * MS

    def test_begins_in_a_slow_decline_as_well(self, bench: Bench) -> None:
        """A MiB a second leaves programs the time that it takes until little is left."""
        for size in range(180, LIMIT):
            bench.look(anon=size, after_ms=1000)
            if bench.domain.pressed:
                break
        assert LIMIT - 8 <= size < LIMIT

    def test_ends_when_memory_is_given_back(self, bench: Bench) -> None:
        size = bench.grow(range(8, LIMIT + 1, 4))
        assert size is not None
        assert not bench.look(anon=size - 120)
        bench.look(after_ms=4000)
        assert not bench.domain.pressed
        assert bench.state.status == 0

    def test_stays_while_little_is_given_back(self, bench: Bench) -> None:
        size = bench.grow(range(8, LIMIT + 1, 4))
        assert size is not None
        for _ in range(10):
            bench.look(anon=size - 2)
        assert bench.domain.pressed

    def test_becomes_critical_when_it_is_about_to_end(self, bench: Bench) -> None:
        bench.grow(range(8, LIMIT + 1, 4))
        bench.look(anon=LIMIT - 4)
        bench.look(anon=LIMIT - 1)
        assert bench.state.level == "critical"

    def test_says_how_much_is_to_be_given_back(self, bench: Bench) -> None:
        size = bench.grow(range(8, LIMIT + 1, 4))
        assert size is not None
        assert bench.state.free_pages == (LIMIT - size) * MIB // 4096
        target_mib = bench.state.target_pages * 4096 / MIB
        bench.look(anon=size - target_mib - 1, after_ms=4000)
        bench.look(after_ms=4000)
        assert not bench.domain.pressed

    def test_asks_for_no_more_than_there_is(self, bench: Bench) -> None:
        """However fast it was taken."""
        for size in range(8, LIMIT + 1, 4):
            bench.look(anon=size, after_ms=4)
            if bench.domain.pressed:
                assert bench.state.target_pages * 4096 <= size * MIB

    def test_is_none_of_a_cgroup_full_of_page_cache(self, bench: Bench) -> None:
        """Reading files fills any cgroup to its limit; the kernel drops the pages as it needs."""
        for file in range(0, LIMIT - 16 + 1, 8):
            assert not bench.look(anon=16, file=file)
        scanned = stolen = 0
        for _ in range(500):
            scanned, stolen = scanned + 2000, stolen + 2000
            bench.cgroup.charged += 2000
            assert not bench.look(scanned=scanned, stolen=stolen)
            assert not bench.domain.pressed
        assert bench.state.raised == 0

    def test_begins_when_page_cache_gives_way_to_programs(self, bench: Bench) -> None:
        """The usage stays at the limit all the while."""
        for file in range(0, LIMIT - 16 + 1, 8):
            bench.look(anon=16, file=file)
        bench.look(after_ms=4000)
        raised_at = None
        for anon in range(16, LIMIT, 4):
            taken = (anon - 16) * MIB // 4096
            bench.look(anon=anon, file=LIMIT - anon, scanned=taken, stolen=taken)
            if bench.domain.pressed:
                raised_at = anon
                break
        assert raised_at is not None
        assert LIMIT - LIMIT / cgroupchoices.CEILING_FRACTION <= raised_at < LIMIT
        assert bench.state.reason == "file_exhausted"

    def test_ends_although_page_cache_takes_what_is_given_back(self, bench: Bench) -> None:
        """The usage stays at the limit, and the kernel has something to take."""
        assert bench.grow(range(8, LIMIT + 1, 4)) is not None
        bench.look(anon=LIMIT)
        for _ in range(2):
            bench.look(anon=100, file=LIMIT - 100, after_ms=4000)
        assert not bench.domain.pressed

    @pytest.mark.parametrize("unified", [True, False])
    def test_begins_with_swapping_where_no_page_cache_is_left(self, unified: bool, tmp_path: Path) -> None:
        bench = Bench(tmp_path, unified=unified, swap_max=1024, swap_free_kb=GIB_KB)
        for anon in range(200, LIMIT + 1, 8):
            assert not bench.look(anon=anon)
        assert bench.look(anon=LIMIT, swap=4, scanned=2000, stolen=1024)
        assert bench.state.reason == "anon_scan"

    @pytest.mark.parametrize("unified", [True, False])
    def test_is_none_of_swapping_beside_much_page_cache(self, unified: bool, tmp_path: Path) -> None:
        """The kernel lets some idle memory go for the sake of files that are read."""
        bench = Bench(tmp_path, unified=unified, swap_max=1024, swap_free_kb=GIB_KB)
        for file in range(100, 157, 8):
            bench.look(anon=100, file=file)
        for step in range(1, 50):
            read = 512
            bench.cgroup.charged += read
            bench.look(anon=100, file=156, swap=step / 32, scanned=step * (read + 8), stolen=step * (read + 8))
            assert not bench.domain.pressed

    @pytest.mark.parametrize(("swap_max", "swap_free_kb"), [(0, GIB_KB), (1024, 0), (None, 0)])
    def test_does_not_wait_for_swap_that_there_is_no_room_in(
        self, swap_max: int | None, swap_free_kb: int, tmp_path: Path
    ) -> None:
        bench = Bench(tmp_path, swap_max=swap_max, swap_free_kb=swap_free_kb)
        size = bench.grow(range(8, LIMIT + 1, 4))
        assert size is not None
        assert size < LIMIT
        assert bench.state.reason == "file_exhausted"


class TestReading:
    def test_is_of_the_usage_alone_while_more_than_a_quarter_is_free(self, bench: Bench) -> None:
        bench.cgroup.without_stat()
        domain = bench.domain
        for size in range(0, LIMIT * 3 // 4, 16):
            bench.cgroup.now(anon=size)
            bench.cgroup.without_stat()
            bench.now_ms += 20
            assert not domain.look(bench.now_ms * MS, 0)
        assert domain.state is None
        assert not domain.pressed
        bench.cgroup.now(anon=LIMIT * 3 // 4)
        bench.cgroup.without_stat()
        with pytest.raises(MalformedKernelFileError, match=r"memory\.stat"):
            domain.look((bench.now_ms + 20) * MS, 0)

    def test_of_a_cgroup_that_was_removed_says_so(self, bench: Bench) -> None:
        bench.look(anon=10)
        bench.cgroup.remove()
        with pytest.raises(CgroupGoneError):
            bench.domain.look((bench.now_ms + 20) * MS, 0)

    def test_ends_with_close(self, bench: Bench) -> None:
        bench.look(anon=10)
        bench.domain.close()
        assert bench.domain.files.fileno() < 0


class TestLimit:
    def test_of_none_is_no_domain(self, tmp_path: Path) -> None:
        for version in (True, False):
            cgroup = FakeCgroup(tmp_path, f"/{version}", limit=None, unified=version)
            files = cgroup.files()
            with pytest.raises(CgroupGoneError, match="no limit"):
                CgroupDomain(CgroupId("/a"), files, CLASSIC, GIB_KB)
            files.close()

    def test_that_is_lowered_is_heeded(self, bench: Bench) -> None:
        """At 200 of 256 MiB there is a while left, at 200 of 208 there is not."""
        for _ in range(3):
            bench.look(anon=200, after_ms=2000)
        assert not bench.domain.pressed
        bench.cgroup.set_limit(208)
        for size in (200, 203, 206):
            bench.look(anon=size)
        assert bench.domain.limit_bytes == 208 * MIB
        assert bench.domain.pressed

    def test_that_is_lowered_far_below_is_heeded_once_it_is_followed(self, bench: Bench) -> None:
        bench.look(anon=50)
        bench.cgroup.set_limit(64)
        bench.domain.follow_limit()
        assert bench.domain.limit_bytes == 64 * MIB
        for size in (50, 56, 60, 62):
            bench.look(anon=size)
        assert bench.domain.pressed

    def test_that_is_raised_ends_the_pressure(self, bench: Bench) -> None:
        bench.grow(range(8, LIMIT + 1, 4))
        assert bench.domain.pressed
        bench.cgroup.set_limit(1024)
        bench.look()
        assert bench.domain.limit_bytes == 1024 * MIB
        assert not bench.domain.pressed
        bench.look(anon=600)
        assert not bench.domain.pressed

    def test_that_was_changed_leaves_nothing_to_be_said_of_the_one_before(self, bench: Bench) -> None:
        bench.grow(range(8, LIMIT + 1, 4))
        bench.cgroup.set_limit(1024)
        bench.domain.follow_limit()
        assert not bench.domain.pressed
        assert bench.domain.state is None

    def test_that_is_removed_is_as_if_the_cgroup_were(self, bench: Bench) -> None:
        bench.look(anon=200)
        bench.cgroup.set_limit(None)
        with pytest.raises(CgroupGoneError, match="no limit"):
            bench.look(anon=200)

    def test_to_throttle_at_counts_as_well(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path)
        bench.cgroup.set_limit(LIMIT, high=128)
        bench.domain.follow_limit()
        size = bench.grow(range(8, LIMIT, 4))
        assert size is not None
        assert 96 <= size < 128


class TestDelay:
    def test_of_a_quiet_one_is_long(self, bench: Bench) -> None:
        """But no longer than half the time in which programs could take what is left."""
        bench.look(anon=10)
        bench.look(after_ms=1500)
        now_ns = bench.now_ms * MS
        assert bench.domain.is_quiet(now_ns)
        spare_s = (LIMIT - 10 - LIMIT / 4) / 1024
        assert bench.domain.delay_ns(now_ns, QUIET_S) / 1e9 == pytest.approx(spare_s / 2, rel=0.01)
        assert bench.domain.delay_ns(now_ns, 3.0) == 3_000_000_000

    def test_of_a_quiet_one_at_its_limit_is_that_of_quiet_ones(self, bench: Bench) -> None:
        for file in (0, 100, 200, 246):
            bench.look(anon=10, file=file)
        bench.look(anon=240, file=16, after_ms=1500)
        bench.look(after_ms=1500)
        now_ns = bench.now_ms * MS
        assert bench.domain.is_quiet(now_ns)
        expected_s = choices.BURST_NS / 1e9 if bench.domain.pressed else QUIET_S
        assert bench.domain.delay_ns(now_ns, QUIET_S) == int(expected_s * 1e9)

    def test_of_one_that_moves_is_short_when_little_is_left(self, bench: Bench) -> None:
        bench.look(anon=10)
        far_ns = bench.domain.delay_ns(bench.now_ms * MS, 0.01)
        bench.look(anon=185)
        near_ns = bench.domain.delay_ns(bench.now_ms * MS, 0.01)
        assert not bench.domain.is_quiet(bench.now_ms * MS)
        assert far_ns > near_ns >= cgroupchoices.MOVING_S * 1e9
        bench.look(anon=191)
        assert bench.domain.delay_ns(bench.now_ms * MS, 0.01) == int(cgroupchoices.MOVING_S * 1e9)

    def test_of_one_that_reclaims_is_that_of_one_that_moves(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path)
        bench.look(anon=250)
        bench.look(after_ms=5000)
        assert bench.domain.is_quiet(bench.now_ms * MS)
        bench.look(scanned=100, stolen=0)
        assert not bench.domain.is_quiet(bench.now_ms * MS)

    def test_under_pressure_depends_on_whether_it_moves(self, bench: Bench) -> None:
        bench.grow(range(8, LIMIT + 1, 4))
        now_ns = bench.now_ms * MS
        assert bench.domain.delay_ns(now_ns, QUIET_S) == int(cgroupchoices.MOVING_S * 1e9)
        later_ns = now_ns + choices.SECOND_NS
        assert bench.domain.delay_ns(later_ns, QUIET_S) == choices.BURST_NS

    def test_is_never_longer_than_at_rest(self, tmp_path: Path) -> None:
        cgroup = FakeCgroup(tmp_path, limit=1024 * 1024)
        domain = CgroupDomain(CgroupId("/a"), cgroup.files(), CLASSIC, GIB_KB)
        domain.look(0, 0)
        assert domain.delay_ns(0, QUIET_S) == int(choices.REST_S * 1e9)
        assert domain.delay_ns(0, 20.0) == 20_000_000_000
        domain.close()

    def test_less_than_a_batch_is_no_move(self, bench: Bench) -> None:
        bench.look(anon=10)
        for step in range(1, 20):
            bench.look(anon=10 + (step % 2) * 0.1, after_ms=100)
        assert bench.domain.is_quiet(bench.now_ms * MS)


def test_the_files_are_those_that_it_was_given(tmp_path: Path) -> None:
    """Its descriptor is the domain's to close, when it could be made."""
    files: CgroupFiles = FakeCgroup(tmp_path).files()
    domain = CgroupDomain(CgroupId("/a"), files, CLASSIC, GIB_KB)
    assert domain.files is files
    domain.close()
    assert files.fileno() < 0
