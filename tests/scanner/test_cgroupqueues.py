"""Which cgroup is looked at next: by time, users in turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from memnotify_cuse.domain import CgroupId
from memnotify_cuse.scanner.cgroupdomain import CgroupDomain
from memnotify_cuse.scanner.cgroupqueues import Queues
from memnotify_cuse.scanner.machine import Machine
from tests.scanner.cgroupfiles import GIB_KB, FakeCgroup

ALICE, BOB = 1000, 1001


class Bench:
    """Domains of users, by name, all of one made-up cgroup."""

    def __init__(self, root: Path) -> None:
        self._cgroup = FakeCgroup(root)
        self.queues = Queues()
        self._domains: dict[str, CgroupDomain] = {}

    def add(self, name: str, user: int, due_ns: int) -> CgroupDomain:
        files = self._cgroup.files()
        domain = CgroupDomain(CgroupId(f"/{name}"), files, Machine(mglru=False, page_kb=4), GIB_KB, user)
        self.queues.add(domain, due_ns)
        self._domains[name] = domain
        return domain

    def due(self, now_ns: int) -> list[str]:
        return [domain.id.path[1:] for domain in self.queues.take_due(now_ns)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_one_that_is_due_first_comes_first(bench: Bench) -> None:
    for name, due_ns in (("b", 20), ("a", 10), ("c", 30)):
        bench.add(name, ALICE, due_ns)
    assert bench.queues.first_ns() == 10
    assert bench.due(25) == ["a", "b"]
    assert bench.queues.first_ns() == 30


def test_users_take_turns(bench: Bench) -> None:
    for number in range(3):
        bench.add(f"a{number}", ALICE, number)
    bench.add("b", BOB, 100)
    assert bench.due(200) == ["a0", "b", "a1", "a2"]


def test_the_next_look_goes_on_with_the_next_user(bench: Bench) -> None:
    for number in range(4):
        bench.add(f"a{number}", ALICE, number)
        bench.add(f"b{number}", BOB, number)
    first = [next(bench.queues.take_due(10)).id.path for _ in range(4)]
    assert first == ["/a0", "/b0", "/a1", "/b1"]


def test_one_that_is_said_to_be_due_once_more_keeps_its_place(bench: Bench) -> None:
    """As when a cgroup that is at its limit says so again and again: it would never be looked at."""
    late = bench.add("at its limit", ALICE, 10)
    bench.add("another", ALICE, 20)
    for now_ns in (30, 40, 50):
        bench.queues.put(late, now_ns)
    assert bench.due(60) == ["at its limit", "another"]


def test_one_that_is_due_sooner_than_it_was_is_looked_at_then(bench: Bench) -> None:
    bench.queues.put(bench.add("a", ALICE, 100), 10)
    assert bench.due(10) == ["a"]
    assert bench.due(1000) == []


def test_what_is_removed_is_not_looked_at(bench: Bench) -> None:
    domain = bench.add("a", ALICE, 10)
    assert bench.queues.count(bench.add("b", ALICE, 10)) == (1, 2)
    bench.queues.remove(domain)
    assert bench.due(20) == ["b"]


def test_one_goes_to_the_owner_of_its_user(bench: Bench) -> None:
    domain = bench.add("a", 100_000, 10)
    bench.add("b", ALICE, 10)
    assert bench.due(20) == ["a", "b"]
    domain.user = ALICE
    bench.queues.put(domain, 30)
    assert bench.queues.count(domain) == (1, 2)
