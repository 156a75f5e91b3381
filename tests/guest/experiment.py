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
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel.lru_gen import read_lru_gen
from tests.support.reclaim.counters import read_vmstat

MIB: Final = 1 << 20
READY_S: Final = 120.0
RUN_S: Final = 300.0
"""An allocator that has not ended by then is stopped: the machine lives, but nobody gets anything done."""

WORKLOADS: Final = ("cold", "hot", "mixed", "burst", "shared", "locked", "cow", "pipes")
"""How memory is taken: programs/allocate.c."""
RATE_MIB_S: Final = 24
STEP_KB: Final = 16 * 1024
REACT_MS: Final = 20
WATCH_MS: Final = 10


@dataclass(frozen=True)
class Place:
    """What the guest was booted with: the compiled programs, a disk to read from, the kind of swap.

    `work` is a folder with something to work on (see `tests.support.guest.workdisk`), None where there is none. With
    `recording`, what the scanner sees is recorded in each experiment.
    """

    programs: Path
    disk: Path
    swap: str
    logs: Path
    results: Path
    work: Path | None = None
    recording: bool = False

    @classmethod
    def of_boot(cls, logs: Path, *, recording: bool = False) -> Place:
        """As the boot's script says it."""
        work = os.environ.get("MEMNOTIFY_WORK")
        return cls(
            programs=Path(os.environ["MEMNOTIFY_PROGRAMS"]),
            disk=Path(os.environ["MEMNOTIFY_STREAM_DISK"]),
            swap=os.environ["MEMNOTIFY_SWAP"],
            logs=logs,
            results=Path(os.environ["MEMNOTIFY_RESULTS"]),
            work=Path(work) if work else None,
            recording=recording,
        )


