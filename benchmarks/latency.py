"""How long after the kernel's first anonymous page a program is told, by the device and by what else there is."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.processes import Listener, Workshop, listening, progress, real_reclaim
from benchmarks.report import CannotRunError, Part, Table, aim, milliseconds, ratio
from benchmarks.stats import Summary, first_between, summarise
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.trace import LRU_SHRINK_INACTIVE, TraceParser
from memnotify_cuse.kernel.tracefs import TraceInstance, find_tracefs, remove_stale_instances
from tests.support.reclaim import RealReclaim, ReclaimError

TITLE: Final = "Latency: from the kernel's first anonymous page to the return from poll()"
EPISODES: Final = 25
EPISODE_S: Final = 1.0
PAUSE_S: Final = 2.1
"""Longer than the window of the PSI triggers (2 s), which count and hold back events over it: each episode finds
them, too, at rest."""
AIM_MS: Final = 2.0

VMPRESSURE: Final = Path("/sys/fs/cgroup/memory")
# A server takes the instances memnotify-NUMBER for those of other servers, and may remove them.
_INSTANCE: Final = "memnotify-bench-"
CAP_SYS_RESOURCE: Final = 24
LIMIT_EPISODES: Final = 5
PSI_LIMITS: Final = [
    ("PSI, 70 ms in 2 s, seen at once (limit)", ("stall", "70000", "10")),
    ("PSI, 150 ms in 2 s, seen at once (limit)", ("stall", "150000", "10")),
]
PSI_REMARK: Final = (
    "This run was without CAP_SYS_RESOURCE. The kernel then looks at a PSI trigger once in 2 s; with it, every tenth "
    "of the window, 200 ms here. So the best that a trigger could do with it, or with a smaller window, is shown as "
    "well: the moment at which the stall time has grown by so much, looked at every 10 ms, in "
    f"{LIMIT_EPISODES} more episodes, because reading /proc/pressure/memory so often keeps the kernel from looking at "
    "such triggers at all."
)
WHY_NOT_SOONER: Final = (
    "Why not sooner: the program that is told is an ordinary process, and while kswapd is at work it has to get a CPU "
    "twice, to ask again after the notification and to take the answer; the server, if it is ordinary too, has to get "
    "one before each. On a kernel without preemption, or with fewer CPUs than programs that want one, each of these "
    "takes up to some milliseconds; where a CPU is free at once, all of it takes about one. The reader of /proc/vmstat "
    "waits for a CPU once, and for half its period on average. Its price is 200 wake-ups in a second at rest, and "
    "false alarms."
)
_OURS: Final = "/dev/mem_notify, poll()"

HOW: Final = [
    f"{EPISODES} episodes of real reclaim, each from rest: the watermarks are raised to where free memory is, kswapd "
    f"wakes and swaps 1 GiB of cold memory out to zram, and after {EPISODE_S:.0f} s the watermarks are put back; "
    f"then comes a pause of more than {PAUSE_S:.0f} s, so that every way of listening is at rest again. Time 0 is the "
    "kernel's first mm_vmscan_lru_shrink_inactive event of anonymous pages, taken from a trace instance apart from "
    "the server's; the end is the return from poll() in a C program, on the same clock. All ways listen at the same "
    "time, each in a program of its own. Only the first return in each episode counts; a negative time would be one "
    "before that event.",
    "The last column is the check for silence: a sparse file of 4 GiB is read twice while page cache alone has to be "
    "reclaimed for it. Whoever is told then is told in vain.",
]


@dataclass(slots=True)
class _Way:
    """One way to be told, and what came of it."""

    label: str
    listener: Listener
    episodes: int = 0
    latencies_ns: list[int] = field(default_factory=list)
    false_alarms: int | None = None


@dataclass(slots=True)
class _Episode:
    """The kernel's first event, and when each way was heard (None: not)."""

    event_ns: int
    heard_ns: list[int | None]
    looked_ns: int | None


