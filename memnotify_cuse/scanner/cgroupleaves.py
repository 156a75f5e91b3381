"""Which memory cgroups have to do with which open file.

    open file ──its opener's thread──▶ leaf: the cgroup of that thread
                                        └──▶ domains: those of the leaf and of all that it lies in that have a limit

A cgroup with no open file below it is not in here. Programs are moved, limits set and cgroups removed without a word
from the kernel, so all of that is reviewed now and then. A descriptor that is passed on stays its opener's. Where the
opener is gone, it is as it was.
"""

from __future__ import annotations

import itertools
import logging
import os
import resource
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from memnotify_cuse.accounts import Account, Bounds, OverBoundError
from memnotify_cuse.domain import CgroupId, Scope
from memnotify_cuse.kernel.cgroup import DELETED, CgroupFiles, CgroupGoneError, Hierarchy, ancestors, read_cgroup
from memnotify_cuse.kernel.errors import KernelFileError, KernelFileGoneError
from memnotify_cuse.kernel.process import read_start_time
from memnotify_cuse.scanner.cgroupdomain import CgroupDomain
from memnotify_cuse.scanner.machine import Machine

log = logging.getLogger(__name__)

BOUNDS: Final = Bounds(total=4096, per_user=4096, root_reserve=1024, share_divisor=16)
"""Of domains. Each takes two descriptors at most."""

SPARE_DESCRIPTORS: Final = 1024
"""How many are left to others."""

MOST_LEVELS: Final = 32
"""How far out limits are looked for. Cgroups may lie in each other without end."""

REVIEW_S: Final = 0.01
"""How long threads are reviewed in one go; the next review goes on there."""

WALK_S: Final = 0.2
"""How long it may take to look for the cgroup of an opener that is gone, when a server takes over."""

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Place(NamedTuple):
    """Where the opener of a file is: its domains, and the inode of the first one's folder (0: there is none)."""

    scope: Scope = ()
    inode: int = 0


class Changes:
    """Told of the domains that there are, and which an open file has. This one does nothing with it."""

    def made(self, domain: CgroupDomain) -> None:
        """A domain to be looked at."""

    def dropped(self, domain: CgroupDomain) -> None:
        """Nothing has to do with it any more; it is about to be closed."""

    def limit_changed(self, domain: CgroupDomain) -> None:
        """It has another limit from now on, and what was known of it is nothing."""

    def place_changed(self, number: int, place: Place) -> None:
        """The opener of the open file of that number is there from now on."""


@dataclass(slots=True, eq=False)
class _Leaf:
    """A cgroup that programs listen in. Its domains are counted to `user`."""

    path: str
    user: int
    domains: list[CgroupDomain] = field(default_factory=list)
    files: dict[int, None] = field(default_factory=dict)

    @property
    def scope(self) -> Scope:
        return tuple(domain.id for domain in self.domains)


@dataclass(slots=True)
class _Reviewed:
    """What a review has seen already: cgroups without a limit, and domains."""

    unlimited: set[str] = field(default_factory=set)
    domains: set[CgroupDomain] = field(default_factory=set)


def _place(leaf: _Leaf | None) -> Place:
    if leaf is None or not leaf.domains:
        return Place()
    return Place(leaf.scope, leaf.domains[0].inode)


@dataclass(slots=True)
class _Opener:
    """The thread that opened a file, by when (CLOCK_BOOTTIME), and the user that the file is counted to."""

    tid: int
    opened_ns: int
    user: int
    leaf: _Leaf | None = None


