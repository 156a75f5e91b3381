"""The scanner of memory cgroups: looks at each domain that has open files when it is due, and publishes what it finds.

Nothing tells that a cgroup is about to reach its limit, so each is looked at in half the time in which it could. When
it has reached it, v2's memory.events says so at once. All looks together take no more than a part of a CPU, and those
at quiet cgroups a smaller one: where there are thousands, each is looked at less often. Users take turns, so that one
with hundreds of cgroups that are always busy does not hold up the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import trio

from memnotify_cuse.board import ZoneState
from memnotify_cuse.domain import CgroupId
from memnotify_cuse.kernel.cgroup import CgroupGoneError, Hierarchy
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.scanner import cgroupchoices
from memnotify_cuse.scanner.cgroupdomain import CgroupDomain
from memnotify_cuse.scanner.cgroupleaves import CgroupLeaves, Changes, Place
from memnotify_cuse.scanner.cgroupqueues import Queues
from memnotify_cuse.scanner.machine import Machine

log = logging.getLogger(__name__)

PASS_S: Final = 0.0025
"""How long domains are looked at in one go: what else is waiting for a turn of the event loop is not to wait longer."""

MOST_EVENTS: Final = 64
"""How many cgroups that have reached their limits are heard of in one go."""

LOOK_S: Final = 0.00005
"""What a look takes, until it was measured."""

Publish = Callable[[Collection[ZoneState], Collection[CgroupId]], None]


class CgroupScanner(Changes):
    """Follows the cgroups of open files. Closed by `close`.

    `publish` takes the states of all that are under pressure, and those that gave evidence since it was called last.
    `on_place` is told where a file's opener is from now on. `swap_free_kb` is what the machine has left of swap,
    `fill_kb_per_s` how fast programs can take memory. `now_ns` and `cpu_ns` are the clocks, of time and of this thread.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        machine: Machine,
        publish: Publish,
        on_place: Callable[[int, Place], None],
        *,
        fill_kb_per_s: int,
        swap_free_kb: Callable[[], int] = lambda: 0,
        proc: Path = Path("/proc"),
        now_ns: Callable[[], int] = time.monotonic_ns,
        cpu_ns: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self._cpu_ns = cpu_ns
        self._publish = publish
        self._on_place = on_place
        self._swap_free_kb = swap_free_kb
        self._now_ns = now_ns
        self._leaves = CgroupLeaves(hierarchy, machine, self, fill_kb_per_s=fill_kb_per_s, proc=proc)
        self._queues = Queues()
        self._epoll = select.epoll()
        self._event_fds: dict[CgroupDomain, int] = {}
        self._by_fd: dict[int, CgroupDomain] = {}
        self._look_s = LOOK_S
        self._to_do = trio.Event()
        self._stale = False
        self.looks = 0
        """How many there were."""

    def close(self) -> None:
        """What open files are told of stays as it is: the next server goes on with it."""
        self._on_place = lambda _number, _place: None
        for domain in self._leaves.domains:
            self._leaves.lose(domain)
        self._epoll.close()

    def follow(self, number: int, tid: int, user: int, inode: int = 0, opened_ns: int | None = None) -> Place:
        """An open file: see `CgroupLeaves.follow`."""
        return self._leaves.follow(number, tid, user, inode, opened_ns)

    def forget(self, number: int) -> None:
        """The open file is closed."""
        self._leaves.forget(number)

    def count_to(self, user: int, owner: int) -> None:
        """All that is counted to `user` is `owner`'s from now on."""
        self._leaves.count_to(user, owner)

    def review(self) -> None:
        """See which threads were moved, and which limits set. To be called while the server is awake anyway."""
        self._leaves.review()

    def describe(self) -> list[dict[str, str]]:
        """What there is to be said of each domain, as words of a line."""
        listeners = self._leaves.listeners()
        return [
            {
                "cgroup": domain.id.name,
                "status": str(int(domain.pressed)),
                "limit_kb": str(domain.limit_bytes // 1024),
                "usage_kb": str(domain.usage_bytes // 1024),
                "listeners": str(listeners[domain]),
                "raised": str(domain.state.raised if domain.state is not None else 0),
                "level": domain.state.level if domain.state is not None and domain.pressed else "-",
            }
            for domain in self._leaves.domains
        ]

    def made(self, domain: CgroupDomain) -> None:
        with contextlib.suppress(KernelFileError, OSError):
            # Without them, the timer does.
            fd = domain.files.open_events()
            if fd is not None:
                self._event_fds[domain] = fd
                self._by_fd[fd] = domain
                self._epoll.register(fd, select.EPOLLPRI)
        self._queues.add(domain, self._now_ns())
        self._to_do.set()

    def dropped(self, domain: CgroupDomain) -> None:
        self._queues.remove(domain)
        fd = self._event_fds.pop(domain, None)
        if fd is not None:
            del self._by_fd[fd]
            os.close(fd)
        if domain.pressed:
            self._stale = True
            self._to_do.set()

    def limit_changed(self, domain: CgroupDomain) -> None:
        self._stale = True
        self._queues.put(domain, self._now_ns())
        self._to_do.set()

    def place_changed(self, number: int, place: Place) -> None:
        self._on_place(number, place)

    async def run(self) -> None:
        """Look at each domain when it is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            earliest_ns = 0
            while True:
                await self._wait(earliest_ns)
                # Of a CPU that others have as well, only what was had of it counts.
                began_ns = self._cpu_ns()
                self._look_at_due()
                pause_ns = (cgroupchoices.SHARE - 1) * (self._cpu_ns() - began_ns)
                # One look that took long must not blind it for seconds.
                earliest_ns = self._now_ns() + min(pause_ns, int(cgroupchoices.QUIET_S * 1e9))

    async def _listen(self) -> None:
        """Have those looked at at once that have reached their limits."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            now_ns = self._now_ns()
            for fd, _ in self._epoll.poll(0, MOST_EVENTS):
                with contextlib.suppress(OSError):
                    # Until it is read, it stays ready.
                    os.pread(fd, 1, 0)
                if fd in self._by_fd:
                    self._queues.put(self._by_fd[fd], now_ns)
            self._to_do.set()
            # It says so again and again while the cgroup is at its limit.
            await trio.sleep(cgroupchoices.MOVING_S)

    async def _wait(self, earliest_ns: int) -> None:
        """Until a domain is due, or there is something to be published; until `earliest_ns` in any case."""
        while True:
            self._to_do = trio.Event()
            due_ns = self._queues.first_ns()
            now_ns = self._now_ns()
            if self._stale or (due_ns is not None and due_ns <= now_ns):
                await trio.sleep(max(0.0, (earliest_ns - now_ns) / 1e9))
                return
            wait_s = (max(due_ns, earliest_ns) - now_ns) / 1e9 if due_ns is not None else float("inf")
            with trio.move_on_after(wait_s):
                await self._to_do.wait()

    def _look_at_due(self) -> None:
        began_ns = now_ns = self._now_ns()
        began_cpu_ns = self._cpu_ns()
        moved: list[CgroupId] = []
        looks = 0
        for domain in self._queues.take_due(began_ns):
            looks += 1
            before = domain.state
            if self._look(domain, now_ns):
                moved.append(domain.id)
            self._stale = self._stale or domain.state is not before
            now_ns = self._now_ns()
            if not domain.closed:
                self._queues.put(domain, self._next_ns(domain, now_ns))
            if now_ns - began_ns >= PASS_S * 1e9:
                break
        if looks:
            self.looks += looks
            self._look_s += ((self._cpu_ns() - began_cpu_ns) / 1e9 / looks - self._look_s) / 8
        if self._stale or moved:
            self._stale = False
            pressed = [each.state for each in self._leaves.domains if each.state is not None and each.pressed]
            self._publish(pressed, moved)

    def _next_ns(self, domain: CgroupDomain, now_ns: int) -> int:
        """When it is due again. Quiet ones are due together, so that many of them are one wake-up."""
        next_ns = now_ns + domain.delay_ns(now_ns, self._quiet_s(domain))
        if not domain.is_quiet(now_ns):
            return next_ns
        together_ns = int(cgroupchoices.QUIET_S * 1e9)
        return next_ns - next_ns % together_ns + together_ns

    def _quiet_s(self, domain: CgroupDomain) -> float:
        """How often it is looked at while it is quiet: each user has a share of its own, for all that it has."""
        users, theirs = self._queues.count(domain)
        share = cgroupchoices.QUIET_SHARE * max(1.0, users / cgroupchoices.QUIET_USERS)
        return max(cgroupchoices.QUIET_S, theirs * self._look_s * share)

    def _look(self, domain: CgroupDomain, now_ns: int) -> bool:
        """Look at one; whether it gave evidence."""
        try:
            return domain.look(now_ns, self._swap_free_kb())
        except CgroupGoneError:
            self._leaves.lose(domain)
        except KernelFileError as error:
            if domain.failures == 1:
                log.warning("%s: %s; it is taken as it was meanwhile", domain.id, error)
        return False
