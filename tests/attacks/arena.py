"""One attack on one server, beside two honest programs: what they were told, and how the server ended."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.attacks.clients import HONEST_UID, Honest, Program, SilentMount, kill_all, open_as, sleep_until
from tests.attacks.limits import (
    DESCRIPTORS_GROWTH,
    GUARD_S,
    LIMIT_S,
    LOG_BYTES,
    MEDIAN_S,
    PSS_GROWTH_MB,
    PSS_KEPT_MB,
    RELEASE_S,
    STOP_S,
    WORST_S,
)
from tests.attacks.processes import descriptors, pss_mb, within
from tests.attacks.scenarios import Scenario
from tests.attacks.target import Target
from tests.support.programs import Programs

OPENS = 10
"""By each user who must be able to open the device."""

CRITICAL_S = 600
"""Longer than any of them lasts."""


@dataclass(slots=True)
class Outcome:
    """What an attack came to. `problems` has a line for each bound that did not hold; seconds are None where the
    limit was passed."""

    told: dict[str, int] = field(default_factory=dict)
    notifications: int = 0
    delays_s: list[float] = field(default_factory=list)
    stop_s: float | None = None
    release_s: float | None = None
    pss_before_mb: float = 0.0
    pss_worst_mb: float = 0.0
    descriptors_before: int = 0
    descriptors_worst: int = 0
    problems: list[str] = field(default_factory=list)

    def require(self, holds: object, problem: str) -> None:
        """Note down a bound that does not hold."""
        if not holds:
            self.problems.append(problem)


class Arena:
    """A server, two honest programs, and the attack once `attack` was called. A context manager."""

    def __init__(self, scenario: Scenario, directory: Path, programs: Programs, *, long: bool = False) -> None:
        self.scenario = scenario
        self.programs = programs
        self._directory = directory
        self._long = long
        self._stack = ExitStack()
        self._silent: SilentMount | None = None
        self.show_zoneinfo: Callable[[], None] = lambda: None
        self.attacker: Program | None = None
        self.descriptors_worst = 0
        """Of one process of the server, looked at all along: those that are held for a notification are gone after."""

    def __enter__(self) -> Arena:
        with ExitStack() as stack:
            options = ("--log-level", "info", *self.scenario.options)
            target = Target(self._directory, *options, full_stderr=self.scenario.full_stderr)
            self.target = stack.enter_context(target)
            self.honest = [stack.enter_context(honest) for honest in self._new_honest()]
            for honest in self.honest:
                honest.wait_for("ready")
            # An owner is found a moment after it was set: the first notification that counts comes after one that did.
            for _ in range(10):
                if self.notify(self.honest):
                    break
            else:
                raise AssertionError(f"the honest programs are not told without an attack: {self.target.log}")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def attack(self) -> None:
        """Start it, and return once it is in full swing."""
        scenario = self.scenario
        values = {
            "device": self.target.device,
            "mount": self.target.mount,
            "count": scenario.long_count if self._long and scenario.long_count else scenario.count,
        }
        pass_fds: tuple[int, ...] = ()
        if "{fd}" in scenario.arguments:
            self._silent = self._stack.enter_context(SilentMount(self._directory / "silent"))
            pass_fds = (self._silent.fd,)
            values |= {"silent": self._silent.path, "fd": self._silent.fd}
        if "{victim}" in scenario.arguments:
            victim = self._directory / "victim"
            shutil.copy(self.programs(scenario.program), victim)
            os.chmod(victim, 0o4755)
            values["victim"] = victim
        if scenario.no_zoneinfo:
            self.show_zoneinfo = _hide_zoneinfo(self.target, self._directory)
        arguments = [argument.format(**values) for argument in scenario.arguments]
        command = [self.programs("users"), scenario.users.value, self.programs(scenario.program), *arguments]
        self.attacker = Program(command, pass_fds=pass_fds)
        self._stack.callback(self.end_attack)
        if self._silent is not None:
            self._silent.hand_over()
        self.attacker.wait_for("ready", scenario.users.processes)
        if scenario.critical:
            (self.target.mount / "simulate").write_text(f"all {CRITICAL_S} critical\n")

    def end_attack(self) -> list[int]:
        """SIGKILL for the attack; its processes that are still there after the limit."""
        if self._silent is not None:
            # What waits on its own mount is its own affair.
            self._silent.abort()
        return self.attacker.kill() if self.attacker is not None else []

    def end_all(self) -> list[int]:
        """The same for the honest programs as well, all at once."""
        if self._silent is not None:
            self._silent.abort()
        return kill_all([*self.honest, *([self.attacker] if self.attacker is not None else [])])

    def notify(self, audience: Sequence[Honest]) -> bool:
        """Have the server notify once, and return when `audience` can be told again; False if somebody was not told."""
        changed_ns = time.monotonic_ns()
        self.target.machine.tighten()

        def all_told() -> bool:
            self._count_descriptors()
            return all(told.at_ns >= changed_ns for honest in audience for told in honest.told()[-1:] or [_NEVER])

        in_time = within(2 * WORST_S, all_told) is not None
        sleep_until(time.monotonic() + GUARD_S, self._count_descriptors)
        return in_time

    def _count_descriptors(self) -> None:
        self.descriptors_worst = max(self.descriptors_worst, descriptors(self.target.known_pids))

    def _new_honest(self) -> Iterator[Honest]:
        for how in ("poll", "sigio"):
            yield Honest(self.programs, how, self.target.device)


_NEVER = type("_Never", (), {"at_ns": 0})()


def _hide_zoneinfo(target: Target, directory: Path) -> Callable[[], None]:
    """The server's zoneinfo cannot be opened by path any more; the answer undoes that."""
    machine, kept = target.machine, directory / "kept"
    before = machine.path
    kept.mkdir()
    os.link(before / "zoneinfo", kept / "zoneinfo")
    (before / "zoneinfo").unlink()
    machine.path = kept

    def show() -> None:
        os.link(kept / "zoneinfo", before / "zoneinfo")
        machine.path = before

    return show


