"""What is tried in a guest: who takes memory, who listens, who acts on it, and what comes of it.

Each scenario is one experiment, and returns a row of docs/detection.md.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.stats import summarise
from memnotify_cuse.cli.statusfile import parse_status
from tests.guest.experiment import MIB, RATE_MIB_S, RUN_S, Experiment, Place, Program, Row, wait_until_ready
from tests.guest.listeners import DEVICE, peers
from tests.guest.loads import CACHE_LOADS
from tests.support.reclaim.counters import meminfo_bytes

CACHE_PART: Final = 0.4
"""Of the memory available, what the cache holds; the allocator wants what is left and more than half of the cache."""
WANTED_OF_CACHE: Final = 0.6
BYSTANDER_MS: Final = 50
SMALL_STEP_KB: Final = 3584
SLOW_MS: Final = 100
HOVER_S: Final = 60
HOVER_PART: Final = 0.85
"""Of what the cache leaves, what is taken before the experiment begins."""
HOVER_STEP_KB: Final = 4096
HOVER_MIB_S: Final = 2
STATUS: Final = Path("/run/mem_notify/status")


def sizes() -> tuple[int, int]:
    """MiB of the cache, and of what the allocator wants, for the memory available now."""
    available = meminfo_bytes("MemAvailable") // MIB
    cache = int(available * CACHE_PART)
    return cache, int(available - cache + cache * WANTED_OF_CACHE)


def headline(
    place: Place, workload: str, listener: str, source: Sequence[str] | None, rate_mib_s: int = RATE_MIB_S
) -> Row:
    """Somebody with a cache, who listens to `source` (None: to nothing), beside one who wants more than is left.

    `rate_mib_s` is how fast the other one takes it, 0 for as fast as it can.
    """
    with Experiment(place, workload) as experiment:
        bystander = None
        if listener.startswith("device"):
            bystander = experiment.start("bystander", DEVICE[1], str(BYSTANDER_MS), oom_score_adj=-1000)
            bystander.wait_ready()
        cache, wanted = sizes()
        holder = experiment.hold(cache, source or ("none",))
        holder.wait_ready()
        allocator = experiment.allocate(wanted, rate_mib_s)
        row = experiment.row(
            device=listener.startswith("device"),
            listener=listener,
            told=holder,
            allocator=allocator,
            held=True,
            wanted_mib=wanted,
        )
        row.rate_mib_s = rate_mib_s
        if bystander is not None:
            answers = summarise([int(text) / 1000 for _, text in bystander.log.lines("answer")])
            row.bystander_ms = {"median": answers.median, "p99": answers.p99, "max": answers.maximum}
        return row


def onlookers(place: Place, workload: str, rate_mib_s: int = RATE_MIB_S) -> Row:
    """Everybody listens and nobody gives anything back: who is told when, before the OOM killer strikes."""
    with Experiment(place, workload) as experiment:
        listeners = _listen(experiment)
        cache, wanted = sizes()
        experiment.hold(cache, ("none",)).wait_ready()
        allocator = experiment.allocate(wanted, rate_mib_s)
        row = experiment.row(
            device=True, listener="onlookers", told=listeners["device"], allocator=allocator, held=False
        )
        row.rate_mib_s = rate_mib_s
        row.survived = None
        row.others = _others(experiment, listeners)
        return row


def churn(place: Place, seconds: int, rate_mib_s: int = 8) -> Row:
    """The 2008 patch's first outside tester, on a small machine without swap: a slow client, told again and again."""
    with Experiment(place, "churn") as experiment:
        available = meminfo_bytes("MemAvailable") // MIB
        cache = available // 2
        holder = experiment.hold(cache, DEVICE, step_kb=SMALL_STEP_KB, react_ms=SLOW_MS, refill_mib=cache)
        holder.wait_ready()
        wanted = available - cache * 2 // 3
        allocator = experiment.start("allocate", "churn", str(wanted), str(rate_mib_s), str(seconds))
        deadline = time.monotonic() + seconds + RUN_S
        while allocator.process.poll() is None and experiment.oom_kills == 0 and time.monotonic() < deadline:
            time.sleep(0.5)
        row = experiment.row(
            device=True, listener="device", told=holder, allocator=allocator, held=True, wanted_mib=wanted
        )
        row.seconds = float(seconds)
        return row


def hover(place: Place, seconds: int = HOVER_S) -> Row:
    """A load at the threshold: somebody takes as much as somebody else gives back, a step at each notice."""
    with Experiment(place, "hover") as experiment:
        available = meminfo_bytes("MemAvailable") // MIB
        cache = int(available * CACHE_PART)
        holder = experiment.hold(cache, DEVICE, step_kb=HOVER_STEP_KB)
        holder.wait_ready()
        experiment.hold(int((available - cache) * HOVER_PART), ("none",)).wait_ready()
        taker = experiment.start("allocate", "cold", str(available), str(HOVER_MIB_S))
        deadline = time.monotonic() + RUN_S
        while not holder.log.lines("notice") and taker.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        told, raises, began_s = len(holder.log.lines("notice")), _raises(), time.monotonic()
        time.sleep(seconds)
        row = experiment.row(device=True, listener="device", told=holder, allocator=None, held=True)
        row.seconds = round(time.monotonic() - began_s, 1)
        row.notified, row.raises = row.notified - told, _raises() - raises
        row.false_alarms = 0
        row.rate_mib_s = HOVER_MIB_S
        row.survived = experiment.oom_kills == 0 and holder.process.poll() is None
        return row


def page_cache(place: Place, workload: str = "stream") -> Row:
    """Page cache alone is wanted, more than there is memory: nobody is to be told. See `CACHE_LOADS`."""
    with Experiment(place, workload) as experiment:
        listeners = _listen(experiment)
        CACHE_LOADS[workload](place, meminfo_bytes("MemTotal") // MIB)
        row = experiment.row(device=True, listener="onlookers", told=listeners["device"], allocator=None, held=False)
        row.others = _others(experiment, listeners)
        return row


def _listen(experiment: Experiment) -> dict[str, Program]:
    others = {} if experiment.place.recording else peers()
    listeners = {name: experiment.hold(0, source) for name, source in (("device", DEVICE), *others.items())}
    for listener in listeners.values():
        listener.wait_ready()
    return listeners


def _others(experiment: Experiment, listeners: dict[str, Program]) -> dict[str, dict[str, float | int | None]]:
    return {name: experiment.times(listener) for name, listener in listeners.items() if name != "device"}


def _raises() -> int:
    """How often zones have come under pressure."""
    return sum(int(zone["raised"] or 0) for zone in parse_status(STATUS.read_text()).zones)


@contextmanager
def server(logs: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`memnotify serve` at its default paths, which must end with 0."""
    log = logs / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "memnotify_cuse", "serve", "--log-level", "info", *options],
            stdin=subprocess.DEVNULL,
            stderr=output,
        )
    try:
        wait_until_ready(process, log, lambda text: "ready: " in text)
        yield process
        assert process.poll() is None, f"the server ended with {process.returncode}: {log.read_text()}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0, f"the server ended with {code}: {log.read_text()}"
