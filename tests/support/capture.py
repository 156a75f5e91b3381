"""Captures what the kernel's counters do while memory is reclaimed: input for the scanner's regression tests.

Each capture is a recording (docs/recording.md) with a sample every few milliseconds, which is oftener than `memnotify
record` looks, and without trace events. In their place `marks` say when kswapd woke first (`kswapd_wake_ns`) and when
it first scanned anonymous pages (`first_anon_scan_ns`), as far as it did, by the vmscan events over the same time.

By hand, as root, from the project's root folder::

    python -m tests.support.capture episode tests/fixtures/traces/episode.jsonl.gz
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from memnotify_cuse.kernel.lru_gen import read_lru_gen
from memnotify_cuse.kernel.trace import KNOWN_EVENTS, KSWAPD_WAKE, LRU_SHRINK_INACTIVE, TraceEvent, parse_trace
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.recording import Header
from memnotify_cuse.scanner.recordingfile import Recording, RecordingWriter
from memnotify_cuse.scanner.sample import Sample, Sampler
from tests.support.reclaim import GIB, MIB, RealReclaim, ReclaimError

TRACING = Path("/sys/kernel/tracing")
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")

MAX_SAMPLES = 150


@dataclass(frozen=True)
class Captured:
    """One scenario: its recording to be, and the trace events over the same time."""

    header: Header
    samples: list[Sample]
    events: list[TraceEvent]


def _sampler(interval_s: float, path: Path) -> None:
    """Child: writes samples to `path` until stdin closes; says so when it begins."""
    sampler = Sampler()
    machine = Machine(mglru=bool(read_lru_gen()), page_kb=os.sysconf("SC_PAGE_SIZE") // 1024)
    with RecordingWriter(path, Header(machine)) as writer:
        print("sampling", flush=True)
        due = time.monotonic()
        while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            writer.write(sampler.sample())
            due = max(due + interval_s, time.monotonic())


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


def capture(scenario: str, interval_s: float, act: Callable[[], None]) -> Captured:
    """Sample every `interval_s` while `act` runs (and a little before and after it), with the trace events."""
    with (
        tempfile.TemporaryDirectory() as directory,
        trace_instance(f"reclaim-capture-{os.getpid()}", KNOWN_EVENTS) as folder,
    ):
        path = Path(directory, "samples")
        sampler = subprocess.Popen(
            [sys.executable, "-m", "tests.support.capture", "_sample", str(interval_s), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert sampler.stdout is not None
            sampler.stdout.readline()
            time.sleep(0.3)
            act()
            time.sleep(0.1)
        finally:
            sampler.communicate()
        events, _ = parse_trace((folder / "trace").read_bytes())
        recording = Recording(path)
        header = replace(
            recording.header, kernel=platform.release().split("-")[0], title=scenario, marks=marks_of(events)
        )
        return Captured(header, list(recording.samples()), events)


def marks_of(events: list[TraceEvent]) -> dict[str, int]:
    """When kswapd first woke, and first scanned anonymous pages; without what it did not do."""
    kswapd = [event for event in events if event.kswapd and event.time_ns is not None]
    wakes = [event for event in kswapd if event.name == KSWAPD_WAKE]
    scans = [event for event in kswapd if event.name == LRU_SHRINK_INACTIVE and event.anon and event.scanned_pages]
    found = {"kswapd_wake_ns": wakes, "first_anon_scan_ns": scans}
    return {name: each[0].time_ns for name, each in found.items() if each and each[0].time_ns is not None}


def summary(captured: Captured) -> str:
    """What moved, in a few lines."""
    first, last = captured.samples[0], captured.samples[-1]
    seconds = (last.time_ns - first.time_ns) / 1e9
    lines = [f"{captured.header.title}: {seconds:.2f} s, {len(captured.samples)} samples"]
    before, after = asdict(first.vmstat), asdict(last.vmstat)
    moved = {name: after[name] - before[name] for name in before if after[name] != before[name]}
    lines.append("  " + " ".join(f"{name}={delta:+d}" for name, delta in moved.items()))
    kinds = Counter((event.comm, event.name, "anon" if event.anon else "file") for event in captured.events)
    lines += [f"  {count:7d} {' '.join(kind)}" for kind, count in sorted(kinds.items())]
    return "\n".join(lines)


def thinned(captured: Captured) -> Captured:
    """The capture with fewer samples.

    Every sample around the first wake of kswapd (or, without one, the first change of pgscan_anon) is kept, and of
    the rest as many as MAX_SAMPLES allows.
    """
    samples = captured.samples
    scanned = samples[0].vmstat.pgscan_anon
    changed_ns = [each.time_ns for each in samples if each.vmstat.pgscan_anon != scanned]
    start_ns = captured.header.marks.get("kswapd_wake_ns", changed_ns[0] if changed_ns else samples[0].time_ns)
    near = [each for each in samples if -50_000_000 <= each.time_ns - start_ns <= 250_000_000]
    rest = [each for each in samples if each not in near]
    every = -(-len(rest) // max(1, MAX_SAMPLES - len(near)))
    return replace(captured, samples=sorted(near + rest[:: every or 1], key=lambda each: each.time_ns))


def save(captured: Captured, path: Path) -> None:
    """Write the recording; one that was there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with RecordingWriter(path, captured.header, replace=True) as writer:
        for each in captured.samples:
            writer.write(each)


# --------------------------------------------------------------------------- scenarios


def episode(*, hot: bool = False) -> Captured:
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
) -> Captured:
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
) -> Captured:
    """A program grows until page cache is reclaimed for it, and then anonymous memory."""
    with RealReclaim(cold_bytes=cold_bytes, hot_bytes=hot_bytes, swap=swap) as reclaim:
        reclaim.rest()

        def act() -> None:
            with reclaim.honest_watermarks(margin_bytes=margin_bytes, keep_bytes=keep_bytes, max_s=30.0) as result:
                reclaim.read_file(file_bytes, passes=passes, keep=True)
                reclaim.fill(grow_bytes)
            print(f"  {result}", flush=True)

        return capture(name, 0.005, act)


def fill_cache(name: str, passes: int) -> Captured:
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


def cgroup() -> Captured:
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


SCENARIOS: dict[str, Callable[[], Captured]] = {
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
    parser.add_argument("--full", action="store_true", help="keep every sample")
    parser.add_argument("file", type=Path, nargs="?", help="where to write the capture; without it only the summary")
    options = parser.parse_args()
    try:
        result = SCENARIOS[options.scenario]()
    except ReclaimError as error:
        print(f"no capture: {error}", file=sys.stderr)
        return 1
    print(summary(result))
    if options.file:
        save(result if options.full else thinned(result), options.file)
        print(f"{options.file}: {options.file.stat().st_size / 1024:.1f} KiB")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["_sample"]:
        _sampler(float(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(main())
