"""How soon a program is told that its memory cgroup is at its limit, and what looking at many cgroups costs.

    python -m benchmarks.cgroup_latency [latency|many]...

Needs root and a memory controller of cgroup v1, which pressure_level and failcnt are of; takes about ten minutes.
Everything that is made is removed, also on Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import machine
from benchmarks.processes import Listener, Workshop, answering_pid, listening, progress, real_reclaim, running
from benchmarks.processes import wait_until as wait_for
from benchmarks.report import CannotRunError, Part, Table, milliseconds
from benchmarks.running import Measure, end_on_signals, run_part
from benchmarks.stats import first_between, summarise
from tests.fuzz.processes import held_by
from tests.support.cgroups import MIB, Cgroup, cgroup_problem, new_cgroup
from tests.support.server import Server

LATENCY_TITLE: Final = "Cgroup latency: from the first page swapped out to the return from poll()"
MANY_TITLE: Final = "Many cgroups: at rest, and while they come and go"

EPISODES: Final = 20
RATES: Final = (24, 200, 0)
"""MiB/s; 0: as fast as it can."""
LIMIT_MIB: Final = 256
AT_ONCE_MIB: Final = 180
MORE_MIB: Final = 110
"""Together 34 MiB more than the limit."""
PAUSE_S: Final = 3.5
"""Longer than a rate is remembered, and than a program that was told is left alone."""
BEFORE_S: Final = 0.5
AFTER_S: Final = 0.5
"""What is told late is told by then."""
TAKE_LIMIT_S: Final = 60.0
PRIORITY: Final = "1000"
"""Of the program that takes memory: where there is no swap it is the one to be killed."""
_OURS: Final = "/dev/mem_notify, poll()"

CGROUPS: Final = 1000
REST_S: Final = 20.0
SETTLE_S: Final = 3.0
PER_S: Final = 100
CHURN_S: Final = 60.0

LATENCY_HOW: Final = (
    f"{EPISODES} episodes at each rate. A cgroup of {LIMIT_MIB} MiB has {AT_ONCE_MIB} MiB of one program, which then "
    f"takes {MORE_MIB} MiB more. Time 0 is when that program sees the cgroup's first page in swap (memory.stat, read "
    "after each 32 KiB); the end is the return from poll() in a program in the same cgroup, on the same clock. A "
    "negative time is one before that page. All ways listen at the same time, each in a program of its own, and only "
    "the first return in an episode counts."
)
NO_SWAP: Final = (
    "There is no swap here: time 0 is the first change of memory.failcnt, which is read every millisecond, and the "
    "program that takes memory is killed when it has more than the limit."
)
MANY_HOW: Final = (
    f"{CGROUPS} cgroups with a limit, and a program asleep in poll() in each. CPU time is that of the process that "
    f"answers, over {REST_S:.0f} s in which nothing happens. Then {PER_S} cgroups are made, listened in and removed in "
    f"each of {CHURN_S:.0f} s. Descriptors and memory (PSS) are those of all processes of the server."
)


@dataclass(slots=True)
class _Way:
    label: str
    listener: Listener
    latencies_ns: list[int] = field(default_factory=list)


def measure_latency(workshop: Workshop) -> Part:
    """The table of latencies; CannotRunError where they cannot be measured."""
    part = Part(LATENCY_TITLE, [LATENCY_HOW])
    with ExitStack() as stack:
        has_swap = _has_swap(stack)
        if not has_swap:
            part.how.append(NO_SWAP)
        server = stack.enter_context(workshop.server())
        rows = [row for rate in RATES for row in _at_rate(workshop, server, rate, has_swap)]
    part.tables.append(Table(("MiB/s, told by", "heard", "median ms", "worst ms", "earliest ms"), rows))
    return part


def _has_swap(stack: ExitStack) -> bool:
    """Whether there is swap; a zram device is added for it where that can be done."""
    try:
        stack.enter_context(real_reclaim(cold_bytes=0))
    except CannotRunError:
        return len(Path("/proc/swaps").read_text().splitlines()) > 1
    return True


def _at_rate(workshop: Workshop, server: Server, rate: int, has_swap: bool) -> Iterator[tuple[str, ...]]:
    with _v1_cgroup() as cgroup, ExitStack() as stack:
        cgroup.limit(LIMIT_MIB * MIB)
        if has_swap:
            _allow_swap(cgroup)
        listen, watch = workshop.program("listen"), workshop.program("cgroup_watch")
        inside = cgroup.command(listen, "poll", server.device)
        stat, failures = cgroup.directory / "memory.stat", cgroup.directory / "memory.failcnt"
        ways = [
            _Way(_OURS, stack.enter_context(listening(Path(inside[0]), *inside[1:]))),
            _Way(
                "memory.pressure_level, low",
                stack.enter_context(listening(listen, "vmpressure", str(cgroup.directory), "low")),
            ),
            _Way("memory.stat, read every 5 ms", stack.enter_context(listening(watch, str(stat), "total_swap", "5"))),
        ]
        first_failure = stack.enter_context(listening(watch, str(failures), "-", "1"))
        take = workshop.program("cgroup_take")
        for number in range(EPISODES):
            progress(f"{_speed(rate)}: episode {number + 1}")
            begin_ns = time.monotonic_ns()
            swapped_ns = _episode(cgroup, take, rate)
            zero_ns = swapped_ns if has_swap else first_between(first_failure.times_ns(), begin_ns, sys.maxsize)
            if zero_ns is None:
                raise CannotRunError(f"the cgroup did not come to its limit at {_speed(rate)}")
            until_ns = time.monotonic_ns()
            for way in ways:
                heard_ns = first_between(way.listener.times_ns(), begin_ns, until_ns)
                if heard_ns is not None:
                    way.latencies_ns.append(heard_ns - zero_ns)
            time.sleep(PAUSE_S)
        for way in ways:
            yield _row(f"{_speed(rate)}: {way.label}", way.latencies_ns)


def _episode(cgroup: Cgroup, take: Path, rate: int) -> int | None:
    """Take memory to over the limit, and give it back; when the first page was swapped out, None if none was."""
    command = cgroup.command(take, cgroup.directory, AT_ONCE_MIB, MORE_MIB, rate)
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        Path(f"/proc/{process.pid}/oom_score_adj").write_text(PRIORITY)
        if process.stdout.readline() != b"ready\n":
            raise CannotRunError("the program that takes memory was killed before it began")
        # With so much left it is not looked at closely yet, and the first part is no part of the rate.
        time.sleep(BEFORE_S)
        process.stdin.write(b"\n")
        process.stdin.flush()
        said = [process.stdout.readline()]
        if said[0] not in (b"full\n", b""):
            said.append(process.stdout.readline())
        time.sleep(AFTER_S)
    return int(said[0]) if said[0].strip().isdigit() else None


@contextmanager
def _v1_cgroup() -> Iterator[Cgroup]:
    problem = cgroup_problem()
    if problem is not None:
        raise CannotRunError(problem)
    with new_cgroup() as cgroup:
        if cgroup.unified:
            raise CannotRunError("the memory controller is cgroup v2's here, which has no memory.pressure_level")
        yield cgroup


def _allow_swap(cgroup: Cgroup) -> None:
    both = cgroup.directory / "memory.memsw.limit_in_bytes"
    if both.exists():
        both.write_text("-1")


def _speed(rate: int) -> str:
    return str(rate) if rate else "full speed"


def _row(label: str, latencies_ns: list[int]) -> tuple[str, ...]:
    heard = f"{len(latencies_ns)} of {EPISODES}"
    if not latencies_ns:
        return (label, heard, "-", "-", "-")
    found = summarise(latencies_ns)
    return (label, heard, *(milliseconds(each) for each in (found.median, found.maximum, found.minimum)))


def measure_many(workshop: Workshop) -> Part:
    """The table of what many cgroups cost."""
    part = Part(MANY_TITLE, [MANY_HOW])
    wait = workshop.program("cgroup_wait")
    with _v1_cgroup() as cgroup, workshop.server() as server:
        time.sleep(SETTLE_S)
        rows = [_at_rest("none listened in", server)]
        with _listened_in(cgroup, wait, server, "rest", CGROUPS):
            wait_for(lambda: _listed(server) == CGROUPS, f"{CGROUPS} cgroups in MOUNT/cgroups")
            time.sleep(SETTLE_S)
            rows.append(_at_rest(f"{CGROUPS} with a listener each", server))
        wait_for(lambda: _listed(server) == 0, "no cgroup in MOUNT/cgroups")
        time.sleep(SETTLE_S)
        rows.append(_at_rest("none any more", server))
        made, seconds, busy_s = _come_and_go(cgroup, wait, server)
        wait_for(lambda: _listed(server) == 0, "no cgroup in MOUNT/cgroups")
        time.sleep(SETTLE_S)
        rows.append(_at_rest(f"after {made} made and removed", server))
    part.tables.append(Table(("cgroups", "CPU %", "switches/s", "descriptors", "PSS KiB"), rows))
    part.remarks.append(
        f"{made} were made and removed in {seconds:.0f} s, {made / seconds:.0f} in a second; "
        f"the server used {100 * busy_s / seconds:.1f} % of a CPU meanwhile."
    )
    return part


@contextmanager
def _listened_in(cgroup: Cgroup, wait: Path, server: Server, name: str, count: int) -> Iterator[None]:
    """So many cgroups below `cgroup`, each with a program that waits in it."""
    folders = [cgroup.directory / f"{name}-{number}" for number in range(count)]
    try:
        for folder in folders:
            folder.mkdir()
            (folder / "memory.limit_in_bytes").write_text(str(LIMIT_MIB * MIB))
        with running([str(wait), str(server.device)], stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("".join(f"{folder}\n" for folder in folders).encode() + b"\n")
            process.stdin.flush()
            if process.stdout.readline() != b"ready\n":
                raise CannotRunError(f"{count} programs cannot be started in cgroups")
            yield
            process.stdin.close()
            process.wait(TAKE_LIMIT_S)
    finally:
        for folder in folders:
            if folder.exists():
                wait_for(lambda each=folder: _is_removed(each), f"{folder} is removed")  # type: ignore[misc]


def _come_and_go(cgroup: Cgroup, wait: Path, server: Server) -> tuple[int, float, float]:
    """How many came and went, in how many seconds, and how much of them the server was busy."""
    began_s, busy_s = time.monotonic(), _cpu_s(server)
    made = 0
    while (passed_s := time.monotonic() - began_s) < CHURN_S:
        progress(f"{made} made and removed")
        with _listened_in(cgroup, wait, server, str(made), PER_S):
            made += PER_S
        time.sleep(max(0.0, made / PER_S - (time.monotonic() - began_s)))
    return made, max(passed_s, time.monotonic() - began_s), _cpu_s(server) - busy_s


def _is_removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return not folder.exists()
    return True


def _listed(server: Server) -> int:
    return (server.mount / "cgroups").read_text().count("\n")


def _at_rest(label: str, server: Server) -> tuple[str, ...]:
    progress(f"{label}: at rest")
    began_s, cpu_s, switches = time.monotonic(), _cpu_s(server), _switches(server)
    time.sleep(REST_S)
    seconds = time.monotonic() - began_s
    held = held_by(server.process.pid)
    return (
        label,
        f"{100 * (_cpu_s(server) - cpu_s) / seconds:.2f}",
        f"{(_switches(server) - switches) / seconds:.1f}",
        str(held.descriptors),
        str(held.pss_kb),
    )


def _cpu_s(server: Server) -> float:
    """CPU time of all threads of the process that answers, by the scheduler."""
    tasks = Path(f"/proc/{answering_pid(server)}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def _switches(server: Server) -> int:
    text = Path(f"/proc/{answering_pid(server)}/status").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if "ctxt_switches" in line)


PARTS: Final[dict[str, tuple[str, Callable[[Workshop], Part]]]] = {
    "latency": (LATENCY_TITLE, measure_latency),
    "many": (MANY_TITLE, measure_many),
}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when at least one part ran, 1 when none could, 2 for wrong use, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cgroup_latency", description="Measure cgroups.")
    parser.add_argument("part", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.part if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]}; there are {', '.join(PARTS)}")
    end_on_signals()
    print("\n".join(f"{name}: {value}" for name, value in machine.facts()), flush=True)
    ran = 0
    try:
        for name in options.part or PARTS:
            ran += _run(*PARTS[name])
    except KeyboardInterrupt:
        print("\nbenchmarks: interrupted; what was made is removed", file=sys.stderr)
        return 130
    return int(not ran)


def _run(title: str, measure: Measure) -> bool:
    """Print one part; whether it could be measured."""
    text, part = run_part(title, measure)
    print(f"\n{text}", flush=True)
    return part.not_run is None


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    sys.exit(main())
