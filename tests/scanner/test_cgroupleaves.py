"""Which cgroups an open file has to do with: by its opener's thread, and from then on as the reviews find it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memnotify_cuse.accounts import ROOT_UID, Bounds
from memnotify_cuse.domain import CgroupId, Scope
from memnotify_cuse.kernel.cgroup import CgroupFiles, Hierarchy
from memnotify_cuse.scanner import cgroupleaves
from memnotify_cuse.scanner.cgroupdomain import CgroupDomain
from memnotify_cuse.scanner.cgroupleaves import CgroupLeaves, Changes, Place
from tests.scanner.cgroupfiles import GIB_KB, MIB, FakeMachine
from tests.scanner.samples import CLASSIC

ALICE, BOB = 1000, 1001
PLENTY = Bounds(total=1000, per_user=1000, root_reserve=0, share_divisor=1)
AFTER_BOOT_S = 10 * 365 * 86_400
"""Later than any file is opened here."""


class Told(Changes):
    """What the leaves have said."""

    def __init__(self) -> None:
        self.domains: list[CgroupDomain] = []
        self.scopes: dict[int, Scope] = {}
        self.said = 0
        self.open_when_dropped: list[bool] = []

    def made(self, domain: CgroupDomain) -> None:
        self.domains.append(domain)

    def dropped(self, domain: CgroupDomain) -> None:
        self.open_when_dropped.append(domain.files.fileno() >= 0)
        self.domains.remove(domain)

    def place_changed(self, number: int, place: Place) -> None:
        self.said += 1
        self.scopes[number] = place.scope


class Bench:
    """Leaves of a made-up machine, and the scopes of the files that they follow."""

    def __init__(self, machine: FakeMachine, bounds: Bounds = PLENTY, hierarchy: Hierarchy | None = None) -> None:
        self.machine = machine
        self.told = Told()
        self.leaves = CgroupLeaves(
            hierarchy or machine.hierarchy,
            CLASSIC,
            self.told,
            fill_kb_per_s=GIB_KB,
            proc=machine.proc.path,
            bounds=bounds,
        )

    def open(self, number: int, tid: int, user: int = ALICE) -> list[str]:
        """Thread `tid` opens a file; the paths of its cgroups with a limit."""
        self.told.scopes[number] = self.leaves.follow(number, tid, user).scope
        return self.paths(number)

    def paths(self, number: int) -> list[str]:
        return [cgroup.path for cgroup in self.told.scopes[number]]

    def generation(self, number: int) -> int:
        return self.told.scopes[number][0].generation

    @property
    def looked_at(self) -> list[str]:
        return sorted(domain.id.path for domain in self.told.domains)

    def domain(self, path: str) -> CgroupDomain:
        (found,) = [domain for domain in self.leaves.domains if domain.id.path == path]
        return found

    def review(self) -> None:
        self.leaves.review()


@pytest.fixture(params=["v2", "v1"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path, unified=request.param == "v2")


@pytest.fixture
def bench(machine: FakeMachine) -> Iterator[Bench]:
    """Everything that it opened is closed at the end."""
    bench = Bench(machine)
    yield bench
    for number in bench.told.scopes:
        bench.leaves.forget(number)
    assert bench.told.domains == bench.leaves.domains == []
    assert machine.descriptors == 0


class TestScope:
    def test_is_all_limits_that_the_opener_lies_in_from_the_inside(self, bench: Bench) -> None:
        bench.machine.cgroup("/pod", limit=512)
        bench.machine.cgroup("/pod/slice", limit=None)
        bench.machine.cgroup("/pod/slice/box", limit=64)
        bench.machine.cgroup("/pod/beside", limit=64)
        bench.machine.proc.thread(7, "/pod/slice/box")
        assert bench.open(1, 7) == ["/pod/slice/box", "/pod"]
        assert bench.looked_at == ["/pod", "/pod/slice/box"]
        assert bench.domain("/pod").limit_bytes == 512 * MIB

    def test_is_empty_without_a_limit(self, bench: Bench) -> None:
        bench.machine.cgroup("/a", limit=None)
        bench.machine.proc.thread(7, "/a")
        bench.machine.proc.thread(8, "/")
        assert bench.open(1, 7) == bench.open(2, 8) == bench.open(3, tid=0) == bench.open(4, tid=99) == []
        assert bench.looked_at == []

    def test_is_found_whatever_bytes_the_name_has(self, bench: Bench) -> None:
        path = bench.machine.root / os.fsdecode(b"gr\xc3\xbcn \xff")
        made = bench.machine.cgroup("/made")
        made.directory.rename(path)
        bench.machine.proc.thread(7, "/gr\xc3\xbcn \xff")
        assert bench.open(1, 7) == ["/gr\xc3\xbcn \xff"]

    def test_counts_the_limit_of_a_container_that_the_server_runs_in(self, tmp_path: Path) -> None:
        """Its own cgroup is the root of all that it sees."""
        machine = FakeMachine(tmp_path)
        container = machine.cgroup("/box", limit=64)
        machine.cgroup("/box/inner", limit=None)
        machine.proc.thread(7, "/")
        machine.proc.thread(8, "/inner")
        bench = Bench(machine, hierarchy=Hierarchy(container.directory, "/", unified=True))
        assert bench.open(1, 7) == ["/"]
        assert bench.open(2, 8) == ["/"]

    def test_is_seen_from_the_root_of_the_mount(self, tmp_path: Path) -> None:
        """cgroup v1 in a container without a cgroup namespace: the mount shows the container's cgroup alone."""
        machine = FakeMachine(tmp_path, unified=False)
        container = machine.cgroup("/box", limit=64)
        machine.cgroup("/box/inner", limit=32)
        machine.proc.thread(7, "/docker/abc/inner")
        bench = Bench(machine, hierarchy=Hierarchy(container.directory, "/docker/abc", unified=False))
        assert bench.open(1, 7) == ["/docker/abc/inner", "/docker/abc"]


