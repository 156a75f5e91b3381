"""What the server costs while nothing happens, beside programs that watch memory too."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import peers
from benchmarks.processes import Workshop, end, listening, progress, real_reclaim, wait_until
from benchmarks.report import CannotRunError, Part, Table, aim
from tests.fuzz.processes import family
from tests.support.reclaim import supported
from tests.support.server import Server

TITLE: Final = "At rest: CPU time, wake-ups and memory"
MEASURE_S: Final = 30.0
SETTLE_S: Final = 2.0
THREADS_LIMIT_S: Final = 30.0
AIM_WAKES_PER_S: Final = 1.0
_OURS: Final = "memnotify serve"
_WATCHED: Final = "the same, with a reader and a poller"

HOW: Final = [
    f"{MEASURE_S:.0f} s in which nothing happens. CPU time is the scheduler's (/proc/PID/schedstat), wake-ups are "
    "voluntary context switches, both over all threads of all processes that were started (the server's keeper, its "
    "child that answers, and SIGIO helpers); memory is the sum from smaps_rollup at the end: PSS counts a page that "
    "several processes share in parts, RSS in full for each, and what is locked stays in memory when it is short. All "
    "run at the same time. The second server has a `cat` blocked in read() and a program asleep in poll() on its "
    "device.",
    "earlyoom and nohang are Debian's packages with the options and the configuration of their services (earlyoom "
    "with --dryrun, too). They have another task, to kill processes when memory is short, and look at /proc/meminfo "
    "from time to time. They run in PID namespaces of their own, where they see no other process.",
]


@dataclass(frozen=True, slots=True)
class _Usage:
    """Of all threads of all processes, since they started."""

    cpu_ns: int
    wakes: int


@dataclass(frozen=True, slots=True)
class _Memory:
    """In KiB."""

    pss_kib: int
    rss_kib: int
    locked_kib: int


def measure(workshop: Workshop) -> Part:
    """The part of the report."""
    part = Part(TITLE, list(HOW))
    with ExitStack() as stack:
        if supported() is None:
            # Whoever wants real reclaim has to wait: it holds the place, and reclaims nothing.
            stack.enter_context(real_reclaim(cold_bytes=0, swap=False))
        others: dict[str, int] = {}
        for label, peer in (("earlyoom", peers.earlyoom), ("nohang", peers.nohang)):
            with _note_reason(part, label):
                others[label] = stack.enter_context(peer())
        server = stack.enter_context(workshop.server())
        watched = stack.enter_context(workshop.server())
        stack.enter_context(_watchers(workshop, watched))
        pids = {_OURS: server.process.pid, _WATCHED: watched.process.pid, **others}
        _wait_for_rest(server.process.pid)
        _wait_for_rest(watched.process.pid)
        time.sleep(SETTLE_S)
        progress(f"measuring for {MEASURE_S:.0f} s")
        before = {label: _usage(pid) for label, pid in pids.items()}
        begin = time.monotonic()
        time.sleep(MEASURE_S)
        seconds = time.monotonic() - begin
        after = {label: _usage(pid) for label, pid in pids.items()}
        memory = {label: _memory(pid) for label, pid in pids.items()}
    rows = [_row(label, before[label], after[label], memory[label], seconds) for label in pids]
    headers = ("program", "CPU ms", "CPU %", "wake-ups", "per second", "PSS MiB", "RSS MiB", "locked MiB")
    part.tables.append(Table(headers, rows))
    part.remarks.append(_compared(before, after))
    wakes = after[_OURS].wakes - before[_OURS].wakes
    part.remarks.append(aim("fewer than one wake-up in a second", wakes / seconds < AIM_WAKES_PER_S))
    return part


@contextmanager
def _note_reason(part: Part, label: str) -> Iterator[None]:
    try:
        yield
    except CannotRunError as error:
        part.remarks.append(f"Not measured: {label}: {error}.")


@contextmanager
def _watchers(workshop: Workshop, server: Server) -> Iterator[None]:
    """A `cat` blocked in read() and a program asleep in poll(), each on the device."""
    listen = workshop.program("listen")
    quiet = subprocess.DEVNULL
    with subprocess.Popen(["cat", str(server.device)], stdin=quiet, stdout=quiet) as cat:
        try:
            with listening(listen, "poll", str(server.device)):
                wait_until(lambda: " watchers=2 " in (server.mount / "server").read_text(), "cat and the poller wait")
                yield
        finally:
            end(cat)


def _wait_for_rest(pid: int) -> None:
    """Until what only the start needed has ended: threads (trio keeps them for 10 s), what showed the device."""

    def only_lasting() -> bool:
        try:
            names = [name.read_text() for each in family(pid) for name in Path(f"/proc/{each}/task").glob("*/comm")]
        except OSError:
            # One has just ended.
            return False
        return not any(name.startswith(("Trio thread", "memnotify-show")) for name in names)

    wait_until(only_lasting, "what the server's start needed ends", THREADS_LIMIT_S)


def _usage(pid: int) -> _Usage:
    cpu_ns = wakes = 0
    for each in family(pid):
        for folder in Path(f"/proc/{each}/task").iterdir():
            cpu_ns += int((folder / "schedstat").read_text().split()[0])
            wakes += _number(folder / "status", "voluntary_ctxt_switches")
    return _Usage(cpu_ns, wakes)


def _memory(pid: int) -> _Memory:
    rollups = [Path(f"/proc/{each}/smaps_rollup") for each in family(pid)]
    return _Memory(*(sum(_number(rollup, name) for rollup in rollups) for name in ("Pss", "Rss", "Locked")))


def _number(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise CannotRunError(f"{file} has no {name}")


def _row(label: str, before: _Usage, after: _Usage, memory: _Memory, seconds: float) -> tuple[str, ...]:
    cpu_ns, wakes = after.cpu_ns - before.cpu_ns, after.wakes - before.wakes
    sizes = (f"{kib / 1024:.1f}" for kib in (memory.pss_kib, memory.rss_kib, memory.locked_kib))
    return (
        label,
        f"{cpu_ns / 1e6:.1f}",
        f"{cpu_ns / seconds / 1e7:.3f}",
        str(wakes),
        f"{wakes / seconds:.2f}",
        *sizes,
    )


def _compared(before: dict[str, _Usage], after: dict[str, _Usage]) -> str:
    cpu_ns = {label: after[label].cpu_ns - before[label].cpu_ns for label in before}
    wakes = {label: after[label].wakes - before[label].wakes for label in before}
    texts = [
        f"{label}: {wakes[label] / max(1, wakes[_OURS]):.1f} times the wake-ups and "
        f"{cpu_ns[label] / cpu_ns[_OURS]:.2f} times the CPU time of the server"
        for label in before
        if label not in (_OURS, _WATCHED)
    ]
    texts.append(f"the server with a reader and a poller: {wakes[_WATCHED] - wakes[_OURS]:+d} wake-ups")
    return "Compared: " + "; ".join(texts) + "."
