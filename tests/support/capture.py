"""Captures what the kernel's counters do while memory is reclaimed: input for the scanner's regression tests.

Each capture is a JSON file `{"scenario", "interval_s", "kernel", "samples": [{"time_ns", "vmstat", "zones"}, ...],
"events": [...]}`: `time_ns` is CLOCK_MONOTONIC, `vmstat` holds the counters of VMSTAT_NAMES, `zones` maps "nodeN-NAME"
to pages by the names of ZonePages. `events` are the vmscan tracepoints over the same time, by the same clock, as
`[time_ns, comm, pid, event, fields]`; long runs of the same event are cut to their first ones (`events_total` has the
full counts).

By hand, as root, from the project's root folder::

    python -m tests.support.capture episode tests/fixtures/traces/episode.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.support.reclaim import GIB, MIB, RealReclaim, ReclaimError, read_vmstat, read_zones

TRACING = Path("/sys/kernel/tracing")
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")

VMSTAT_NAMES = (
    "nr_active_anon",
    "nr_inactive_anon",
    "nr_active_file",
    "nr_inactive_file",
    "pgscan_kswapd",
    "pgscan_direct",
    "pgscan_khugepaged",
    "pgscan_anon",
    "pgscan_file",
    "pgsteal_kswapd",
    "pgsteal_direct",
    "pgsteal_anon",
    "pgsteal_file",
    "pgrefill",
    "pgdeactivate",
    "pgactivate",
    "pswpin",
    "pswpout",
    "workingset_refault_anon",
    "workingset_refault_file",
    "allocstall_normal",
    "allocstall_movable",
    "kswapd_low_wmark_hit_quickly",
    "pageoutrun",
)
EVENTS = (
    "mm_vmscan_kswapd_wake",
    "mm_vmscan_kswapd_sleep",
    "mm_vmscan_direct_reclaim_begin",
    "mm_vmscan_memcg_reclaim_begin",
    "mm_vmscan_lru_shrink_active",
    "mm_vmscan_lru_shrink_inactive",
)
EVENT_LINE = re.compile(r"\s*(.+)-(\d+)\s+\[\d+\] \S+\s+(\d+)\.(\d+): (\w+): (.*)")
EVENTS_KEPT = 20
MAX_SAMPLES = 150


def sample() -> dict[str, Any]:
    """One sample in the format of the capture files."""
    vmstat = read_vmstat()
    swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    zones = {}
    for zone in read_zones():
        if zone.zone != "DMA":
            values = asdict(zone)
            zones[f"node{values.pop('node')}-{values.pop('zone')}"] = values
    return {
        "time_ns": time.monotonic_ns(),
        "vmstat": {name: vmstat[name] for name in VMSTAT_NAMES if name in vmstat},
        "swap_free_kb": sum(int(line.split()[2]) - int(line.split()[3]) for line in swaps),
        "zones": zones,
    }


def _sampler(interval_s: float) -> None:
    """Child: samples until stdin closes, then prints them all."""
    samples = []
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        samples.append(sample())
        due = max(due + interval_s, time.monotonic())
    json.dump(samples, sys.stdout)


@contextlib.contextmanager
def trace_instance(name: str, events: tuple[str, ...], buffer_kb: int = 8192) -> Iterator[Path]:
    """A tracefs instance with these vmscan events on, clock mono; removed afterwards."""
    folder = TRACING / "instances" / name
    folder.mkdir()
    try:
        (folder / "trace_clock").write_text("mono")
        (folder / "buffer_percent").write_text("0")
        (folder / "buffer_size_kb").write_text(str(buffer_kb))
        for event in events:
            (folder / "events/vmscan" / event / "enable").write_text("1")
        yield folder
    finally:
        for event in events:
            with contextlib.suppress(OSError):
                (folder / "events/vmscan" / event / "enable").write_text("0")
        folder.rmdir()  # busy for as long as somebody has its trace_pipe open


def parse_events(text: str) -> list[tuple[int, str, int, str, str]]:
    """Lines of `trace` as (time_ns, comm, pid, event without its prefix, fields)."""
    found = []
    for line in text.splitlines():
        match = EVENT_LINE.match(line)
        if match:
            comm, pid, seconds, fraction, event, fields = match.groups()
            time_ns = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
            found.append((time_ns, comm, int(pid), event.removeprefix("mm_vmscan_"), fields))
    return found


def capture(scenario: str, interval_s: float, act: Callable[[], None]) -> dict[str, Any]:
    """Sample every `interval_s` while `act` runs (and a little before and after it), with the trace events."""
    with trace_instance(f"reclaim-capture-{os.getpid()}", EVENTS) as folder:
        sampler = subprocess.Popen(
            [sys.executable, "-m", "tests.support.capture", "_sample", str(interval_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            time.sleep(0.3)
            act()
            time.sleep(0.1)
        finally:
            samples = sampler.communicate()[0]
        events = parse_events((folder / "trace").read_text())
    return {
        "scenario": scenario,
        "interval_s": interval_s,
        "kernel": platform.release().split("-")[0],
        "samples": json.loads(samples),
        "events": events,
    }


def event_kind(event: tuple[int, str, int, str, str]) -> str:
    """The event's name, with the LRU kind for the shrink events."""
    _, _, _, name, fields = event
    if name.startswith("lru_shrink"):
        return f"{name}:{'anon' if 'RECLAIM_WB_ANON' in fields else 'file'}"
    return name


