"""SIGKILLs of the server at random moments: `python -m tests.attacks.kills --count 1000` (root; about a second each).

Every second one comes within milliseconds of an open by a program that owns the file, when the server may be looking
for that owner; the others at any moment under SIGIO owners that come and go, opens, blocked readers and notifications.
Mostly its first process is killed, else any of the others. After each, the clients must be gone soon after a SIGKILL of
their own, and the next server starts at the same paths.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.attacks.clients import Honest, Program, kill_all
from tests.attacks.folders import SOURCES, end_orderly, folder
from tests.attacks.limits import LIMIT_S, RELEASE_S, STOP_S
from tests.attacks.processes import within
from tests.attacks.target import Target
from tests.support.mounted import NOBODY
from tests.support.programs import Programs

CROWD: Final = (
    ("owners", "forks", "0"),
    ("owners", "own", "0"),
    ("files", "opens", "0"),
    ("files", "slow", "20"),
    ("files", "asleep", "20"),
)
"""Programs beside the honest ones, and their arguments around the device."""

AFTER_OPEN_S: Final = 0.004
"""A kill near an open comes within this: looking for an owner takes about one to three milliseconds."""

ANY_MOMENT_S: Final = 0.4
"""A kill at any moment comes within this of the last program's start: two notifications."""

FIRST_PROCESS: Final = 0.7
"""Share of the kills that hit the first process of the server."""


@dataclass(slots=True)
class Tally:
    """What came of the kills. `problems` names each that did not go well, with its number."""

    kills: int = 0
    children: int = 0
    """How many of them hit another process than the first one."""
    worst_s: float = 0.0
    problems: list[str] = field(default_factory=list)


LOGGED_CHARS = 400


def kill_often(count: int, directory: Path, programs: Programs, seed: int, *, verbose: bool = False) -> Tally:
    """Start a server and kill it, `count` times."""
    tally = Tally()
    chance = random.Random(seed)
    with Target(directory) as target:
        for number in range(count):
            if number:
                try:
                    target.start()
                except AssertionError as error:
                    tally.problems.append(f"kill {number}: next start: {error}")
                    return tally
            try:
                problem = _kill_once(target, programs, chance, tally, near_open=number % 2 == 0)
            except AssertionError as error:
                problem = f"{error}; the server said: {target.log[-LOGGED_CHARS:]}"
            tally.kills += 1
            if problem:
                tally.problems.append(f"kill {number}: {problem}")
                target.release()
            if verbose and (problem or number % 20 == 19):
                print(f"{number + 1} kills, {len(tally.problems)} problems {problem}", file=sys.stderr, flush=True)
        target.start()
        if target.terminate() is None:
            tally.problems.append("the last server does not end")
        tally.problems += target.leftovers()
    return tally


def _kill_once(target: Target, programs: Programs, chance: random.Random, tally: Tally, *, near_open: bool) -> str:
    with ExitStack() as stack:
        clients: list[Program] = []
        stack.callback(lambda: kill_all(clients))
        if near_open:
            owner = Program([programs("owners"), "own", target.device, "0"], uid=NOBODY)
            clients.append(owner)
            _spin_until_ready(owner)
            time.sleep(chance.uniform(0, AFTER_OPEN_S))
        else:
            clients += [Honest(programs, how, target.device) for how in ("poll", "sigio")]
            clients += [Program([programs(name), mode, target.device, size], uid=NOBODY) for name, mode, size in CROWD]
            for client in clients:
                client.wait_for("ready")
            for _ in range(2):
                target.machine.tighten()
                time.sleep(chance.uniform(0, ANY_MOMENT_S / 2))
        pids = target.pids()
        child = 0 if chance.random() < FIRST_PROCESS else chance.randrange(len(pids))
        tally.children += child > 0
        started = time.monotonic()
        target.kill(pids[child])
        left = kill_all(clients)
        if child and target.is_running() and target.terminate() is None:
            return f"not gone {STOP_S} s after SIGTERM, without process {child}"
        if within(RELEASE_S, target.is_gone) is None:
            return f"the server is still there {RELEASE_S} s after SIGKILL"
        if left:
            return f"{len(left)} clients still there {RELEASE_S} s after SIGKILL"
        tally.worst_s = max(tally.worst_s, time.monotonic() - started)
        return ""


def _spin_until_ready(program: Program) -> None:
    """Without the pause between looks, which is longer than what is aimed at."""
    deadline = time.monotonic() + LIMIT_S
    while not program.lines:
        assert time.monotonic() < deadline, "the owner does not open the device"
        time.sleep(0)
    program.wait_for("ready")


def main() -> int:
    """Kill so often as was asked for; 1 if one of the kills left something hanging."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.kills", description="SIGKILL the server often.")
    parser.add_argument("--count", type=int, default=1000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    arguments = parser.parse_args()
    end_orderly()
    with folder() as built, folder() as directory:
        tally = kill_often(arguments.count, directory, Programs(SOURCES, built), arguments.seed, verbose=True)
    print("| kills | of them of other processes | clients gone, worst s | problems |")
    print("| --- | --- | --- | --- |")
    problems = "; ".join(problem.replace("\n", " ")[:160] for problem in tally.problems)
    print(f"| {tally.kills} | {tally.children} | {tally.worst_s:.2f} | {len(tally.problems)} {problems} |")
    return int(bool(tally.problems))


if __name__ == "__main__":
    sys.exit(main())