@dataclass
class Row:
    """What one experiment came to: a row of docs/detection.md.

    `first_notice_ms` counts from the kernel's first anonymous reclaim (negative: before it), `lead_ms` from the first
    notice to the first OOM kill; None where there was no such thing. `raises` is how often a zone came under pressure
    in `seconds`, where that was looked at. `stall_ms` is the longest time in which not even `watch` got to run.
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
    raises: int | None = None
    seconds: float | None = None
    stall_ms: float = 0.0
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
        wait_until_ready(self.process, self.log.path, lambda _text: bool(self.log.lines("ready")))


def wait_until_ready(process: subprocess.Popen[bytes], log: Path, is_ready: Callable[[str], bool]) -> None:
    """Wait until what `process` has written to `log` says that it is ready; AssertionError with all of it if not."""
    deadline = time.monotonic() + READY_S
    while not is_ready(text := log.read_text(errors="replace")):
        assert process.poll() is None, f"{log.name}: it ended: {text}"
        assert time.monotonic() < deadline, f"{log.name}: it is not ready: {text}"
        time.sleep(0.1)


def moments(watch: Log) -> dict[str, int]:
    """When anonymous pages were first scanned, and when the OOM killer first struck; without what did not happen."""
    found: dict[str, int] = {}
    first: list[str] | None = None
    for time_ns, text in watch.lines("vmstat"):
        counters = text.split()
        first = first or counters
        if counters[0] != first[0]:
            found.setdefault("first_anon_scan_ns", time_ns)
        if counters[3] != first[3]:
            found.setdefault("oom_kill_ns", time_ns)
    return found


def lru() -> str:
    return "mglru" if read_lru_gen() else "classic"


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
        counters = read_vmstat()
        scanned = counters["pgscan_kswapd"] + counters["pgscan_direct"]
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
        self._kept = place.results / "logs" / f"{len(list(place.results.glob('logs/*'))):02}-{file_name(workload)}"

    def __enter__(self) -> Experiment:
        # Whoever is to be killed, it is not the one who writes it down; `start` sets its programs back.
        Path("/proc/self/oom_score_adj").write_text("-1000")
        calm_down()
        self.kills_before = read_vmstat()["oom_kill"]
        self.watch = self.start("watch", str(WATCH_MS), oom_score_adj=-1000)
        self.watch.wait_ready()
        if self.place.recording:
            self._record()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        # Written to memory while it ran; only now to where it lasts.
        shutil.copytree(self.place.logs, self._kept)
        for log in self.place.logs.glob("[0-9]*.*"):
            log.unlink()

    def _record(self) -> None:
        file = self.place.logs / "0-recording.jsonl.gz"
        log = self.place.logs / "0-record.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "memnotify_cuse", "record", str(file)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._stack.callback(_stop, process)
        wait_until_ready(process, log, lambda text: "recording: " in text)

    def start(
        self, name: str, *arguments: str, oom_score_adj: int = 0, environment: Mapping[str, str] | None = None
    ) -> Program:
        self._number += 1
        log = Log(self.place.logs / f"{self._number}-{name}.log")
        with log.path.open("wb") as output:
            process = subprocess.Popen(
                [self.place.programs / name, *arguments],
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
            )
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(str(oom_score_adj))
        self._stack.callback(end, process)
        return Program(process, log)

    def hold(
        self,
        mib: int,
        source: Sequence[str],
        *,
        step_kb: int = STEP_KB,
        react_ms: int = REACT_MS,
        refill_mib: int | None = None,
    ) -> Program:
        """Somebody with a cache of `mib` who listens to `source`; 0 MiB only listens, and is not to be killed.

        With `refill_mib` it takes a step back for each second in which it is left alone, up to so much.
        """
        environment = {} if refill_mib is None else {"REFILL": str(refill_mib)}
        arguments = (str(mib), str(step_kb), str(react_ms), *source)
        return self.start("hold", *arguments, oom_score_adj=0 if mib else -1000, environment=environment)

    def allocate(self, mib: int, rate_mib_s: int = RATE_MIB_S, node: int | None = None) -> Program:
        """Run the allocator to its end, or until the limit; with `node`, from that NUMA node's memory alone."""
        arguments = [self.workload, str(mib), str(rate_mib_s)]
        if self.workload == "mixed":
            arguments.append(str(self.place.disk))
        environment = {} if node is None else {"NODE": str(node)}
        program = self.start("allocate", *arguments, environment=environment)
        deadline = time.monotonic() + RUN_S
        while program.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return program

    @property
    def oom_kills(self) -> int:
        return read_vmstat()["oom_kill"] - self.kills_before

    def stall_ms(self) -> float:
        """The longest time between two lines of `watch`, which says something every tenth look at least."""
        times_ns = [time_ns for time_ns, _ in self.watch.log.lines("vmstat")]
        return round(max((after - before for before, after in pairwise(times_ns)), default=0) / 1e6, 1)

    def times(self, listener: Program) -> dict[str, float | int | None]:
        """How often a listener was told, and when for the first time."""
        notices = [time_ns for time_ns, _ in listener.log.lines("notice")]
        first_ns = notices[0] if notices else None
        happened = moments(self.watch.log)
        return {
            "notified": len(notices),
            "first_notice_ms": _ms(first_ns, happened.get("first_anon_scan_ns")),
            "lead_ms": _ms(happened.get("oom_kill_ns"), first_ns),
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
            stall_ms=self.stall_ms(),
        )


def _ms(later_ns: int | None, earlier_ns: int | None) -> float | None:
    if later_ns is None or earlier_ns is None:
        return None
    return round((later_ns - earlier_ns) / 1e6, 1)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(60)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let a recorder end its file."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        end(process)


def file_name(workload: str) -> str:
    """The workload, as it stands in the names of files."""
    return workload.replace(" ", "-")


def save(row: Row, results: Path) -> None:
    """Add `row` to the rows of this boot; one line each, so that a boot that ends early leaves what it had."""
    with (results / "rows.jsonl").open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")
        file.flush()
        os.fsync(file.fileno())
