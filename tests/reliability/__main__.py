"""A server that is killed again and again under a crowd of programs: `python -m tests.reliability` (root).

Of each kill: nobody may get an error, nothing may hang, and two seconds later a notification must reach everybody, once
their guard time has passed. Prints a row for docs/reliability.md; 1 if one went wrong.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.support.mounted import calm_proc, facts, wait_until, watchers
from tests.support.programs import Programs
from tests.support.server import Lines, Server
from tests.support.takeover import server_pid, wait_for_another

SOURCES: Final = Path(__file__).parent
POLLERS, READERS, OWNERS = 1000, 100, 50
PAUSE_S: Final = 2.0
TOLD_S: Final = 30.0
"""How long everybody may take to be told, on a machine that is busy; how long it took is measured."""

COUNTER: Final = struct.Struct("=QQ")
BOUND_ELSEWHERE: Final = """
import os, subprocess, sys
device, target, *crowd = sys.argv[1:]
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", device, target], check=True)
os.execv(crowd[0], [crowd[0], target, *crowd[1:]])
"""


class Crowd:
    """The programs, and what they count. `elsewhere`: in a mount namespace of their own, on a bind mount."""

    def __init__(
        self, program: Path, device: Path, directory: Path, numbers: tuple[int, int, int], *, elsewhere: bool
    ) -> None:
        self.count = sum(numbers)
        counters = directory / f"counters-{elsewhere}"
        argv = [str(program), *([] if elsewhere else [str(device)]), str(counters), *map(str, numbers)]
        if elsewhere:
            target = directory / "bound"
            target.touch()
            argv = ["unshare", "-m", sys.executable, "-c", BOUND_ELSEWHERE, str(device), str(target), *argv]
        # In a session of its own, as programs of users are: the kernel shares processors out by session.
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert Lines(self._process).next() == "ready"
        with counters.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def told(self) -> list[int]:
        return [told for told, _ in COUNTER.iter_unpack(self._map)]

    def wrong(self) -> list[int]:
        """What went wrong with those with whom something did."""
        return [wrong for _, wrong in COUNTER.iter_unpack(self._map) if wrong]

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._map.close()


@contextmanager
def crowds(server: Server, directory: Path, programs: Programs, share: float) -> Iterator[list[Crowd]]:
    """The crowd, and another one that is a twentieth of it in a mount namespace of its own."""
    full = (round(POLLERS * share), round(READERS * share), round(OWNERS * share))
    few = (max(1, full[0] // 20), max(1, full[1] // 20), max(1, full[2] // 20))
    with ExitStack() as stack:
        found = []
        for numbers, elsewhere in ((full, False), (few, True)):
            found.append(Crowd(programs("crowd"), server.device, directory, numbers, elsewhere=elsewhere))
            stack.callback(found[-1].end)
        wait_until(lambda: watchers(server) == sum(full[:2]) + sum(few[:2]), "the crowd asleep")
        yield found


def kill_often(
    server: Server, crowd: list[Crowd], kills: int, number: int, seed: int, told_s: float = TOLD_S
) -> tuple[list[str], list[float]]:
    """What went wrong, and how long it took from each notification until all were told of it, in seconds.

    `told_s` is how long that may take.
    """
    chance = random.Random(seed)
    problems: list[str] = []
    took_s = []
    for kill in range(kills):
        # Rarely enough not to be a crash loop.
        time.sleep(chance.uniform(0.6, 1.0))
        before = server_pid(server)
        told = [one.told() for one in crowd]
        os.kill(before, number)
        killed_s = time.monotonic()
        wait_for_another(server, before)
        time.sleep(max(0.0, killed_s + PAUSE_S - time.monotonic()))
        began_s = time.monotonic()
        server.simulate(seconds=told_s)
        while time.monotonic() < began_s + told_s:
            left = [sum(map(int.__eq__, one.told(), was)) for one, was in zip(crowd, told, strict=True)]
            if not any(left):
                took_s.append(time.monotonic() - began_s)
                break
            time.sleep(0.01)
        else:
            problems.append(f"kill {kill}: not told: {left}")
        server.simulate(seconds=0)
        wait_until(lambda: "status=1" not in server.status(), "the end of the simulation")
        wrong = [each for one in crowd for each in one.wrong()]
        if wrong:
            problems.append(f"kill {kill}: {len(wrong)} programs got an error: {sorted(set(wrong))}")
            break
        if kill % 10 == 9:
            print(f"{kill + 1} kills, {len(problems)} problems", file=sys.stderr, flush=True)
    return problems, took_s


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description="Kill the server under a crowd.")
    parser.add_argument("--kills", type=int, default=100, metavar="N")
    parser.add_argument("--signal", choices=("KILL", "STOP", "SEGV", "HUP"), default="KILL", help="default: KILL")
    parser.add_argument("--share", type=float, default=1.0, help="of the crowd (default: %(default)s)")
    parser.add_argument("--node", choices=("fuse", "cuse"), default="fuse")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=TOLD_S, metavar="S", help="for all to be told: %(default)s s")
    options = parser.parse_args()
    number = signal.Signals[f"SIG{options.signal}"]
    with tempfile.TemporaryDirectory(prefix="memnotify-") as name, ExitStack() as stack:
        # All users are to come to the device.
        os.chmod(name, 0o755)
        directory = Path(name)
        node = Path(f"/dev/memnotify-{os.getpid()}") if options.node == "cuse" else directory / "node"
        arguments = ("--no-herd-control", "--proc", str(calm_proc(directory).path), "--node", options.node)
        server = stack.enter_context(Server(directory, *arguments, node=node))
        crowd = stack.enter_context(crowds(server, directory, Programs(SOURCES, directory), options.share))
        problems, took_s = kill_often(server, crowd, options.kills, number, options.seed, options.limit)
        restarts = facts(server)["restarts"]
        size = sum(one.count for one in crowd)
        if server.stop() != 0:
            problems.append(f"the server ended badly: {server.log[-500:]}")
        if Path("/proc/self/mountinfo").read_bytes().count(os.fsencode(directory)):
            problems.append("a mount was left")
    worst_s, median_s = (max(took_s), statistics.median(took_s)) if took_s else (0.0, 0.0)
    print("| signal | node | programs | servers killed | all told: median, worst s | problems |")
    print("| --- | --- | --- | --- | --- | --- |")
    said = "; ".join(problems) or "none"
    print(f"| SIG{options.signal} | {options.node} | {size} | {restarts} | {median_s:.2f}, {worst_s:.2f} | {said} |")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
