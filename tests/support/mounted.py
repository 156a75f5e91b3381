"""What tests of a mounted device share: a server that no real pressure disturbs, conditions, blocked calls."""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Generic, TypeVar

from memnotify_cuse.record import Record
from memnotify_cuse.scanner.forecast import SWAP_CLUSTER_PAGES
from tests.support.server import Server

LIMIT_S: Final = 120.0
"""How long a test waits for what must happen before it fails. In a guest without hardware virtualisation everything
takes ten to twenty times as long."""

WATCHDOG_S: Final = 300.0
"""How long one server may be used. Longer than LIMIT_S, so that what is waited for is named if possible."""

LONG_S: Final = 600.0
"""Seconds of simulated pressure that outlast every test."""

FIXTURES: Final = Path(__file__).parents[1] / "fixtures"
NOBODY: Final = 65534
READABLE: Final = select.POLLIN | select.POLLRDNORM

T = TypeVar("T")


def wait_until(condition: Callable[[], object], what: str, *, limit_s: float = LIMIT_S) -> None:
    """Return once `condition` is true; AssertionError, naming `what`, if it is not within the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.002)


class Blocking(Generic[T]):
    """A call that blocks, in a thread of its own, which does not keep the tests from ending."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def returned(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> T:
        """What the call returned or raised, waited for with a limit."""
        self._thread.join(LIMIT_S)
        assert self.returned, f"the call still blocks after {LIMIT_S} s"
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:
            self._error = error


def error_of(act: Callable[[], object]) -> str:
    """The name of the error that `act` ends with, "" if it succeeds."""
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


