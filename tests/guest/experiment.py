"""One experiment in a guest whose memory really runs out: who is told, when, and who survives.

Programs (programs/): `allocate` takes more memory than there is, `hold` has a cache and listens, `watch` writes down
what the kernel does, `bystander` asks the device all the time. Each writes its lines to a file of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from memnotify_cuse.kernel.lru_gen import read_lru_gen

MIB: Final = 1 << 20
READY_S: Final = 120.0
RUN_S: Final = 180.0
"""An allocator that has not ended by then is stopped: the machine lives, but nobody gets anything done."""

CACHE_PART: Final = 0.4
"""Of the memory available, what the cache holds; the allocator wants what is left and more than half of the cache."""
WANTED_OF_CACHE: Final = 0.6
RATE_MIB_S: Final = 24
STEP_KB: Final = 16 * 1024
REACT_MS: Final = 20
WATCH_MS: Final = 10
BYSTANDER_MS: Final = 50
STREAM_TIMES_MEMORY: Final = 3

DEVICE: Final = ("device", "/dev/mem_notify")
BUS: Final = Path("/run/memnotify-bus")
BUS_CONFIG: Final = f"""\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={BUS}</listen>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
"""
CGROUP_V1: Final = Path("/run/cgroup-v1-memory")


@dataclass(frozen=True)
class Place:
    """What the guest was booted with: the compiled programs, a disk to read from, the kind of swap."""

    programs: Path
    disk: Path
    swap: str
    logs: Path
    results: Path


@dataclass
class Row:
    """What one experiment came to: a row of docs/detection.md.

    `first_notice_ms` counts from the kernel's first anonymous reclaim (negative: before it), `lead_ms` from the first
    notice to the first OOM kill; None where there was no such thing.
    """

    kernel: str
    swap: str
    lru: str
    workload: str
    device: str
    listener: str
    notified: int
    first_notice_ms: float | None
    lead_ms: float | None
    oom_kills: int
    survived: bool | None
    false_alarms: int
    allocated_mib: int = 0
    wanted_mib: int = 0
    rate_mib_s: int = RATE_MIB_S
    bystander_ms: dict[str, float] = field(default_factory=dict)
    others: dict[str, dict[str, float | int | None]] = field(default_factory=dict)


class Log:
    """The lines of one program: time, word, rest."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, word: str) -> list[tuple[int, str]]:
        found = []
        for line in self.path.read_text(errors="replace").splitlines():
            time_ns, _, rest = line.partition(" ")
            name, _, text = rest.partition(" ")
            if name == word:
                found.append((int(time_ns), text))
        return found


@dataclass
class Program:
    """A running program and its log."""

    process: subprocess.Popen[bytes]
    log: Log

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while not self.log.lines("ready"):
            assert self.process.poll() is None, f"{self.log.path.name} ended: {self.log.path.read_text()}"
            assert time.monotonic() < deadline, f"{self.log.path.name} is not ready"
            time.sleep(0.1)


def lru() -> str:
    return "mglru" if read_lru_gen() else "classic"


def vmstat(name: str) -> int:
    for line in Path("/proc/vmstat").read_text().splitlines():
        key, value = line.split()
        if key == name:
            return int(value)
    raise KeyError(name)