def withstand(
    scenario: Scenario, directory: Path, programs: Programs, notifications: int, *, long: bool = False
) -> Outcome:
    """Run an attack, notify so often, end the server by SIGTERM while it lasts."""
    outcome = Outcome(notifications=notifications)
    with _complaining(outcome, "the arena"), Arena(scenario, directory, programs, long=long) as arena:
        target = arena.target
        outcome.pss_before_mb, outcome.descriptors_before = pss_mb(target.pids()), arena.descriptors_worst
        arena.attack()
        changes_ns = []
        for _ in range(notifications):
            changes_ns.append(time.monotonic_ns())
            arena.notify(arena.honest)
            outcome.pss_worst_mb = max(outcome.pss_worst_mb, pss_mb(target.pids()))
        outcome.descriptors_worst = arena.descriptors_worst
        for honest in arena.honest:
            _judge_told(outcome, honest, changes_ns)
        _judge_delays(outcome)
        if outcome.problems:
            print(f"the server's log: {target.log[-4000:]}")
        if scenario.opens:
            for uid in (0, HONEST_UID):
                problem = open_as(programs, uid, target.device, OPENS)
                outcome.require(not problem, problem)
        _judge_server(outcome, arena)
        outcome.stop_s = target.terminate()
        outcome.require(outcome.stop_s is not None, f"not gone {STOP_S} s after SIGTERM")
        if outcome.stop_s is not None:
            outcome.problems += target.leftovers()
    return outcome


