"""What a user who floods the server takes from others, beside what the same user takes by ordinary programs.

`python -m tests.attacks.cpu` (root). Programs of uid 1000, one for each processor, work as much as they can. Beside
them uid 65534 runs processes that ask the server as fast as possible, or as many that never sleep, or one more of
these, in a session of its own as the server is (the kernel shares processors out by session, where it has autogroups).
A flood may take no more than that, since what answers it is one process more. A Markdown table on stdout; exit code 1
if a flood took more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.attacks.clients import HONEST_UID, Program
from tests.attacks.folders import SOURCES, end_orderly, folder
from tests.attacks.processes import within
from tests.attacks.target import Target
from tests.support.mounted import NOBODY
from tests.support.programs import Programs

FLOODS: Final = {
    "open and close": ("files", "opens", "{device}"),
    "poll without end": ("files", "ask", "{device}"),
    "texts without end": ("files", "texts", "{mount}/zoneinfo"),
    "epoll ADD and DEL": ("files", "epoll", "{device}"),
    "lookups": ("files", "lookups", "{mount}"),
    "passed around": ("files", "passing", "{device}"),
    "random owners": ("owners", "random", "{device}"),
    "exec storm": ("owners", "exec", "{device}"),
    "forks": ("owners", "forks", "{device}"),
}
WORKERS: Final = 4
"""Processes of a flood: WORKERS of attack.h. Those of other kinds are fewer."""
ALLOWED: Final = 0.9
"""What others have left may be so much less than beside one ordinary process more: two runs differ by as much."""

Command = list[str | Path]


def main() -> int:
    """Measure the floods that are named, or all, at rest and while a zone is critical."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.cpu", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of floods; default: all")
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    end_orderly()
    failed = False
    print("| flood | server | work of others, as part of that beside as many ordinary processes | beside one more |")
    print("|---|---|---|---|")
    with folder() as built:
        programs = Programs(SOURCES, built)
        for name, command in FLOODS.items():
            if arguments.names and name not in arguments.names:
                continue
            for critical in (False, True):
                with folder() as directory, Target(directory, "--log-level", "info") as target:
                    failed |= not _measure(name, command, target, programs, arguments.seconds, critical=critical)
    return int(failed)


def _measure(
    name: str, command: tuple[str, ...], target: Target, programs: Programs, seconds: float, *, critical: bool
) -> bool:
    program, mode, path = command
    path = path.format(device=target.device, mount=target.mount)
    flood: Command = [programs(program), mode, path, "0"]
    worker = programs("worker")
    spinning: Command = [worker, "spin", str(WORKERS)]
    if critical:
        (target.mount / "simulate").write_text("all 600 critical\n")
    ordinary = _work_beside([spinning], worker, seconds)
    left = _work_beside([flood], worker, seconds) / ordinary
    allowed = _work_beside([spinning, [worker, "spin", "1"]], worker, seconds) / ordinary
    print(f"| {name} | {'critical' if critical else 'at rest'} | {left:.2f} | {allowed:.2f} |", flush=True)
    return left >= allowed * ALLOWED


def _work_beside(beside: Sequence[Command], worker: Path, seconds: float) -> int:
    """What one program for each processor gets done in that time, in all."""
    with ExitStack() as stack:
        for command in beside:
            stack.enter_context(Program(command, uid=NOBODY)).wait_for("ready")
        workers = [Program([worker, "work", str(seconds)], uid=HONEST_UID) for _ in range(os.cpu_count() or 1)]
        try:
            done = within(seconds + 20, lambda: all(each.count("done") for each in workers))
            assert done is not None, "the others did not end"
            return sum(int(each.lines[-1].split()[1]) for each in workers)
        finally:
            for each in workers:
                each.kill()


if __name__ == "__main__":
    sys.exit(main())