class CgroupLeaves:
    """The leaves of all open files and their domains. Domains that fail are taken out by `lose`.

    `fill_kb_per_s` is how fast programs can take memory.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        machine: Machine,
        changes: Changes,
        *,
        fill_kb_per_s: int,
        proc: Path = Path("/proc"),
        bounds: Bounds | None = None,
    ) -> None:
        self._hierarchy = hierarchy
        self._machine = machine
        self._changes = changes
        self._fill_kb_per_s = fill_kb_per_s
        self._proc = proc
        self._account = Account(bounds or _bounds_here())
        self._openers: dict[int, _Opener] = {}
        self._leaves: dict[str, _Leaf] = {}
        self._domains: dict[str, CgroupDomain] = {}
        self._users: dict[CgroupDomain, int] = {}
        self._generations = itertools.count(1)
        self._to_review: dict[int, list[int | str]] = {}
        self._reviewed = _Reviewed()
        self._paths: dict[int, str] = {}
        self._said: set[str] = set()

    @property
    def domains(self) -> list[CgroupDomain]:
        return list(self._domains.values())

    def listeners(self) -> Counter[CgroupDomain]:
        """How many open files have each of them."""
        counts: Counter[CgroupDomain] = Counter()
        for leaf in self._leaves.values():
            for domain in leaf.domains:
                counts[domain] += len(leaf.files)
        return counts

    def follow(self, number: int, tid: int, user: int, inode: int = 0, opened_ns: int | None = None) -> Place:
        """An open file that thread `tid` has opened, and that counts to `user`; where it is.

        `inode` is that of the opener's first domain, and `opened_ns` the time of the open (CLOCK_BOOTTIME), as they
        were noted before: the inode stands where the opener is gone.
        """
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        opener = self._openers[number] = _Opener(tid, opened_ns or now_ns, user)
        path = self._path_of(tid) if opened_ns is None or not self._is_another(opener) else None
        if path is None and inode:
            path = self._path_with(inode)
        leaf = self._leaf_at(path, user) if path is not None else None
        self._enter(number, opener, leaf)
        return _place(leaf)

    def forget(self, number: int) -> None:
        """The open file is closed."""
        opener = self._openers.pop(number, None)
        if opener is not None:
            self._enter(number, opener, None)

    def count_to(self, user: int, owner: int) -> None:
        """All that is counted to `user` is `owner`'s from now on."""
        self._account.move(user, owner)
        counted: list[CgroupDomain | _Opener | _Leaf] = [
            *self._domains.values(),
            *self._openers.values(),
            *self._leaves.values(),
        ]
        for each in counted:
            if each.user == user:
                each.user = owner

    def review(self) -> None:
        """See which threads were moved, and which limits set or changed; users in turn, and not all at once."""
        # Of a CPU that others have as well, only what was had of it counts.
        end_s = time.thread_time() + REVIEW_S
        self._paths.clear()
        if not self._to_review:
            self._reviewed = _Reviewed()
            for number, opener in self._openers.items():
                self._to_review.setdefault(opener.user, []).append(number)
            for path, leaf in self._leaves.items():
                self._to_review.setdefault(leaf.user, []).append(path)
        while self._to_review and time.thread_time() < end_s:
            user = next(iter(self._to_review))
            to_do = self._to_review.pop(user)
            each = to_do.pop()
            if to_do:
                self._to_review[user] = to_do
            if isinstance(each, str):
                if each in self._leaves:
                    self._renew(self._leaves[each], self._reviewed)
            elif each in self._openers:
                self._review(each, self._openers[each])

    def lose(self, domain: CgroupDomain) -> None:
        """It is gone, or has no limit any more."""
        if self._domains.get(domain.id.path) is not domain:
            return
        leaves = [leaf for leaf in self._leaves.values() if domain in leaf.domains]
        del self._domains[domain.id.path]
        for leaf in leaves:
            self._set_domains(leaf, [each for each in leaf.domains if each is not domain])
            self._say_scope(leaf)

    def _review(self, number: int, opener: _Opener) -> None:
        path = self._path_of(opener.tid)
        if path is None or (opener.leaf is not None and opener.leaf.path == path) or self._is_another(opener):
            return
        before = _place(opener.leaf)
        leaf = self._leaf_at(path, opener.user)
        self._enter(number, opener, leaf)
        place = _place(leaf)
        if place != before:
            self._changes.place_changed(number, place)

    def _is_another(self, opener: _Opener) -> bool:
        """Whether the opener has ended, and its id was given to a thread that began later."""
        try:
            ticks = read_start_time(opener.tid, self._proc)
        except KernelFileError:
            return True
        return ticks * 1_000_000_000 // _TICKS_PER_S > opener.opened_ns

    def _path_of(self, tid: int) -> str | None:
        """The cgroup of a thread; None where the thread is gone, or its cgroup cannot be seen."""
        if not tid:
            return None
        try:
            path = read_cgroup(self._proc, tid, unified=self._hierarchy.unified)
        except KernelFileGoneError:
            # Of a program that has ended there is nothing to be told, and where none can be seen, /proc says so.
            return None
        except KernelFileError as error:
            self._say_once("malformed", error)
            return None
        if path.endswith(DELETED):
            return None
        if self._hierarchy.directory(path) is None:
            self._say_once("outside", f"{path} is outside of the cgroups that this server can see")
            return None
        return path

    def _path_with(self, inode: int) -> str | None:
        """The cgroup whose folder has that inode: all are looked at once, and kept in mind until the next review."""
        if not self._paths:
            self._paths = dict(_walk(self._hierarchy, time.thread_time() + WALK_S))
        return self._paths.get(inode)

    def _say_once(self, what: str, why: object) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("programs are not told of the limits of all cgroups: %s", why)

    def _enter(self, number: int, opener: _Opener, leaf: _Leaf | None) -> None:
        before, opener.leaf = opener.leaf, leaf
        if leaf is not None:
            leaf.files[number] = None
        if before is not None and before is not leaf:
            del before.files[number]
            if not before.files:
                del self._leaves[before.path]
                self._set_domains(before, [])

    def _leaf_at(self, path: str, user: int) -> _Leaf:
        leaf = self._leaves.get(path)
        if leaf is not None:
            return leaf
        leaf = self._leaves[path] = _Leaf(path, user)
        self._set_domains(leaf, self._limited(leaf, set()))
        return leaf

    def _renew(self, leaf: _Leaf, reviewed: _Reviewed) -> None:
        for domain in leaf.domains:
            if domain not in reviewed.domains:
                reviewed.domains.add(domain)
                self._follow_limit(domain)
        before = leaf.scope
        self._set_domains(leaf, self._limited(leaf, reviewed.unlimited))
        if leaf.scope != before:
            self._say_scope(leaf)

    def _follow_limit(self, domain: CgroupDomain) -> None:
        try:
            changed = domain.follow_limit()
        except CgroupGoneError:
            self.lose(domain)
        except KernelFileError:
            # It is looked at again.
            return
        else:
            if changed:
                self._changes.limit_changed(domain)

    def _say_scope(self, leaf: _Leaf) -> None:
        for number in leaf.files:
            self._changes.place_changed(number, _place(leaf))

    def _limited(self, leaf: _Leaf, unlimited: set[str]) -> list[CgroupDomain]:
        """The domains of `leaf` and of all that it lies in, made where there is none yet.

        Those in `unlimited` were found to have no limit a moment ago; more are added to it.
        """
        found = []
        for each in ancestors(leaf.path)[:MOST_LEVELS]:
            domain = self._domains.get(each)
            if domain is None and each not in unlimited:
                try:
                    domain = self._new_domain(each, leaf.user)
                except OverBoundError:
                    self._say_once("bound", f"user {leaf.user} listens in too many of them")
                    continue
                if domain is None:
                    unlimited.add(each)
            if domain is not None:
                found.append(domain)
        return found

    def _new_domain(self, path: str, user: int) -> CgroupDomain | None:
        """None where it has no limit. OverBoundError: it has one, and the user has too many of them."""
        directory = self._hierarchy.directory(path)
        if directory is None:
            return None
        files = None
        try:
            files = CgroupFiles(directory, unified=self._hierarchy.unified)
            cgroup = CgroupId(path, next(self._generations))
            domain = CgroupDomain(cgroup, files, self._machine, self._fill_kb_per_s, user)
            self._account.take(user)
        except (KernelFileError, OverBoundError) as error:
            if files is not None:
                files.close()
            if isinstance(error, OverBoundError):
                raise
            # Where the controller is off, it has not even the file.
            return None
        self._domains[path] = domain
        self._users[domain] = 0
        self._changes.made(domain)
        return domain

    def _set_domains(self, leaf: _Leaf, domains: list[CgroupDomain]) -> None:
        before, leaf.domains = leaf.domains, domains
        for domain in domains:
            self._users[domain] += 1
        for domain in before:
            self._users[domain] -= 1
            if not self._users[domain]:
                self._drop(domain)

    def _drop(self, domain: CgroupDomain) -> None:
        del self._users[domain]
        if self._domains.get(domain.id.path) is domain:
            del self._domains[domain.id.path]
        self._changes.dropped(domain)
        self._account.give_back(domain.user)
        domain.close()


def _bounds_here() -> Bounds:
    """`BOUNDS`, and fewer where this process may not have so many descriptors."""
    spare = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS
    total = max(0, min(BOUNDS.total, spare // 2))
    return replace(BOUNDS, total=total, root_reserve=min(BOUNDS.root_reserve, total // 4))


def _walk(hierarchy: Hierarchy, until_s: float) -> Iterator[tuple[int, str]]:
    """The inode and path of each cgroup that is found by then; those that go meanwhile are left out."""
    to_do = [hierarchy.mount_point]
    while to_do and time.thread_time() < until_s:
        directory = to_do.pop()
        try:
            with os.scandir(directory) as entries:
                folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            yield directory.stat().st_ino, hierarchy.path(directory)
        except OSError:
            continue
        to_do += [directory / folder.name for folder in folders]