def meminfo_kb(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, value = line.split()[:2]
        if key == f"{name}:":
            return int(value)
    raise KeyError(name)


def calm_down() -> None:
    """Give the machine its memory back: no page cache, nothing in swap, and kswapd asleep."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    with contextlib.suppress(subprocess.CalledProcessError):
        swaps = [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]
        for swap in swaps:
            subprocess.run(["swapoff", swap], check=True)
            subprocess.run(["swapon", swap], check=True)
    quiet, last, deadline = 0, -1, time.monotonic() + 30
    while quiet < 5 and time.monotonic() < deadline:
        scanned = vmstat("pgscan_kswapd") + vmstat("pgscan_direct")
        quiet = quiet + 1 if scanned == last else 0
        last = scanned
        time.sleep(0.1)


class Experiment:
    """Runs programs beside each other; `row` says what came of it."""

    def __init__(self, place: Place, workload: str) -> None:
        self.place = place
        self.workload = workload
        self._stack = ExitStack()
        self._number = 0

    def __enter__(self) -> Experiment:
        # Whoever is to be killed, it is not the one who writes it down; `start` sets its programs back.
        Path("/proc/self/oom_score_adj").write_text("-1000")
        calm_down()
        self.kills_before = vmstat("oom_kill")
        self.watch = self.start("watch", str(WATCH_MS), oom_score_adj=-1000)
        self.watch.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        # Written to memory while it ran; only now to where it lasts.
        kept = self.place.results / "logs" / f"{len(list(self.place.results.glob('logs/*'))):02}-{self.workload}"
        shutil.copytree(self.place.logs, kept)
        for log in self.place.logs.glob("[0-9]*.log"):
            log.unlink()

    def start(self, name: str, *arguments: str, oom_score_adj: int = 0, node: int | None = None) -> Program:
        self._number += 1
        log = Log(self.place.logs / f"{self._number}-{name}.log")
        with log.path.open("wb") as output:
            process = subprocess.Popen(
                [self.place.programs / name, *arguments],
                stdout=output,
                stderr=output,
                env=os.environ if node is None else {**os.environ, "NODE": str(node)},
            )
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(str(oom_score_adj))
        self._stack.callback(_end, process)
        return Program(process, log)

    def hold(self, mib: int, source: Sequence[str], *, step_kb: int = STEP_KB, react_ms: int = REACT_MS) -> Program:
        """Somebody with a cache of `mib` who listens to `source`; 0 MiB only listens, and is not to be killed."""
        return self.start("hold", str(mib), str(step_kb), str(react_ms), *source, oom_score_adj=0 if mib else -1000)

    def allocate(self, mib: int, rate_mib_s: int = RATE_MIB_S, node: int | None = None) -> Program:
        """Run the allocator to its end, or until the limit; with `node`, from that NUMA node's memory alone."""
        arguments = [self.workload, str(mib), str(rate_mib_s)]
        if self.workload == "mixed":
            arguments.append(str(self.place.disk))
        program = self.start("allocate", *arguments, node=node)
        deadline = time.monotonic() + RUN_S
        while program.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return program

    @property
    def oom_kills(self) -> int:
        return vmstat("oom_kill") - self.kills_before

    def first_anon_ns(self) -> int | None:
        """When the kernel first scanned anonymous pages, as `watch` saw it."""
        first: int | None = None
        for time_ns, text in self.watch.log.lines("vmstat"):
            anon = int(text.split()[0])
            if first is None:
                first = anon
            elif anon > first:
                return time_ns
        return None

    def first_kill_ns(self) -> int | None:
        for time_ns, text in self.watch.log.lines("vmstat"):
            if int(text.split()[3]) > self.kills_before:
                return time_ns
        return None

    def times(self, listener: Program) -> dict[str, float | int | None]:
        """How often a listener was told, and when for the first time."""
        notices = [time_ns for time_ns, _ in listener.log.lines("notice")]
        return {
            "notified": len(notices),
            "first_notice_ms": _ms(notices[0] if notices else None, self.first_anon_ns()),
            "lead_ms": _ms(self.first_kill_ns(), notices[0] if notices else None),
        }

    def row(
        self, *, device: bool, listener: str, told: Program, allocator: Program | None, held: bool, wanted_mib: int = 0
    ) -> Row:
        times = self.times(told)
        survived = None
        if allocator is not None:
            lives = told.process.poll() is None if held else True
            survived = self.oom_kills == 0 and lives and bool(allocator.log.lines("got"))
        return Row(
            kernel=platform.release(),
            swap=self.place.swap,
            lru=lru(),
            workload=self.workload,
            device="on" if device else "off",
            listener=listener,
            notified=int(times["notified"] or 0),
            first_notice_ms=times["first_notice_ms"],
            lead_ms=times["lead_ms"],
            oom_kills=self.oom_kills,
            survived=survived,
            false_alarms=int(times["notified"] or 0) if allocator is None else 0,
            allocated_mib=len(allocator.log.lines("taken")) if allocator else 0,
            wanted_mib=wanted_mib,
        )


def _ms(later_ns: int | None, earlier_ns: int | None) -> float | None:
    if later_ns is None or earlier_ns is None:
        return None
    return round((later_ns - earlier_ns) / 1e6, 1)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(60)


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def sizes() -> tuple[int, int]:
    """MiB of the cache, and of what the allocator wants, for the memory available now."""
    available = meminfo_kb("MemAvailable") // 1024
    cache = int(available * CACHE_PART)
    return cache, int(available - cache + cache * WANTED_OF_CACHE)


def peers() -> dict[str, tuple[str, ...]]:
    """Every other way to listen that this kernel has, by name."""
    found: dict[str, tuple[str, ...]] = {}
    if Path("/proc/pressure/memory").exists():
        found["psi-150ms-2s"] = ("psi", "/proc/pressure/memory", "some 150000 2000000")
        found["psi-70ms-1s"] = ("psi", "/proc/pressure/memory", "some 70000 1000000")
    if (CGROUP_V1 / "memory.pressure_level").exists():
        for level in ("low", "medium", "critical"):
            found[f"vmpressure-{level}"] = ("vmpressure", str(CGROUP_V1), level)
    found["available-10%"] = ("percent", "10")
    if BUS.exists():
        watch = f"stdbuf -oL dbus-monitor --address unix:path={BUS} \"interface='org.freedesktop.LowMemoryMonitor'\""
        found["low-memory-monitor"] = ("lines", watch, "member=LowMemoryWarning")
    return found


@contextmanager
def low_memory_monitor(place: Place) -> Iterator[None]:
    """Debian's daemon, on a bus of its own, if it is there."""
    daemon = place.programs / "low-memory-monitor"
    if not daemon.exists() or shutil.which("dbus-daemon") is None:
        yield
        return
    config = place.results / "bus.conf"
    config.write_text(BUS_CONFIG)
    with ExitStack() as stack, (place.results / "low-memory-monitor.log").open("wb") as log:
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={BUS}", "G_MESSAGES_DEBUG": "all"}
        for command in (["dbus-daemon", f"--config-file={config}", "--nofork"], [str(daemon)]):
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            stack.callback(_end, process)
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("-1000")
            deadline = time.monotonic() + READY_S
            while not BUS.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
        yield


def headline(place: Place, workload: str, listener: str, source: Sequence[str] | None) -> Row:
    """Somebody with a cache, who listens to `source` (None: to nothing), beside one who wants more than is left."""
    with Experiment(place, workload) as experiment:
        bystander = None
        if listener == "device":
            bystander = experiment.start("bystander", DEVICE[1], str(BYSTANDER_MS), oom_score_adj=-1000)
            bystander.wait_ready()
        cache, wanted = sizes()
        holder = experiment.hold(cache, source or ("none",))
        holder.wait_ready()
        allocator = experiment.allocate(wanted)
        row = experiment.row(
            device=listener == "device",
            listener=listener,
            told=holder,
            allocator=allocator,
            held=True,
            wanted_mib=wanted,
        )
        if bystander is not None:
            answers = [int(text) / 1000 for _, text in bystander.log.lines("answer")]
            row.bystander_ms = {
                "median": percentile(answers, 0.5),
                "p99": percentile(answers, 0.99),
                "max": max(answers),
            }
        return row


def onlookers(place: Place, workload: str, rate_mib_s: int = RATE_MIB_S) -> Row:
    """Everybody listens and nobody gives anything back: who is told when, before the OOM killer strikes."""
    with Experiment(place, workload) as experiment:
        listeners = {name: experiment.hold(0, source) for name, source in (("device", DEVICE), *peers().items())}
        for listener in listeners.values():
            listener.wait_ready()
        cache, wanted = sizes()
        experiment.hold(cache, ("none",)).wait_ready()
        allocator = experiment.allocate(wanted, rate_mib_s)
        row = experiment.row(
            device=True, listener="onlookers", told=listeners["device"], allocator=allocator, held=False
        )
        row.rate_mib_s = rate_mib_s
        row.survived = None
        row.others = {name: experiment.times(listener) for name, listener in listeners.items() if name != "device"}
        return row


def churn(place: Place, seconds: int, rate_mib_s: int = 8, step_kb: int = 3584, react_ms: int = 100) -> Row:
    """The 2008 patch's first outside tester, on a small machine without swap: a slow client, told again and again."""
    with Experiment(place, "churn") as experiment:
        available = meminfo_kb("MemAvailable") // 1024
        cache = available // 2
        os.environ["REFILL"] = "1"
        holder = experiment.hold(cache, DEVICE, step_kb=step_kb, react_ms=react_ms)
        del os.environ["REFILL"]
        holder.wait_ready()
        wanted = available - cache * 2 // 3
        allocator = experiment.start("allocate", "churn", str(wanted), str(rate_mib_s), str(seconds))
        deadline = time.monotonic() + seconds + RUN_S
        while allocator.process.poll() is None and experiment.oom_kills == 0 and time.monotonic() < deadline:
            time.sleep(0.5)
        return experiment.row(
            device=True, listener="device", told=holder, allocator=allocator, held=True, wanted_mib=wanted
        )


def page_cache(place: Place, workload: str = "stream") -> Row:
    """Page cache alone is wanted, three times the memory of it: nobody is to be told. See `CACHE_LOADS`."""
    with Experiment(place, workload) as experiment:
        listeners = {name: experiment.hold(0, source) for name, source in (("device", DEVICE), *peers().items())}
        for listener in listeners.values():
            listener.wait_ready()
        CACHE_LOADS[workload](place.disk, STREAM_TIMES_MEMORY * meminfo_kb("MemTotal") // 1024)
        row = experiment.row(device=True, listener="onlookers", told=listeners["device"], allocator=None, held=False)
        row.others = {name: experiment.times(listener) for name, listener in listeners.items() if name != "device"}
        return row


def _stream(disk: Path, mib: int) -> None:
    """A file read through."""
    with disk.open("rb", buffering=0) as file:
        buffer = bytearray(MIB)
        for _ in range(mib):
            file.readinto(buffer)


def _database(disk: Path, mib: int) -> None:
    """Pages read at random, as much as there is memory, four in five of them from a fifth of the file."""
    random = Random(1)
    pages = mib * 64
    with disk.open("rb", buffering=0) as file:
        for _ in range(pages // STREAM_TIMES_MEMORY):
            page = random.randrange(pages // 5 if random.random() < 0.8 else pages)
            os.pread(file.fileno(), MIB // 64, page * (MIB // 64))


def _backup(disk: Path, mib: int) -> None:
    """A file written, which makes dirty pages."""
    data = os.urandom(MIB)
    with disk.open("r+b", buffering=0) as file:
        for _ in range(mib):
            file.write(data)
        os.fsync(file.fileno())


CACHE_LOADS: Final = {"stream": _stream, "database": _database, "backup": _backup}


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
        deadline = time.monotonic() + READY_S
        while b"ready: " not in log.read_bytes():
            assert process.poll() is None, f"the server ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"the server is not ready: {log.read_text()}"
            time.sleep(0.1)
        yield process
        assert process.poll() is None, f"the server ended with {process.returncode}: {log.read_text()}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0, f"the server ended with {code}: {log.read_text()}"


def save(row: Row, results: Path) -> None:
    """Add `row` to the rows of this boot; one line each, so that a boot that ends early leaves what it had."""
    with (results / "rows.jsonl").open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")
        file.flush()
        os.fsync(file.fileno())