def measure(workshop: Workshop) -> Part:
    """The part of the report; CannotRunError when this machine cannot be made to reclaim, or traced."""
    listen = workshop.program("listen")
    with ExitStack() as stack:
        # First of all: while somebody else makes real reclaim, no trace instance can be had (ENOMEM).
        reclaim = stack.enter_context(real_reclaim())
        server = stack.enter_context(workshop.server())
        instance = stack.enter_context(_trace_instance())
        part = Part(TITLE, list(HOW))
        wakeup = re.search(r"wakeup=(\S+)", (server.mount / "server").read_text())
        # It is held only while it is needed.
        priority = (
            "ordinary" if "real-time priority" in server.log else "real-time while the kernel reclaims, else ordinary"
        )
        part.remarks.append(f"The server: woken by {wakeup[1] if wakeup else 'unknown'}, {priority} priority.")
        try:
            with ExitStack() as listeners:
                ways = list(_open_ways(listeners, listen, _wanted(server.device), part))
                episodes = [_episode(reclaim, instance, ways, number) for number in range(EPISODES)]
                _stream(reclaim, ways)
            if not _may_use_fast_psi():
                part.remarks.append(PSI_REMARK)
                with ExitStack() as listeners:
                    limits = list(_open_ways(listeners, listen, PSI_LIMITS, part))
                    for number in range(LIMIT_EPISODES):
                        _episode(reclaim, instance, limits, number)
                ways += limits
        except ReclaimError as error:
            raise CannotRunError(f"real reclaim failed: {error}") from None
    _report(part, ways, episodes)
    return part


@contextmanager
def _trace_instance() -> Iterator[TraceInstance]:
    tracefs = find_tracefs()
    if tracefs is None:
        raise CannotRunError("tracefs is not mounted, or not for us to see")
    try:
        remove_stale_instances(tracefs, _INSTANCE)
        with TraceInstance.create(tracefs, f"{_INSTANCE}{os.getpid()}") as instance:
            # Its buffer is emptied after each episode, and what must not be lost is the first event.
            (instance.path / "trace_options").write_text("nooverwrite")
            yield instance
    except KernelFileError as error:
        raise CannotRunError(str(error)) from None


def _wanted(device: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Each way's label, and what `listen` is asked for; ours is the first."""
    return [
        (_OURS, ("poll", str(device))),
        ("/proc/vmstat, read every 5 ms", ("proc", "5")),
        ("cgroup v1 pressure_level, low", ("vmpressure", str(VMPRESSURE), "low")),
        ("PSI trigger, 70 ms in 2 s", ("psi", "70000", "2000000")),
        ("PSI trigger, 150 ms in 2 s", ("psi", "150000", "2000000")),
    ]


def _open_ways(
    stack: ExitStack, listen: Path, wanted: Sequence[tuple[str, tuple[str, ...]]], part: Part
) -> Iterator[_Way]:
    for label, arguments in wanted:
        if arguments[0] == "vmpressure" and not (VMPRESSURE / "memory.pressure_level").exists():
            part.remarks.append(f"Not measured: {label}: this machine has no cgroup v1 memory controller.")
            continue
        try:
            yield _Way(label, stack.enter_context(listening(listen, *arguments)))
        except CannotRunError as error:
            if label == _OURS:
                raise
            part.remarks.append(f"Not measured: {label}: {error}.")


def _may_use_fast_psi() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> CAP_SYS_RESOURCE & 1)


def _episode(reclaim: RealReclaim, instance: TraceInstance, ways: list[_Way], number: int) -> _Episode:
    reclaim.rest()
    _read_trace(instance)
    running = reclaim.begin(max_s=EPISODE_S + 1.0)
    time.sleep(EPISODE_S)
    reclaim.end()
    event_ns = _first_anon_event_ns(_read_trace(instance), running.begin_ns)
    reclaim.rest()  # it makes programs stall, too
    time.sleep(PAUSE_S)
    until_ns = time.monotonic_ns()
    heard = [first_between(way.listener.times_ns(), running.begin_ns, until_ns) for way in ways]
    looked = [line[1] for line in ways[0].listener.lines() if line[0] == heard[0] and len(line) > 1]
    for way, heard_ns in zip(ways, heard, strict=True):
        way.episodes += 1
        if heard_ns is not None:
            way.latencies_ns.append(heard_ns - event_ns)
    progress(f"{ways[0].label}, and others: episode {number + 1}")
    return _Episode(event_ns, heard, looked[0] if looked else None)