def summary(result: dict[str, Any]) -> str:
    """What moved, in a few lines."""
    first, last = result["samples"][0], result["samples"][-1]
    moved = {n: last["vmstat"][n] - v for n, v in first["vmstat"].items() if last["vmstat"][n] != v}
    seconds = (last["time_ns"] - first["time_ns"]) / 1e9
    lines = [f"{result['scenario']}: {seconds:.2f} s, {len(result['samples'])} samples"]
    lines.append("  " + " ".join(f"{name}={delta:+d}" for name, delta in moved.items()))
    for (comm, kind), count in sorted(Counter((e[1], event_kind(e)) for e in result["events"]).items()):
        lines.append(f"  {count:7d} {comm} {kind}")
    return "\n".join(lines)


def thinned(result: dict[str, Any]) -> dict[str, Any]:
    """The capture with the first EVENTS_KEPT events of each kind and thread only, and with fewer samples.

    Every sample around the first wake of kswapd (or, without one, the first change of pgscan_anon) is kept, and of
    the rest as many as MAX_SAMPLES allows.
    """
    kept, seen = [], Counter[tuple[str, str]]()
    for event in result["events"]:
        key = (event[1], event_kind(event))
        seen[key] += 1
        if seen[key] <= EVENTS_KEPT:
            kept.append(event)
    totals = {f"{comm} {kind}": count for (comm, kind), count in seen.items()}
    samples = result["samples"]
    scanned = samples[0]["vmstat"]["pgscan_anon"]
    wakes = [event[0] for event in result["events"] if event[3] == "kswapd_wake"]
    wakes += [sample["time_ns"] for sample in samples if sample["vmstat"]["pgscan_anon"] != scanned]
    start_ns = wakes[0] if wakes else samples[0]["time_ns"]
    near = [s for s in samples if -50_000_000 <= s["time_ns"] - start_ns <= 250_000_000]
    rest = [s for s in samples if s not in near]
    every = -(-len(rest) // max(1, MAX_SAMPLES - len(near)))
    fewer = sorted(near + rest[:: every or 1], key=lambda sample: int(sample["time_ns"]))
    return {**result, "samples": fewer, "events": kept, "events_total": totals}


# --------------------------------------------------------------------------- scenarios


def episode(*, hot: bool = False) -> dict[str, Any]:
    """Reclaim of cold (or hot) anonymous memory."""
    sizes = (0, GIB) if hot else (GIB, 0)
    with RealReclaim(cold_bytes=sizes[0], hot_bytes=sizes[1]) as reclaim:
        reclaim.rest()

        def act() -> None:
            reclaim.begin()
            time.sleep(0.3)
            reclaim.end()

        return capture("episode-hot" if hot else "episode", 0.005, act)


def stream(
    name: str,
    cold_bytes: int,
    hot_bytes: int,
    *,
    swap: bool = True,
    file_bytes: int = 4 * GIB,
    passes: int = 2,
    interval_s: float = 0.01,
) -> dict[str, Any]:
    """A file larger than the memory above the watermarks, read again and again."""
    with RealReclaim(cold_bytes=cold_bytes, hot_bytes=hot_bytes, swap=swap) as reclaim:
        reclaim.rest()

        def act() -> None:
            print(f"  {reclaim.stream(file_bytes, passes=passes)}", flush=True)

        return capture(name, interval_s, act)


def fill(
    name: str,
    cold_bytes: int,
    hot_bytes: int,
    *,
    swap: bool = True,
    keep_bytes: int = 5 * GIB,
    margin_bytes: int = GIB // 2,
    file_bytes: int = GIB // 2,
    passes: int = 1,
    grow_bytes: int = 2 * GIB,
) -> dict[str, Any]:
    """A program grows until page cache is reclaimed for it, and then anonymous memory."""
    with RealReclaim(cold_bytes=cold_bytes, hot_bytes=hot_bytes, swap=swap) as reclaim:
        reclaim.rest()

        def act() -> None:
            with reclaim.honest_watermarks(margin_bytes=margin_bytes, keep_bytes=keep_bytes, max_s=30.0) as result:
                reclaim.read_file(file_bytes, passes=passes, keep=True)
                reclaim.fill(grow_bytes)
            print(f"  {result}", flush=True)

        return capture(name, 0.005, act)


def fill_cache(name: str, passes: int) -> dict[str, Any]:
    """The same with much page cache: reclaim shares its work between file and anonymous pages for a while."""
    return fill(
        name,
        GIB // 2,
        0,
        keep_bytes=GIB * 7 // 2,
        margin_bytes=2 * GIB,
        file_bytes=GIB * 3 // 2,
        passes=passes,
        grow_bytes=GIB * 3 // 2,
    )


def cgroup() -> dict[str, Any]:
    """A memory cgroup (v1) that reaches its own limit and swaps, while the machine has plenty."""
    group = MEMORY_CGROUP / f"memnotify-capture-{os.getpid()}"
    group.mkdir()
    child = None
    code = (
        "import mmap, sys, time\n"
        "sys.stdin.readline()\n"
        "m = mmap.mmap(-1, 192 << 20, flags=mmap.MAP_PRIVATE)\n"
        "for n in range(2):\n"
        "    for i in range(0, 192 << 20, 4096): m[i] = 1 + (i >> 12) % 255\n"
        "print('done', flush=True)\n"
    )
    try:
        (group / "memory.limit_in_bytes").write_text(str(96 * MIB))
        with RealReclaim(cold_bytes=0) as reclaim:
            reclaim.rest()
            child = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            (group / "cgroup.procs").write_text(str(child.pid))
            return capture("cgroup", 0.02, lambda: print(f"  {child.communicate('go' + chr(10))[0]!r}"))
    finally:
        if child is not None and child.poll() is None:
            child.kill()
            child.wait()
        group.rmdir()


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    "episode": episode,
    "episode-hot": lambda: episode(hot=True),
    "stream": lambda: stream("stream", 0, 0),
    "stream-hot": lambda: stream("stream-hot", 0, GIB * 3 // 2),
    "stream-cold": lambda: stream("stream-cold", GIB * 3 // 2, 0),
    "stream-swapless": lambda: stream("stream-swapless", GIB, 0, swap=False),
    # A file only a little larger than what fits: its pages are refaulted and activated, the worst case of streaming.
    "stream-thrash": lambda: stream("stream-thrash", GIB * 3 // 2, 0, file_bytes=GIB * 7 // 4, passes=4),
    "fill-swapless": lambda: fill("fill-swapless", GIB // 2, 0, swap=False),
    "fill": lambda: fill("fill", GIB // 2, 0),
    "fill-cache": lambda: fill_cache("fill-cache", passes=1),
    "fill-active-cache": lambda: fill_cache("fill-active-cache", passes=2),
    "fill-hot": lambda: fill("fill-hot", 0, GIB),
    "cgroup": cgroup,
}


def main() -> int:
    """The command line; exit 0 captured, 1 not."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.capture")
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    parser.add_argument("--full", action="store_true", help="keep every sample and event")
    parser.add_argument("file", type=Path, nargs="?", help="where to write the capture; without it only the summary")
    options = parser.parse_args()
    try:
        result = SCENARIOS[options.scenario]()
    except ReclaimError as error:
        print(f"no capture: {error}", file=sys.stderr)
        return 1
    print(summary(result))
    if options.file:
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_text(json.dumps(result if options.full else thinned(result), separators=(",", ":")) + "\n")
        print(f"{options.file}: {options.file.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["_sample"]:
        _sampler(float(sys.argv[2]))
    else:
        sys.exit(main())