class TestSharing:
    def test_two_files_of_one_cgroup_have_one_domain(self, bench: Bench) -> None:
        bench.machine.cgroup("/a")
        bench.machine.proc.thread(7, "/a")
        bench.machine.proc.thread(8, "/a")
        bench.open(1, 7)
        bench.open(2, 8, user=BOB)
        assert bench.told.scopes[1] == bench.told.scopes[2]
        assert bench.looked_at == ["/a"]
        assert bench.leaves.listeners()[bench.domain("/a")] == 2

    def test_what_two_cgroups_lie_in_is_one_domain(self, bench: Bench) -> None:
        for path in ("/pod", "/pod/a", "/pod/b"):
            bench.machine.cgroup(path)
        bench.machine.proc.thread(7, "/pod/a")
        bench.machine.proc.thread(8, "/pod/b")
        bench.open(1, 7)
        bench.open(2, 8)
        assert bench.looked_at == ["/pod", "/pod/a", "/pod/b"]
        assert bench.leaves.listeners()[bench.domain("/pod")] == 2
        assert bench.leaves.listeners()[bench.domain("/pod/a")] == 1
        bench.leaves.forget(1)
        assert bench.looked_at == ["/pod", "/pod/b"]

    def test_the_last_file_takes_the_domain_and_its_descriptor_with_it(self, bench: Bench) -> None:
        bench.machine.cgroup("/a")
        bench.machine.proc.thread(7, "/a")
        bench.open(1, 7)
        bench.open(2, 7)
        assert bench.machine.descriptors == 1
        bench.leaves.forget(1)
        assert bench.looked_at == ["/a"]
        bench.leaves.forget(2)
        bench.leaves.forget(2)
        assert bench.looked_at == []
        assert bench.leaves.domains == []
        assert bench.told.open_when_dropped == [True]
        assert bench.machine.descriptors == 0

    def test_a_cgroup_without_a_limit_keeps_no_descriptor(self, bench: Bench) -> None:
        bench.machine.cgroup("/a", limit=None)
        bench.machine.proc.thread(7, "/a")
        bench.open(1, 7)
        bench.review()
        assert bench.machine.descriptors == 0