def _read_trace(instance: TraceInstance) -> bytes:
    pieces = []
    while piece := instance.pipe.read():
        pieces.append(piece)
    return b"".join(pieces)


def _first_anon_event_ns(trace: bytes, begin_ns: int) -> int:
    """The first scan of anonymous pages; the trace's times are whole microseconds, and are rounded down."""
    found = [
        event.time_ns
        for event in TraceParser().feed(trace)
        if event.name == LRU_SHRINK_INACTIVE and event.anon and event.scanned_pages and event.time_ns is not None
    ]
    first_ns = first_between(found, begin_ns - 1000, sys.maxsize)
    if first_ns is None:
        raise CannotRunError("the trace shows no reclaim of anonymous pages in an episode")
    return first_ns


def _stream(reclaim: RealReclaim, ways: list[_Way]) -> None:
    progress("reading a file")
    result = reclaim.stream()
    for way in ways:
        way.false_alarms = sum(result.begin_ns <= each < result.end_ns for each in way.listener.times_ns())


def _report(part: Part, ways: list[_Way], episodes: list[_Episode]) -> None:
    ours = ways[0]
    if not ours.latencies_ns:
        raise CannotRunError("the device told of none of the episodes")
    our_summary = summarise(ours.latencies_ns)
    rows = [_row(way, our_summary) for way in ways]
    headers = ("told by", "heard", "min ms", "median ms", "p99 ms", "max ms", "median, ours = 1", "in vain")
    part.tables.append(Table(headers, rows))
    first = sum(_ours_was_first(episode) for episode in episodes)
    looked = [each.looked_ns - each.event_ns for each in episodes if each.looked_ns]
    told = [each.heard_ns[0] - each.looked_ns for each in episodes if each.looked_ns and each.heard_ns[0]]
    if looked and told:
        part.remarks.append(
            f"Where the device's time goes (medians): {milliseconds(summarise(looked).median)} ms from the event until "
            f"the server looks at the kernel's counters, {milliseconds(summarise(told).median)} ms for reading them, "
            "deciding, the notification, and the poll() that brings the answer."
        )
    part.remarks.append(f"The device was the first of all in {first} of {len(episodes)} episodes.")
    others = [summarise(way.latencies_ns).median for way in ways[1:] if way.latencies_ns]
    ahead = all(our_summary.median < other for other in others)
    part.remarks.append(aim(f"a median below {AIM_MS:.0f} ms", our_summary.median < AIM_MS * 1e6))
    part.remarks.append(aim("a median ahead of all others", ahead))
    if not ahead or our_summary.median >= AIM_MS * 1e6:
        part.remarks.append(WHY_NOT_SOONER)
    part.remarks.append(aim("every episode heard", len(ours.latencies_ns) == len(episodes)))
    part.remarks.append(aim("silence while a file is read", ours.false_alarms == 0))


def _row(way: _Way, ours: Summary) -> tuple[str, ...]:
    heard = f"{len(way.latencies_ns)} of {way.episodes}"
    in_vain = "-" if way.false_alarms is None else str(way.false_alarms)
    if not way.latencies_ns:
        return (way.label, heard, *["-"] * 5, in_vain)
    summary = summarise(way.latencies_ns)
    figures = (summary.minimum, summary.median, summary.p99, summary.maximum)
    return (way.label, heard, *map(milliseconds, figures), ratio(summary.median, ours.median), in_vain)


def _ours_was_first(episode: _Episode) -> bool:
    ours, *others = episode.heard_ns
    return ours is not None and all(other is None or ours < other for other in others)