def killed(
    scenario: Scenario, directory: Path, programs: Programs, child: int, *, long: bool = False
) -> Outcome | None:
    """Run an attack, and SIGKILL one process of the server: its first one (0), or its descendant number `child`.

    None if it has no such descendant. All clients must be gone soon after a SIGKILL of their own, and the next server
    at the same paths must work.
    """
    outcome = Outcome()
    with _complaining(outcome, "the arena"), Arena(scenario, directory, programs, long=long) as arena:
        target = arena.target
        if child >= len(target.pids()):
            return None
        arena.attack()
        arena.notify(arena.honest)
        pids = target.pids()
        if child >= len(pids):
            return None
        started = time.monotonic()
        target.kill(pids[child])
        left = arena.end_all()
        outcome.require(not left, f"{len(left)} clients still there {RELEASE_S} s after SIGKILL")
        if child and target.is_running():
            # What the server does without that process is its own affair; that it can be ended is ours.
            outcome.require(target.terminate() is not None, f"not gone {STOP_S} s after SIGTERM")
        gone = within(RELEASE_S, target.is_gone)
        outcome.require(gone is not None, f"the server is still there {RELEASE_S} s after SIGKILL")
        if not outcome.problems:
            outcome.release_s = time.monotonic() - started
            with _complaining(outcome, "next start"):
                _start_again(arena)
    return outcome


def _start_again(arena: Arena) -> None:
    target = arena.target
    arena.show_zoneinfo()
    target.start()
    with Honest(arena.programs, "poll", target.device) as honest:
        honest.wait_for("ready")
        told = within(LIMIT_S, lambda: arena.notify([honest]))
        assert told is not None, "a program of the next server is not told"
    assert target.terminate() is not None, "the next server does not end"
    left = target.leftovers()
    assert not left, f"the next server leaves {left}"


@contextmanager
def _complaining(outcome: Outcome, what: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        outcome.problems.append(f"{what}: {error}")


def _judge_told(outcome: Outcome, honest: Honest, changes_ns: list[int]) -> None:
    ends_ns = [*changes_ns[1:], time.monotonic_ns()]
    outcome.told[honest.how] = 0
    for start_ns, end_ns in zip(changes_ns, ends_ns, strict=True):
        # By its record, so that one that is told too late is still the one that it is.
        found = [told for told in honest.told() if start_ns <= (told.record_ns or told.at_ns) < end_ns]
        if found:
            outcome.told[honest.how] += 1
            seen_ns = found[0].record_ns or start_ns
            outcome.delays_s.append((found[0].at_ns - seen_ns) / 1e9)
            lag_s = (seen_ns - start_ns) / 1e9
            outcome.require(lag_s <= WORST_S, f"the scanner was {lag_s:.2f} s late")
    count = outcome.told[honest.how]
    outcome.require(count == len(changes_ns), f"{honest.how}: told {count} of {len(changes_ns)}")


def _judge_delays(outcome: Outcome) -> None:
    if outcome.delays_s:
        median, worst = statistics.median(outcome.delays_s), max(outcome.delays_s)
        outcome.require(median <= MEDIAN_S, f"told after {median * 1e3:.0f} ms at the median")
        outcome.require(worst <= WORST_S, f"told after {worst * 1e3:.0f} ms at the worst")


def _judge_server(outcome: Outcome, arena: Arena) -> None:
    target, attacker = arena.target, arena.attacker
    outcome.require(target.is_running(), f"the server ended: {target.log[-2000:]}")
    growth = outcome.pss_worst_mb - outcome.pss_before_mb
    outcome.require(growth <= PSS_GROWTH_MB, f"memory grew by {growth:.1f} MB")
    opened = outcome.descriptors_worst - outcome.descriptors_before
    outcome.require(opened <= DESCRIPTORS_GROWTH, f"{opened} more descriptors in one process")
    log = target.log
    outcome.require("Traceback" not in log, f"a traceback: {log[-2000:]}")
    outcome.require(len(log) <= LOG_BYTES, f"{len(log)} bytes of log")
    if attacker is not None:
        hits = [line for line in attacker.lines if line.startswith("hit")]
        outcome.require(not hits, f"{len(hits)} times: {hits[:1]}")
        outcome.require(not attacker.count("failed"), f"the attack itself: {attacker.lines[-5:]}")
    if arena.scenario.gives_back:
        arena.end_attack()
        limit_mb = outcome.pss_before_mb + PSS_KEPT_MB
        given_back = within(LIMIT_S, lambda: pss_mb(target.pids()) <= limit_mb)
        outcome.require(given_back is not None, f"keeps {pss_mb(target.pids()) - outcome.pss_before_mb:.1f} MB")