class TestReview:
    def test_says_nothing_while_all_is_as_it_was(self, bench: Bench) -> None:
        bench.machine.cgroup("/a")
        bench.machine.proc.thread(7, "/a")
        bench.open(1, 7)
        bench.review()
        assert bench.told.said == 0

    def test_finds_a_thread_that_was_moved(self, bench: Bench) -> None:
        bench.machine.cgroup("/a")
        bench.machine.cgroup("/b")
        bench.machine.proc.thread(7, "/a")
        bench.machine.proc.thread(8, "/a")
        bench.open(1, 7)
        bench.open(2, 8)
        bench.machine.proc.thread(7, "/b")
        bench.review()
        assert (bench.paths(1), bench.paths(2)) == (["/b"], ["/a"])
        bench.machine.proc.thread(8, "/b")
        bench.review()
        assert bench.looked_at == ["/b"]

    @pytest.mark.parametrize("to", ["/", "/free"])
    def test_finds_a_thread_that_was_moved_to_where_there_is_no_limit(self, to: str, bench: Bench) -> None:
        bench.machine.cgroup("/a")
        bench.machine.cgroup("/free", limit=None)
        bench.machine.proc.thread(7, "/a")
        bench.open(1, 7)
        bench.machine.proc.thread(7, to)
        bench.review()
        assert bench.paths(1) == []
        assert bench.looked_at == []

    def test_finds_a_thread_that_was_moved_from_the_root(self, bench: Bench) -> None:
        bench.machine.cgroup("/a")
        bench.machine.proc.thread(7, "/")
        assert bench.open(1, 7) == []
        bench.machine.proc.thread(7, "/a")
        bench.review()
        assert bench.paths(1) == ["/a"]

    def test_leaves_it_as_it_was_where_the_thread_has_ended(self, bench: Bench) -> None:
        """A descriptor that was passed on stays its opener's."""
        bench.machine.cgroup("/a")
        bench.machine.proc.thread(7, "/a")
        bench.open(1, 7)
        bench.machine.proc.end(7)
        bench.review()
        assert (bench.paths(1), bench.told.said) == (["/a"], 0)
        assert bench.looked_at == ["/a"]

    @pytest.mark.parametrize("began_s", [AFTER_BOOT_S, 1])
    def test_does_not_take_another_thread_of_that_id_for_the_opener(self, began_s: float, bench: Bench) -> None:
        """One that was there before the file was opened is the opener."""
        bench.machine.cgroup("/a")
        bench.machine.cgroup("/b")
        bench.machine.proc.thread(7, "/a")
        bench.open(1, 7)
        bench.machine.proc.thread(7, "/b", began_s=began_s)
        bench.review()
        assert bench.paths(1) == (["/a"] if began_s == AFTER_BOOT_S else ["/b"])

    def test_finds_a_limit_that_was_set_later(self, bench: Bench) -> None:
        bench.machine.cgroup("/pod", limit=None)
        box = bench.machine.cgroup("/pod/box", limit=None)
        pod = bench.machine.root / "pod"
        bench.machine.proc.thread(7, "/pod/box")
        assert bench.open(1, 7) == []
        box.set_limit(64)
        bench.review()
        assert bench.paths(1) == ["/pod/box"]
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (pod / name).exists():
                (pod / name).write_text(f"{512 * MIB}\n")
        bench.review()
        assert bench.paths(1) == ["/pod/box", "/pod"]

    def test_follows_a_limit_that_was_lowered_while_little_is_in_use(self, bench: Bench) -> None:
        """A look at it reads no more than the usage then."""
        box = bench.machine.cgroup("/a", limit=1024)
        bench.machine.proc.thread(7, "/a")
        bench.open(1, 7)
        box.now(anon=50)
        box.set_limit(64)
        bench.review()
        bench.domain("/a").look(0, 0)
        assert bench.domain("/a").limit_bytes == 64 * MIB

    def test_drops_a_limit_that_was_removed_while_little_is_in_use(self, bench: Bench) -> None:
        box = bench.machine.cgroup("/a", limit=1024)
        bench.machine.proc.thread(7, "/a")
        bench.open(1, 7)
        box.set_limit(None)
        bench.review()
        assert bench.paths(1) == []

    def test_finds_all_threads_in_the_end_however_many(self, machine: FakeMachine) -> None:
        bench = Bench(machine)
        machine.cgroup("/a")
        machine.cgroup("/b")
        count = 500
        for number in range(1, count + 1):
            machine.proc.thread(number, "/a")
            bench.open(number, number)
        for number in range(1, count + 1):
            machine.proc.thread(number, "/b")
        for _ in range(count):
            bench.review()
            if bench.looked_at == ["/b"]:
                break
        assert all(bench.paths(number) == ["/b"] for number in range(1, count + 1))

    def test_does_not_look_at_all_cgroups_at_once_where_they_are_many(
        self, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those without a limit are as many as programs like. All else waits while they are looked at."""
        looked_at: list[Path] = []

        class Files(CgroupFiles):
            def __init__(self, directory: Path, *, unified: bool) -> None:
                looked_at.append(directory)
                super().__init__(directory, unified=unified)

        bench = Bench(machine)
        count = 200
        for number in range(1, count + 1):
            machine.cgroup(f"/{number}", limit=None)
            machine.proc.thread(number, f"/{number}")
            bench.open(number, number)
        monkeypatch.setattr(cgroupleaves, "CgroupFiles", Files)
        monkeypatch.setattr(cgroupleaves, "REVIEW_S", 0.0)
        bench.review()
        assert len(looked_at) < count / 2


class TestLost:
    def test_is_out_of_the_scope_of_each_file(self, bench: Bench) -> None:
        bench.machine.cgroup("/pod")
        bench.machine.cgroup("/pod/a")
        bench.machine.cgroup("/pod/b")
        for tid, path in ((7, "/pod/a"), (8, "/pod/b")):
            bench.machine.proc.thread(tid, path)
            bench.open(tid, tid)
        gone = bench.domain("/pod")
        bench.leaves.lose(gone)
        assert (bench.paths(7), bench.paths(8)) == (["/pod/a"], ["/pod/b"])
        assert gone.files.fileno() < 0
        bench.leaves.lose(gone)
        assert bench.told.said == 2

    def test_and_made_anew_it_is_another_one(self, bench: Bench) -> None:
        box = bench.machine.cgroup("/a")
        bench.machine.proc.thread(7, "/a")
        bench.open(1, 7)
        first, domain = bench.generation(1), bench.domain("/a")
        box.remove()
        bench.machine.cgroup("/a", limit=64)
        bench.leaves.lose(domain)
        assert bench.paths(1) == []
        bench.review()
        assert bench.paths(1) == ["/a"]
        assert bench.generation(1) != first
        assert bench.told.scopes[1] != (CgroupId("/a", first),)
        assert bench.domain("/a").limit_bytes == 64 * MIB


class TestBounds:
    BOUNDS = Bounds(total=10, per_user=2, root_reserve=2, share_divisor=1)

    @pytest.fixture
    def narrow(self, machine: FakeMachine) -> Bench:
        return Bench(machine, self.BOUNDS)

    def boxes(self, bench: Bench, user: int, *names: str) -> list[list[str]]:
        paths = []
        for name in names:
            number = len(bench.told.scopes) + 1
            bench.machine.cgroup(f"/{name}")
            bench.machine.proc.thread(number, f"/{name}")
            paths.append(bench.open(number, number, user=user))
        return paths

    def test_each_user_has_its_own(self, narrow: Bench, caplog: pytest.LogCaptureFixture) -> None:
        assert self.boxes(narrow, ALICE, "a", "b", "c", "d") == [["/a"], ["/b"], [], []]
        assert self.boxes(narrow, BOB, "e") == [["/e"]]
        assert self.boxes(narrow, ROOT_UID, "f", "g") == [["/f"], ["/g"]]
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(said) == 1
        assert str(ALICE) in said[0]

    def test_what_is_closed_makes_room_which_a_review_finds(self, narrow: Bench) -> None:
        assert self.boxes(narrow, ALICE, "a", "b", "c")[2] == []
        narrow.review()
        assert narrow.paths(3) == []
        narrow.leaves.forget(1)
        narrow.review()
        assert narrow.paths(3) == ["/c"]

    def test_what_is_opened_and_closed_again_and_again_uses_nothing_up(self, narrow: Bench) -> None:
        narrow.machine.cgroup("/a")
        narrow.machine.proc.thread(7, "/a")
        for _ in range(20):
            assert narrow.open(1, 7) == ["/a"]
            narrow.leaves.forget(1)

    def test_what_there_is_already_is_for_all(self, narrow: Bench) -> None:
        self.boxes(narrow, ALICE, "a", "b")
        self.boxes(narrow, BOB, "c", "d")
        narrow.machine.proc.thread(70, "/c")
        assert narrow.open(70, 70, user=ALICE) == ["/c"]

    def test_a_user_that_is_at_its_own_does_not_keep_a_limit_from_others(self, narrow: Bench) -> None:
        self.boxes(narrow, ALICE, "a", "b")
        pod = narrow.machine.cgroup("/pod", limit=None)
        for tid, user in ((70, ALICE), (71, BOB)):
            narrow.machine.cgroup(f"/pod/{tid}", limit=None)
            narrow.machine.proc.thread(tid, f"/pod/{tid}")
            assert narrow.open(tid, tid, user=user) == []
        pod.set_limit(64)
        narrow.review()
        assert narrow.paths(71) == ["/pod"]

    def test_a_thread_that_is_moved_takes_its_place_along(self, narrow: Bench) -> None:
        self.boxes(narrow, ALICE, "a", "b")
        narrow.machine.cgroup("/c")
        narrow.machine.proc.thread(1, "/c")
        for _ in range(2):
            narrow.review()
        assert narrow.paths(1) == ["/c"]
        assert narrow.looked_at == ["/b", "/c"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [("/../other", "outside of the cgroups"), ("/gone (deleted)", None), ("/none", None)],
)
def test_a_cgroup_that_cannot_be_seen_is_said_once_at_most(
    bad: str, said: str | None, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """And is nothing to those that can."""
    bench.machine.cgroup("/a")
    bench.machine.proc.thread(7, "/a")
    for tid in (1, 2):
        bench.machine.proc.thread(tid, bad)
        assert bench.open(tid, tid) == []
    assert bench.open(7, 7) == ["/a"]
    bench.review()
    messages = [record.getMessage() for record in caplog.records]
    assert [said in message for message in messages if said] == ([True] if said else [])
    assert len(messages) == (1 if said else 0)


def test_a_cgroup_file_that_is_none_is_said_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.machine.proc.thread(7, "/a")
    bench.machine.proc.says(7, "nonsense\n")
    for number in range(3):
        assert bench.open(number, 7) == []
    (record,) = caplog.records
    assert "7/cgroup" in record.getMessage()


class TestOpenerThatIsGone:
    """A server that takes over has the inode of the cgroup that an opener was in."""

    def test_stays_where_it_was(self, bench: Bench) -> None:
        bench.machine.cgroup("/pod", limit=None)
        box = bench.machine.cgroup("/pod/box")
        place = bench.leaves.follow(1, 99, ALICE, box.directory.stat().st_ino)
        bench.told.scopes[1] = place.scope
        assert bench.paths(1) == ["/pod/box"]
        assert place.inode == box.directory.stat().st_ino
        assert bench.leaves.follow(2, 99, ALICE, 12345).scope == ()
        bench.leaves.forget(2)

    def test_is_where_it_is_now_if_it_is_not_gone(self, bench: Bench) -> None:
        old = bench.machine.cgroup("/old")
        new = bench.machine.cgroup("/new")
        bench.machine.proc.thread(7, "/new")
        place = bench.leaves.follow(1, 7, ALICE, old.directory.stat().st_ino)
        bench.told.scopes[1] = place.scope
        assert bench.paths(1) == ["/new"]
        assert place.inode == new.directory.stat().st_ino

    def test_is_not_followed_to_where_another_thread_with_its_id_is(self, bench: Bench) -> None:
        """It began after the file was opened: the cgroup that it is in is no affair of the file's."""
        old = bench.machine.cgroup("/old")
        bench.machine.cgroup("/of-another-user")
        bench.machine.proc.thread(7, "/of-another-user", began_s=100)
        inode = old.directory.stat().st_ino
        for number, opened_s, path in ((1, 50, "/old"), (2, 150, "/of-another-user")):
            place = bench.leaves.follow(number, 7, ALICE, inode, opened_ns=opened_s * 10**9)
            bench.told.scopes[number] = place.scope
            assert bench.paths(number) == [path]


class TestOwners:
    def test_what_is_counted_to_an_id_goes_to_its_owner(self, tmp_path: Path) -> None:
        bench = Bench(FakeMachine(tmp_path), replace(PLENTY, total=2, per_user=1))
        bench.machine.cgroup("/a")
        bench.machine.cgroup("/b")
        bench.machine.proc.thread(7, "/a")
        bench.machine.proc.thread(8, "/b")
        assert bench.open(1, 7, user=100_000) == ["/a"]
        bench.leaves.count_to(100_000, ALICE)
        assert [domain.user for domain in bench.told.domains] == [ALICE]
        assert bench.open(2, 8, user=ALICE) == []

    def test_a_user_with_many_cgroups_does_not_put_off_what_is_new_to_another(self, bench: Bench) -> None:
        for number in range(300):
            bench.machine.cgroup(f"/many/{number}", limit=None)
            bench.machine.proc.thread(1000 + number, f"/many/{number}")
            bench.open(1000 + number, 1000 + number, user=BOB)
        honest = bench.machine.cgroup("/honest", limit=None)
        bench.machine.proc.thread(7, "/honest")
        assert bench.open(1, 7) == []
        honest.limit = 64
        honest.now()
        for _ in range(3):
            bench.leaves.review()
        assert bench.paths(1) == ["/honest"]
