"""The fuzzer from the command line: `python -m tests.fuzz`, which is `make fuzz`.

Prints one table and exits with 1 if there was a finding.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from tests.fuzz.findings import Outcome, merged, table
from tests.fuzz.frames import fuzz_frames
from tests.fuzz.syscalls import PROCESSES, fuzz_syscalls
from tests.fuzz.texts import fuzz_texts
from tests.support.programs import compiler_problem
from tests.support.server import mount_problem


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz the server, its codec and its parsers."
    )
    made.add_argument("--seconds", type=float, default=300.0, help="of system calls; 0: none (default %(default)s)")
    made.add_argument("--frames", type=int, default=1_000_000, help="mutated frames (default %(default)s)")
    made.add_argument("--texts", type=int, default=200_000, help="mutated kernel files (default %(default)s)")
    made.add_argument("--seed", type=int, default=None, help="run the same again (default: of the clock)")
    made.add_argument("--processes", type=int, default=PROCESSES, help="that make system calls (default %(default)s)")
    made.add_argument("--jobs", type=int, default=2, help="for frames and kernel files (default %(default)s)")
    return made


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    seed = int(time.time()) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    outcomes: list[Outcome] = []
    problem = mount_problem() or compiler_problem()
    if options.seconds and problem:
        print(f"no system calls: {problem}")
    elif options.seconds:
        print(f"fuzz_syscalls: {options.seconds:.0f} s", flush=True)
        outcomes.append(fuzz_syscalls(options.seconds, seed, options.processes))
    for count, fuzz in ((options.frames, fuzz_frames), (options.texts, fuzz_texts)):
        if count:
            print(f"{fuzz.__name__}: {count:,}", flush=True)
            outcomes.append(_in_parallel(fuzz, count, seed, options.jobs))
    print(table(outcomes))
    return 1 if any(each.findings.counts for each in outcomes) else 0


def _in_parallel(fuzz: Callable[[int, int], Outcome], count: int, seed: int, jobs: int) -> Outcome:
    """`count` in all, each job with a seed of its own: `seed`, `seed` + 1, and so on."""
    counts = [count // jobs + (number < count % jobs) for number in range(jobs)]
    start_s = time.monotonic()
    if jobs == 1:
        return fuzz(count, seed)
    with ProcessPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(fuzz, counts, range(seed, seed + jobs)))
    return merged(outcomes, time.monotonic() - start_s)


if __name__ == "__main__":
    sys.exit(main())