@contextmanager
def watchdog(server: Server) -> Iterator[None]:
    """Kill the server if the block takes too long: whoever is blocked on its files then fails, even in the kernel."""
    timer = threading.Timer(WATCHDOG_S, server.process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def serving(directory: Path, *options: str, node: Path | None = None) -> Iterator[Server]:
    """A server for the block, which ends it with exit code 0 and without a complaint of its own."""
    with Server(directory, "--log-level", "info", *options, node=node) as running, watchdog(running):
        yield running
        assert running.process.poll() is None, f"the server ended: {running.log}"
        code = running.stop()
        assert code == 0, f"the server ended with {code}: {running.log}"
        assert not complaints(running), f"the server complained: {running.log}"


def complaints(server: Server) -> list[str]:
    """What the server logged that was not to be expected."""
    return unexpected(server.log)


def unexpected(log: str) -> list[str]:
    """The lines of a log, but for what each start says and what a server cannot have on this machine just now.

    Trace events are lost where other tests make the kernel reclaim, or trace. The kernel refuses a new trace instance
    while memory is short (kernel/trace/ring_buffer.c asks si_mem_available()), which a test of real reclaim may bring
    about, and the folders in place of /proc have no PSI.
    """
    expected = (
        "ready: ",
        "memnotify: INFO: ",
        "not permitted",
        "no trace events",
        "neither trace events nor",
        "trace-events: ",
    )
    return [line for line in log.splitlines() if not any(word in line for word in expected)]


def facts(server: Server) -> dict[str, str]:
    """The words of the file `server`."""
    words = (server.mount / "server").read_text().split()
    return dict(word.split("=", 1) for word in words)


def watchers(server: Server) -> int:
    return int(facts(server)["watchers"])


def open_files(server: Server) -> int:
    return int(facts(server)["open_files"])


def notifications(server: Server) -> int:
    return int(facts(server)["notifications"])


def state_of(task: int) -> str:
    """The state letter of a process or thread, "" if it is gone: also if it went while its file was read."""
    try:
        text = Path(f"/proc/{task}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]


def wait_for_watchers(server: Server, count: int) -> None:
    """Return once `count` open files have somebody asleep on them."""
    wait_until(lambda: watchers(server) == count, f"{count} watchers, last {watchers(server)}")


@contextmanager
def opened(path: Path, flags: int = 0) -> Iterator[int]:
    """A descriptor of `path`, opened for reading."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def many_opened(path: Path, count: int) -> Iterator[list[int]]:
    """`count` open files of `path`."""
    fds: list[int] = []
    try:
        for _ in range(count):
            fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def revents(fd: int, timeout_s: float = 0.0, events: int = READABLE) -> int:
    """What poll(2) says of `fd`."""
    poll = select.poll()
    poll.register(fd, events)
    return dict(poll.poll(timeout_s * 1000)).get(fd, 0)


def read_record(fd: int) -> Record:
    """A whole record, from one read."""
    return Record.parse(os.read(fd, 4096))


def zone_of(record: Record) -> str:
    return f"node{record.node}-{record.zone}"


class ProcTree:
    """A folder in place of /proc, with the files of one machine of tests/fixtures, which nothing changes."""

    def __init__(self, path: Path, *, zoneinfo: str, vmstat: str | None = None, meminfo: str | None = None) -> None:
        self.path = path
        path.mkdir()
        for name, machine in (("zoneinfo", zoneinfo), ("vmstat", vmstat), ("meminfo", meminfo)):
            shutil.copy(FIXTURES / (machine or zoneinfo) / name, path / name)

    def set_pages(self, zone: str, pages: dict[str, int]) -> None:
        """Change counters of a zone, "node1-Normal", in place, since the server keeps the file open, and in one go."""
        file = self.path / "zoneinfo"
        text = bytearray(file.read_bytes())
        node, name = zone.removeprefix("node").split("-")
        header = re.search(rf"^Node {node}, zone +{name}$".encode(), text, re.MULTILINE)
        assert header, f"zoneinfo has no {zone}"
        changed: list[int] = []
        for counter, value in pages.items():
            match = re.compile(rf"^ +(?:pages )?{counter} +([0-9]+)$".encode(), re.MULTILINE).search(text, header.end())
            assert match, f"{zone} has no {counter}"
            digits = b"%0*d" % (len(match[1]), value)
            assert len(digits) == len(match[1]), f"{value} has more digits than {counter} had"
            text[match.start(1) : match.end(1)] = digits
            changed += match.span(1)
        start, end = min(changed), max(changed)
        fd = os.open(file, os.O_WRONLY)
        try:
            os.pwrite(fd, text[start:end], start)
        finally:
            os.close(fd)


def calm_proc(directory: Path) -> ProcTree:
    """A machine with plenty of memory: node0 with DMA (too small to count), DMA32 and Normal, node1 with Normal."""
    return ProcTree(directory / "proc", zoneinfo="x86-5.14-2node")


class Machine(ProcTree):
    """The machine of `calm_proc` without swap, whose node1-Normal is as good as full; nothing is under pressure yet.

    Each `tighten` takes away one more batch of pages: the scanner raises the zone and notifies once. It stays under
    pressure, without a second notification, until `make_room`; `fill_up` makes it as it was at first. The server is
    to have `options`: a headroom that stays as it is, however fast these tests go on.
    """

    ZONE: Final = "node1-Normal"
    HIGH_PAGES: Final = 16_992
    HEADROOM_PAGES: Final = 10_240
    FULL_PAGES: Final = HIGH_PAGES + HEADROOM_PAGES + 100
    ROOM_PAGES: Final = 60_000

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "proc", zoneinfo="x86-5.14-2node", meminfo="x86-4.20-noswap")
        self._taken_pages = 0
        self.tight = False
        # Less than what is mapped, and so nothing that could be had.
        self.set_pages(self.ZONE, {"nr_zone_active_file": 0, "nr_zone_inactive_file": 10_000})
        self.set_pages(self.ZONE, {"nr_slab_reclaimable": 0})
        self.fill_up()

    @property
    def options(self) -> tuple[str, ...]:
        """Those of serve."""
        return ("--proc", str(self.path), "--headroom", "40M")

    def tighten(self) -> None:
        self.tight = True
        self._taken_pages += SWAP_CLUSTER_PAGES
        self._set_free(self.HIGH_PAGES + self.HEADROOM_PAGES - self._taken_pages)

    def make_room(self) -> None:
        self.tight = False
        self._set_free(self.ROOM_PAGES)

    def fill_up(self) -> None:
        self._set_free(self.FULL_PAGES)

    def _set_free(self, pages: int) -> None:
        self.set_pages(self.ZONE, {"free": pages})
