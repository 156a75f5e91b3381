"""Real reclaim of anonymous memory on a real machine, without danger: for tests, benchmarks and use by hand.

How it works
------------
kswapd wakes when every zone's free pages are below its low watermark, and then reclaims until a zone is above
its high one. Instead of filling memory until free pages fall to the watermarks, this module lifts the watermarks
to the free pages (`vm.min_free_kbytes`, `vm.watermark_scale_factor`; Documentation/admin-guide/sysctl/vm.rst).
A child process holds about 1 GiB of cold memory, a zram device takes what kswapd swaps out, and most of the
machine's memory stays free all along: the *min* watermark, below which allocations have to reclaim by
themselves, is kept under it.

Two sets of watermarks are used (mm/vmscan.c, prepare_scan_control() and get_scan_count()):

- **episode:** low and high are above free + file pages. The kernel's own test "file LRU + free <= high" then
  says that file pages cannot help, and reclaim turns to anonymous pages at once.
- **stream:** high is below free + file pages, so that dropping page cache is enough, as on a machine that reads
  a file larger than its memory. (Not one anonymous page scanned is more than the kernel promises: when file
  pages were refaulted since kswapd last ran, it begins with a sample of the anonymous ones.)

Everything changed is put back: on leaving the `with` block, on an exception, on SIGTERM and SIGINT, and, when
this process is killed, by the child, which sees its command pipe close. What a crash of both leaves behind is
recorded in `STATE_PATH` and is put back by the next run.

One thing is not put back, because it cannot be: a kernel that initialises its memory lazily (zones' `managed`
pages grow as memory is used) has to be made to initialise all of it first, or it would answer each raised
watermark with new memory. That takes a second or two, once per boot, and touches no memory but the kernel's page
descriptors.

By hand, as root, from the project's root folder::

    python -m tests.support.reclaim episode --count 3     # watch: a live server must raise three times
    python -m tests.support.reclaim stream                # a live server must stay silent
    python -m tests.support.reclaim stream --hot 1024     # the same beside 1 GiB of memory in use
    python -m tests.support.reclaim hot --hot 1024        # reclaim out of memory that is in use
    python -m tests.support.reclaim restore               # put back what a crashed run left
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any

PAGE_BYTES = mmap.PAGESIZE
MIB = 1 << 20
GIB = 1 << 30

STATE_PATH = Path("/run/memnotify-real-reclaim.json")
VM = Path("/proc/sys/vm")
ZRAM_CONTROL = Path("/sys/class/zram-control")

MIN_FREE = "min_free_kbytes"
SCALE = "watermark_scale_factor"
BOOST = "watermark_boost_factor"
HUGE_PAGES = "nr_hugepages"
RESERVE_RATIO = "lowmem_reserve_ratio"
# Since 6.7 each CPU may keep pages of its own, free but not counted as such, up to its share of the low watermark
# (mm/page_alloc.c, zone_highsize()): gigabytes, where that is raised. With a fraction it is a part of the zone.
CPU_LISTS = "percpu_pagelist_high_fraction"
CPU_LISTS_FRACTION = 1000
# In this order they are put back: first what makes the kernel reclaim, then what only takes memory away.
SYSCTLS = (MIN_FREE, SCALE, BOOST, HUGE_PAGES, RESERVE_RATIO, CPU_LISTS)

# The kernel's largest watermark_scale_factor: low = min + 30 %, high = min + 60 % of the zone's managed pages.
EPISODE_SCALE = 3000
EPISODE_LOW_ABOVE_MIN = EPISODE_SCALE / 10_000
# Without a scale factor they are min, min * 5/4 and min * 3/2 (mm/page_alloc.c, __setup_per_zone_wmarks()).
PLAIN_HIGH_PER_MIN = 1.5

MADV_COLD = 20  # since 5.4: clears the referenced bits and moves to the inactive list
CHUNK_BYTES = 32 * MIB
QUIET_S = 0.15


class ReclaimError(Exception):
    """Real reclaim could not be set up, or did not happen as promised."""


# --------------------------------------------------------------------------- reading the kernel's counters


@dataclass(frozen=True, slots=True)
class ZonePages:
    """One zone of /proc/zoneinfo, in pages; `reserve_pages` is the largest entry of its protection row."""

    node: int
    zone: str
    free_pages: int
    min_pages: int
    low_pages: int
    high_pages: int
    present_pages: int
    managed_pages: int
    reserve_pages: int
    active_anon_pages: int
    inactive_anon_pages: int
    active_file_pages: int
    inactive_file_pages: int

    @property
    def clear(self) -> bool:
        """The 2008 patch's condition for the end of pressure."""
        return self.free_pages > 2 * (self.high_pages + self.reserve_pages)


_ZONE_FIELDS = {
    "min": "min_pages",
    "low": "low_pages",
    "high": "high_pages",
    "present": "present_pages",
    "managed": "managed_pages",
    "nr_zone_active_anon": "active_anon_pages",
    "nr_zone_inactive_anon": "inactive_anon_pages",
    "nr_zone_active_file": "active_file_pages",
    "nr_zone_inactive_file": "inactive_file_pages",
}


def read_zones(text: str | None = None) -> list[ZonePages]:
    """The populated zones of /proc/zoneinfo (or of `text`)."""
    zones: list[ZonePages] = []
    values: dict[str, int] = {}
    node, name = -1, ""

    def finish() -> None:
        if values.get("managed_pages"):
            fields = (*_ZONE_FIELDS.values(), "free_pages", "reserve_pages")
            known = {key: values.get(key, 0) for key in fields}
            zones.append(ZonePages(node=node, zone=name, **known))

    for line in (Path("/proc/zoneinfo").read_text() if text is None else text).splitlines():
        words = line.split()
        if line.startswith("Node"):
            finish()
            values = {}
            node, name = int(words[1].rstrip(",")), words[-1]
        elif words[:2] == ["pages", "free"]:
            values["free_pages"] = int(words[2])
        elif words[:1] == ["protection:"]:
            values["reserve_pages"] = max(int(word) for word in line.split("(")[1].rstrip(")").split(","))
        elif len(words) == 2 and words[0] in _ZONE_FIELDS:
            values.setdefault(_ZONE_FIELDS[words[0]], int(words[1]))
    finish()
    return zones


def read_vmstat() -> dict[str, int]:
    """/proc/vmstat as name -> count since boot."""
    return {name: int(value) for name, value in map(str.split, Path("/proc/vmstat").read_text().splitlines())}


def pressed_zones(zones: list[ZonePages]) -> list[ZonePages]:
    """Zones that count: those with at least a tenth of their node's present pages."""
    return [
        zone
        for zone in zones
        if zone.present_pages * 10 >= sum(other.present_pages for other in zones if other.node == zone.node)
    ]


def read_sysctl(name: str) -> str:
    """The text of /proc/sys/vm/`name`, one space between several numbers."""
    return " ".join((VM / name).read_text().split())


def write_sysctl(name: str, value: int | str) -> None:
    """Set /proc/sys/vm/`name`."""
    (VM / name).write_text(str(value))


def kswapd_gave_up() -> bool:
    """Whether kswapd has given up on a node (16 rounds without one page) and will not wake for it."""
    return any(
        line.split()[1] != "0"
        for line in Path("/proc/zoneinfo").read_text().splitlines()
        if line.strip().startswith(("node_unreclaimable:", "all_unreclaimable:"))
    )


def revive_kswapd() -> None:
    """Make kswapd work again after it gave up, which any successful reclaim does (mm/vmscan.c, shrink_node()).

    A memory cgroup reads a small file and is then told to give the page cache back. ReclaimError if that fails.
    """
    for root, control, request in (
        (Path("/sys/fs/cgroup/memory"), "memory.force_empty", "0"),
        (Path("/sys/fs/cgroup"), "memory.reclaim", "8M"),
    ):
        group = root / f"memnotify-revive-{os.getpid()}"
        if not (root / "cgroup.procs").exists():
            continue
        group.mkdir()
        try:
            if not (group / control).exists():
                continue
            with tempfile.NamedTemporaryFile(prefix="memnotify-revive-") as file:
                file.truncate(16 * MIB)
                script = 'echo $$ > "$0"/cgroup.procs && exec cat "$1" > /dev/null'
                subprocess.run(["sh", "-c", script, str(group), file.name], check=True, timeout=20)
                with contextlib.suppress(OSError):  # EAGAIN: less than asked for
                    (group / control).write_text(request)
        finally:
            group.rmdir()
        if not kswapd_gave_up():
            return
    raise ReclaimError("kswapd has given up on a node and could not be revived")


def kswapd_pids() -> list[int]:
    """The kernel's kswapd threads, one per node."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().startswith("kswapd"):
                    found.append(int(entry.name))
    return found


def _state_letter(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# --------------------------------------------------------------------------- what has to be put back


@dataclass(slots=True)
class _Undo:
    """What was changed, as kept in the state file."""

    owner_pid: int
    owner_start_ticks: int
    sysctls: dict[str, str] = field(default_factory=dict)
    zram_index: int | None = None
    files: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Write the state file in one step, so that a crash leaves the old or the new one."""
        temporary = STATE_PATH.with_suffix(".tmp")
        temporary.write_text(
            json.dumps(
                {
                    "owner_pid": self.owner_pid,
                    "owner_start_ticks": self.owner_start_ticks,
                    "sysctls": self.sysctls,
                    "zram_index": self.zram_index,
                    "files": self.files,
                }
            )
        )
        temporary.replace(STATE_PATH)

    def apply(self) -> None:
        """Put everything back, keep going on errors, and drop the state file if nothing is left to do."""
        problems = []
        for name, value in self.sysctls.items():
            try:
                if read_sysctl(name) != value:
                    write_sysctl(name, value)
            except OSError as error:
                problems.append(f"{name}: {error}")
        for name in self.files:
            Path(name).unlink(missing_ok=True)
        if self.zram_index is not None:
            try:
                _remove_zram(self.zram_index)
            except OSError as error:
                problems.append(f"zram{self.zram_index}: {error}")
        if problems:
            raise ReclaimError("not everything could be put back: " + "; ".join(problems))
        STATE_PATH.unlink(missing_ok=True)


def _start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is gone or only a zombie is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _read_undo() -> _Undo | None:
    try:
        return _Undo(**json.loads(STATE_PATH.read_text()))
    except FileNotFoundError:
        return None


def restore_leftovers() -> bool:
    """Put back what a crashed run left; True when there was something. A run still alive is an error."""
    undo = _read_undo()
    if undo is None:
        return False
    if _start_ticks(undo.owner_pid) == undo.owner_start_ticks:
        raise ReclaimError(f"process {undo.owner_pid} is making real reclaim now")
    undo.apply()
    return True


def _libc_call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _add_zram(index: int, size_bytes: int) -> None:
    """Make a swap area of the zram device `index` and swap to it before any other."""
    block = Path(f"/sys/block/zram{index}")
    node = Path(f"/dev/zram{index}")
    algorithms = (block / "comp_algorithm").read_text().replace("[", "").replace("]", "").split()
    for wanted in ("lz4", "lzo-rle"):
        if wanted in algorithms:
            (block / "comp_algorithm").write_text(wanted)
            break
    (block / "disksize").write_text(str(size_bytes))
    if not node.exists():
        major, minor = map(int, (block / "dev").read_text().split(":"))
        os.mknod(node, 0o600 | 0o060000, os.makedev(major, minor))
    subprocess.run(["mkswap", str(node)], check=True, capture_output=True)
    swap_flag_prefer, priority = 0x8000, 100
    _libc_call("swapon", os.fsencode(node), swap_flag_prefer | priority)


def _remove_zram(index: int) -> None:
    node = f"/dev/zram{index}"
    block = Path(f"/sys/block/zram{index}")
    if not block.exists():
        return
    if any(line.startswith(node + " ") for line in Path("/proc/swaps").read_text().splitlines()):
        _libc_call("swapoff", os.fsencode(node))
    for attempt in range(50):
        try:
            (block / "reset").write_text("1")
            (ZRAM_CONTROL / "hot_remove").write_text(str(index))
            return
        except OSError:
            # udev and the like open a new block device for a moment.
            if attempt == 49:
                raise
            time.sleep(0.02)


def supported() -> str | None:
    """None when real reclaim can be made here, otherwise the reason in one line."""
    if sys.platform != "linux":
        return "not Linux"
    if os.geteuid() != 0:
        return "not root: the watermarks and swap cannot be changed"
    if not os.access(VM / MIN_FREE, os.W_OK):
        return f"{VM / MIN_FREE} cannot be written"
    if not (ZRAM_CONTROL / "hot_add").exists():
        return "no zram: /sys/class/zram-control/hot_add is missing (modprobe zram)"
    if shutil.which("mkswap") is None:
        return "no mkswap (util-linux)"
    lru_gen = Path("/sys/kernel/mm/lru_gen/enabled")
    if lru_gen.exists() and int(lru_gen.read_text(), 16) & 1:
        return "multi-generational LRU is on: the watermark technique is made for the classic LRU"
    total_bytes = sum(zone.present_pages for zone in read_zones()) * PAGE_BYTES
    available_bytes = _available_bytes()
    if available_bytes < max(3 * GIB, total_bytes // 2):
        return f"only {available_bytes // MIB} MiB of {total_bytes // MIB} MiB available: too little for safety"
    return None


def _meminfo_bytes(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise ReclaimError(f"/proc/meminfo has no {name}")


def _available_bytes() -> int:
    return _meminfo_bytes("MemAvailable")


def _huge_page_bytes() -> int:
    return _meminfo_bytes("Hugepagesize")


# --------------------------------------------------------------------------- the child that holds memory


def _page_block() -> bytes:
    """CHUNK_BYTES of pages, all different, that compress about two to one, as a program's memory does."""
    half = PAGE_BYTES // 2
    noise = os.urandom(CHUNK_BYTES // 2)
    return b"".join(noise[offset : offset + half] + bytes(half) for offset in range(0, len(noise), half))


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _hold(size_bytes: int, hot: bool) -> None:
    """The child: a command per line on stdin, an answer per line on stdout; the end of stdin means clean up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    block = _page_block()
    memory = [mmap.mmap(-1, CHUNK_BYTES, flags=mmap.MAP_PRIVATE) for _ in range(size_bytes // CHUNK_BYTES)]

    def fill(chunk: mmap.mmap) -> None:
        chunk.madvise(mmap.MADV_DONTNEED)
        chunk[:] = block
        if not hot:
            with contextlib.suppress(OSError):  # an older kernel: the first round of reclaim ages it instead
                chunk.madvise(MADV_COLD)

    def activate(chunk: mmap.mmap) -> None:
        # Access through /proc/self/mem marks a page accessed; the second time moves it to the active list.
        view = (ctypes.c_char * CHUNK_BYTES).from_buffer(chunk)
        address = ctypes.addressof(view)
        target = bytearray(MIB)
        with open("/proc/self/mem", "rb", buffering=0) as own_memory:
            for _ in range(2):
                for offset in range(0, CHUNK_BYTES, MIB):
                    os.preadv(own_memory.fileno(), [target], address + offset)
        del view

    for chunk in memory:
        chunk.madvise(mmap.MADV_NOHUGEPAGE)
        fill(chunk)
    if hot:
        for chunk in memory:
            activate(chunk)
    stop = threading.Event()

    def keep_hot() -> None:
        while not stop.wait(0.05):
            for chunk in memory:
                chunk[::PAGE_BYTES]

    if hot:
        threading.Thread(target=keep_hot, daemon=True).start()
    print("ready", flush=True)
    oldest = 0
    for line in sys.stdin:
        if line.strip() != "rearm":
            continue
        # Reclaim takes the oldest pages first, so what is swapped out is the chunks filled longest ago; hot memory
        # comes back by itself.
        for _ in range(2 * len(memory)):
            if _status_bytes("VmSwap") < CHUNK_BYTES // 4:
                break
            if hot:
                time.sleep(0.05)
            else:
                fill(memory[oldest])
                oldest = (oldest + 1) % len(memory)
        print("rearmed", flush=True)
    # The parent was killed: put back what it changed. Our memory goes first, or swapoff would have to read it in.
    stop.set()
    for chunk in memory:
        chunk.madvise(mmap.MADV_DONTNEED)
    for _ in range(100):
        undo = _read_undo()
        if undo is None:
            break
        if _start_ticks(undo.owner_pid) != undo.owner_start_ticks:
            undo.apply()
            break
        time.sleep(0.05)


class _Holder:
    """The child process, seen from the parent."""

    def __init__(self, size_bytes: int, *, hot: bool) -> None:
        kind = "hot" if hot else "cold"
        command = [sys.executable, str(Path(__file__).resolve()), "_hold", str(size_bytes), kind]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._expect("ready")

    @property
    def pid(self) -> int:
        return self._process.pid

    def _stream(self, stream: IO[Any] | None) -> IO[Any]:
        if stream is None:
            raise ReclaimError("the memory holder has no pipe")
        return stream

    def _expect(self, answer: str) -> None:
        line = self._stream(self._process.stdout).readline().strip()
        if line != answer:
            raise ReclaimError(f"the memory holder answered {line!r}, not {answer!r}")

    def rearm(self) -> None:
        stdin = self._stream(self._process.stdin)
        stdin.write("rearm\n")
        stdin.flush()
        self._expect("rearmed")

    def close(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.wait()


# --------------------------------------------------------------------------- the harness


@dataclass(slots=True)
class Episode:
    """One stretch of raised watermarks; the counters are differences over it, and 0 until it has ended.

    `begin_ns` is CLOCK_MONOTONIC just before the watermarks were raised, `end_ns` just after they were lowered.
    """

    begin_ns: int
    end_ns: int = 0
    deltas: dict[str, int] = field(default_factory=dict)

    @property
    def anon_scanned_pages(self) -> int:
        return self.deltas.get("pgscan_anon", 0)

    def __str__(self) -> str:
        shown = "pgscan_kswapd pgscan_direct pgscan_anon pgsteal_anon pgscan_file pgsteal_file"
        shown += " pgrefill pgdeactivate pswpout"
        counters = " ".join(f"{name}=+{self.deltas.get(name, 0)}" for name in shown.split())
        return f"{(self.end_ns - self.begin_ns) / 1e6:.0f} ms {counters}"


class RealReclaim:
    """Sets up zram swap and memory to reclaim; raises the watermarks on request; puts all back on exit.

    `cold_bytes` of memory that nobody uses and `hot_bytes` of memory on the active list that is touched every
    50 ms are held by child processes. Episodes need one of them to be large: 1 GiB lasts for more than a second
    of reclaim. Not for use by two threads at once, except that `end()` may come from anywhere. The methods
    block: an event loop runs them in a thread.

    Raises ReclaimError when `supported()` gives a reason against it, or when another run is active.
    """

    def __init__(
        self, *, cold_bytes: int = GIB, hot_bytes: int = 0, swap_bytes: int = 2 * GIB, swap: bool = True
    ) -> None:
        # The cold holder is always there, if only to put things back when this process is killed.
        self._sizes = (cold_bytes, hot_bytes)
        self._swap_bytes = swap_bytes if swap else 0
        self._undo: _Undo | None = None
        self._holders: list[_Holder] = []
        self._episode: Episode | None = None
        self._before: dict[str, int] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._old_sigterm: Callable[[int, FrameType | None], Any] | int | None = None

    # -- setting up and putting back

    def __enter__(self) -> RealReclaim:
        reason = supported()
        if reason is not None:
            raise ReclaimError(reason)
        restore_leftovers()
        own_pid = os.getpid()
        self._undo = _Undo(own_pid, _start_ticks(own_pid) or 0)
        self._undo.sysctls = {name: read_sysctl(name) for name in SYSCTLS if (VM / name).exists()}
        self._undo.save()
        if threading.current_thread() is threading.main_thread():
            # SIGTERM would otherwise end the interpreter without leaving any `with` block.
            self._old_sigterm = signal.signal(signal.SIGTERM, _exit_on_signal)
        try:
            if self._swap_bytes:
                self._undo.zram_index = int((ZRAM_CONTROL / "hot_add").read_text())
                self._undo.save()
                _add_zram(self._undo.zram_index, self._swap_bytes)
            self._initialise_all_memory()
            for size_bytes, hot in zip(self._sizes, (False, True), strict=True):
                if size_bytes or not hot:
                    self._holders.append(_Holder(size_bytes, hot=hot))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything and put everything back; may be called twice."""
        self._ended.set()
        undo, self._undo = self._undo, None
        if undo is None:
            return
        main_thread = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM)
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals) if main_thread else None
        try:
            for name, value in undo.sysctls.items():
                if read_sysctl(name) != value:
                    write_sysctl(name, value)
            while self._holders:
                self._holders.pop().close()
        finally:
            try:
                undo.apply()
            finally:
                if self._old_sigterm is not None:
                    signal.signal(signal.SIGTERM, self._old_sigterm)
                    self._old_sigterm = None
                if old_mask is not None:
                    signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)

    def _initialise_all_memory(self) -> None:
        """Make a kernel with deferred initialisation initialise all its memory.

        mm/page_alloc.c, get_page_from_freelist(): an allocation that finds a zone under its watermark first
        takes in more of the zone's memory, and kswapd is not asked. So the low watermark is moved ahead of the
        free pages step by step, while min stays behind them, until `managed` grows no more.
        """
        grown_from = -1
        try:
            for _ in range(100):
                zones = read_zones()
                managed_pages = sum(zone.managed_pages for zone in zones)
                present_pages = sum(zone.present_pages for zone in zones)
                missing_pages = present_pages - managed_pages
                usual_pages = max(present_pages // 20, 512 * MIB // PAGE_BYTES)
                if missing_pages <= usual_pages or managed_pages == grown_from:
                    return
                grown_from = managed_pages
                last = max(zones, key=lambda zone: zone.present_pages)
                write_sysctl(SCALE, EPISODE_SCALE)
                min_pages = int(0.85 * last.free_pages * managed_pages / last.managed_pages)
                write_sysctl(MIN_FREE, min_pages * PAGE_BYTES // 1024)
                _allocate(4 * MIB)
        finally:
            self._lower()

    # -- watermarks

    def _raise_for_episode(self) -> None:
        """Low above the free pages of every zone, min at most 85 % of them in the largest."""
        zones = pressed_zones(read_zones())
        largest = max(zones, key=lambda zone: zone.managed_pages)
        fullest = max(zone.free_pages / zone.managed_pages for zone in zones)
        min_share = max(0.05, fullest - EPISODE_LOW_ABOVE_MIN + 0.03)
        if min_share > 0.95 * largest.free_pages / largest.managed_pages:
            raise ReclaimError(f"zone {largest.zone} has too few free pages: an episode would not be safe")
        write_sysctl(SCALE, EPISODE_SCALE)
        self._write_min_share(min_share)

    def _raise_for_stream(self, margin_bytes: int, keep_bytes: int) -> None:
        """High below free + file pages by `margin_bytes`, in a machine made small: `keep_bytes` stay free.

        The watermarks are at least 4 : 5 : 6, so between a large low and high lie gigabytes to be filled and
        reclaimed again. So most free memory is first set aside as huge pages, which are never touched, and the zones
        below the largest are closed to ordinary allocations by their lowmem reserve.
        """
        zones = read_zones()
        if len({zone.node for zone in zones}) > 1:
            raise ReclaimError("streaming is made for machines with one memory node")
        largest = max(zones, key=lambda zone: zone.managed_pages)
        if largest.free_pages * PAGE_BYTES < keep_bytes:
            raise ReclaimError(f"zone {largest.zone} has too little free memory to stream a file")
        lower_zones = ("DMA", "DMA32", "Normal", "HighMem").index(largest.zone)
        ratios = read_sysctl(RESERVE_RATIO).split()
        write_sysctl(RESERVE_RATIO, " ".join(["1"] * lower_zones + ratios[lower_zones:]))
        spare_bytes = largest.free_pages * PAGE_BYTES - keep_bytes
        huge_pages = int(read_sysctl(HUGE_PAGES)) + spare_bytes // _huge_page_bytes()
        write_sysctl(HUGE_PAGES, huge_pages)
        largest = max(read_zones(), key=lambda zone: zone.managed_pages)
        reachable = largest.free_pages + largest.active_file_pages + largest.inactive_file_pages
        high_share = (reachable - margin_bytes // PAGE_BYTES) / largest.managed_pages
        # A boosted high watermark could end above free + file, and the stream would become an episode.
        write_sysctl(BOOST, 0)
        write_sysctl(SCALE, 1)
        self._write_min_share(high_share / PLAIN_HIGH_PER_MIN)

    def _write_min_share(self, share: float) -> None:
        managed_pages = sum(zone.managed_pages for zone in read_zones())
        write_sysctl(MIN_FREE, int(share * managed_pages) * PAGE_BYTES // 1024)

    def _lower(self) -> None:
        if self._undo is not None:
            for name, value in self._undo.sysctls.items():
                if read_sysctl(name) != value:
                    write_sysctl(name, value)

    # -- episodes

    def rest(self, timeout_s: float = 20.0) -> None:
        """Wait for rest: no zone under pressure, kswapd asleep, the cold memory back where it can be reclaimed.

        Page cache is dropped, so that little of it delays the next episode. ReclaimError after `timeout_s`.
        """
        self._end_if_running()
        for holder in self._holders:
            holder.rearm()
        (VM / "drop_caches").write_text("1")
        if kswapd_gave_up():
            revive_kswapd()
        deadline = time.monotonic() + timeout_s
        while not (self._wait_for_kswapd(deadline) and all(zone.clear for zone in pressed_zones(read_zones()))):
            if time.monotonic() > deadline:
                raise ReclaimError(f"no rest in {timeout_s} s: kswapd is busy or a zone is under pressure")
            time.sleep(0.02)

    def _wait_for_kswapd(self, deadline: float) -> bool:
        """Wait until kswapd has slept for QUIET_S; False when `deadline` (monotonic) passes.

        kswapd takes a nap of 100 ms before it really sleeps (mm/vmscan.c, kswapd_try_to_sleep()), and only then
        does it begin anew when it is woken.
        """
        kswapds = kswapd_pids()
        seen, since = -1, 0.0
        while (now := time.monotonic()) < deadline:
            scanned = read_vmstat()["pgscan_kswapd"]
            if scanned != seen or any(_state_letter(pid) != "S" for pid in kswapds):
                seen, since = scanned, now
            elif now - since >= QUIET_S:
                return True
            time.sleep(0.02)
        return False

    def begin(self, *, max_s: float = 3.0) -> Episode:
        """Raise the watermarks: anonymous memory is reclaimed from now until `end()`, for at most `max_s`.

        Call `rest()` before. It also ends when 70 % of the held memory is swapped out, because kswapd would give up
        on a node where nothing is left to reclaim.
        """
        if self._undo is None:
            raise ReclaimError("not set up: use RealReclaim as a context manager")
        self._end_if_running()
        self._before = read_vmstat()
        self._episode = episode = Episode(begin_ns=time.monotonic_ns())
        self._watch(max_s)
        try:
            self._raise_for_episode()
            _allocate(PAGE_BYTES)  # kswapd is woken by the next allocation, so make one
        except BaseException:
            self._end_if_running()
            raise
        return episode

    def end(self) -> Episode:
        """Put the watermarks back and return the episode; ReclaimError if no anonymous page was scanned."""
        episode = self._episode
        if episode is None:
            raise ReclaimError("no episode has begun")
        self._end_if_running()
        self._episode = None
        if episode.anon_scanned_pages == 0:
            raise ReclaimError(f"no anonymous page was scanned: {episode}")
        return episode

    def _end_if_running(self) -> None:
        with self._lock:
            episode = self._episode
            if episode is None or episode.end_ns:
                return
            self._lower()
            episode.end_ns = time.monotonic_ns()
            after = read_vmstat()
            episode.deltas = {name: after[name] - self._before.get(name, 0) for name in after}
        self._ended.set()

    def _watch(self, max_s: float) -> None:
        """End the episode after `max_s`, or when most of the held memory is swapped out, whatever else happens."""
        self._ended = ended = threading.Event()
        stop_at = time.monotonic() + max_s
        most_pages = 0.7 * min(sum(self._sizes) or GIB, self._swap_bytes or GIB) // PAGE_BYTES
        swapped_before = self._before["pswpout"]

        def watch() -> None:
            while not ended.wait(0.02):
                swapped_pages = read_vmstat()["pswpout"] - swapped_before
                if time.monotonic() > stop_at or swapped_pages > most_pages:
                    self._end_if_running()

        threading.Thread(target=watch, name="episode-watch", daemon=True).start()

    @contextlib.contextmanager
    def episode(self, *, max_s: float = 3.0) -> Iterator[Episode]:
        """Rest, then reclaim for as long as the `with` block runs, at most `max_s`; then fill in the counters."""
        self.rest()
        running = self.begin(max_s=max_s)
        try:
            yield running
        except BaseException:
            self._end_if_running()
            raise
        self.end()

    def reclaim_for(self, seconds: float) -> Episode:
        """One episode of this length, from rest."""
        with self.episode(max_s=seconds + 1.0) as running:
            time.sleep(seconds)
        return running

    # -- streaming

    def stream(
        self,
        file_bytes: int = 4 * GIB,
        *,
        passes: int = 2,
        margin_bytes: int = GIB,
        keep_bytes: int = 5 * GIB,
        max_s: float = 60.0,
        folder: str | None = None,
    ) -> Episode:
        """Read a sparse file of this size `passes` times while only page cache has to be reclaimed for it.

        `margin_bytes` is how much page cache remains when kswapd is content, `keep_bytes` how much free memory the
        machine has at the beginning. Returns the counters' differences; that kswapd reclaimed file pages is
        checked (ReclaimError: the file was too small), that it left the anonymous ones alone is for the caller to
        judge. Stops after `max_s`.
        """
        with self.honest_watermarks(margin_bytes=margin_bytes, keep_bytes=keep_bytes, max_s=max_s) as result:
            self.read_file(file_bytes, passes=passes, max_s=max_s, folder=folder)
        if result.deltas["pgsteal_file"] == 0:
            raise ReclaimError(f"the file of {file_bytes // MIB} MiB did not make kswapd reclaim: {result}")
        return result

    @contextlib.contextmanager
    def honest_watermarks(
        self, *, margin_bytes: int = GIB, keep_bytes: int = 5 * GIB, max_s: float = 60.0
    ) -> Iterator[Episode]:
        """From rest: a machine made small whose high watermark is `margin_bytes` below its free memory.

        Nothing is reclaimed yet; what the `with` block then allocates decides whether page cache is enough.
        """
        if self._undo is None:
            raise ReclaimError("not set up: use RealReclaim as a context manager")
        self.rest()
        self._before = read_vmstat()
        self._episode = result = Episode(begin_ns=time.monotonic_ns())
        self._watch(max_s)
        try:
            if CPU_LISTS in self._undo.sysctls:
                write_sysctl(CPU_LISTS, CPU_LISTS_FRACTION)
            self._raise_for_stream(margin_bytes, keep_bytes)
            yield result
        finally:
            self._end_if_running()
            self._episode = None

    def read_file(
        self,
        file_bytes: int,
        *,
        passes: int = 1,
        max_s: float = 60.0,
        folder: str | None = None,
        keep: bool = False,
    ) -> None:
        """Read a sparse file through the page cache, then wait until kswapd sleeps and delete it.

        With `keep` the file, and so its page cache, stays until the context ends.
        """
        if self._undo is None:
            raise ReclaimError("not set up: use RealReclaim as a context manager")
        stop_at = time.monotonic() + max_s
        descriptor, name = tempfile.mkstemp(prefix="memnotify-stream-", dir=folder)
        self._undo.files.append(name)
        self._undo.save()
        try:
            os.ftruncate(descriptor, file_bytes)
            buffer = bytearray(MIB)
            for _ in range(passes):
                offset = 0
                while offset < file_bytes and time.monotonic() < stop_at:
                    offset += os.preadv(descriptor, [buffer], offset)
            # If the page cache vanished under it, kswapd would have to finish with anonymous pages.
            self._wait_for_kswapd(time.monotonic() + 5.0)
        finally:
            os.close(descriptor)
            if not keep:
                Path(name).unlink(missing_ok=True)
                self._undo.files.remove(name)
                self._undo.save()

    def fill(self, size_bytes: int) -> None:
        """Hold this much more cold memory, until the context ends."""
        self._holders.append(_Holder(size_bytes, hot=False))


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _allocate(size_bytes: int) -> None:
    """Touch fresh memory and give it back."""
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE) as memory:
        for offset in range(0, size_bytes, PAGE_BYTES):
            memory[offset] = 1


# --------------------------------------------------------------------------- by hand


def _show(text: str) -> None:
    print(f"{time.monotonic():.3f} {text}", flush=True)


def _show_state(title: str) -> None:
    sysctls = " ".join(f"{name}={read_sysctl(name)}" for name in SYSCTLS)
    _show(f"{title}: {sysctls}")
    for zone in pressed_zones(read_zones()):
        _show(
            f"  node{zone.node}-{zone.zone}: free={zone.free_pages} min={zone.min_pages} low={zone.low_pages} "
            f"high={zone.high_pages} managed={zone.managed_pages} active_anon={zone.active_anon_pages} "
            f"inactive_anon={zone.inactive_anon_pages} "
            f"file={zone.active_file_pages + zone.inactive_file_pages}"
        )


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit 0 done, 1 not as promised, 2 not possible here."""
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.support.reclaim", description=description)
    parser.add_argument("what", choices=["episode", "stream", "hot", "restore"])
    parser.add_argument("--count", type=int, default=3, help="how many episodes (default 3)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of an episode (default 0.3)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between episodes (default 1)")
    parser.add_argument("--cold", type=int, metavar="MIB", help="memory nobody uses (default 1024 for episode)")
    parser.add_argument("--hot", type=int, metavar="MIB", help="memory in use (default 1024 for hot)")
    parser.add_argument("--file", type=int, metavar="MIB", default=4096, help="stream: its size (default 4096)")
    options = parser.parse_args(arguments)
    if options.what == "restore":
        _show("put back what an earlier run left" if restore_leftovers() else "nothing to put back")
        return 0
    reason = supported()
    if reason is not None:
        print(f"real reclaim is not possible: {reason}", file=sys.stderr)
        return 2
    cold_mib = options.cold if options.cold is not None else (1024 if options.what == "episode" else 0)
    hot_mib = options.hot if options.hot is not None else (1024 if options.what == "hot" else 0)
    _show_state("before")
    status = 0
    try:
        with RealReclaim(cold_bytes=cold_mib * MIB, hot_bytes=hot_mib * MIB) as reclaim:
            _show(f"zram swap on, {cold_mib} MiB cold and {hot_mib} MiB hot memory held")
            if options.what == "stream":
                _show(f"streaming {options.file} MiB twice; only page cache is reclaimed")
                result = reclaim.stream(options.file * MIB)
                _show(f"streamed: {result}")
            else:
                for number in range(options.count):
                    with reclaim.episode(max_s=options.seconds + 1.0) as running:
                        _show_state(f"episode {number + 1} of {options.count} begun")
                        time.sleep(options.seconds)
                    _show(f"episode ended: {running}")
                    if number + 1 < options.count:
                        time.sleep(options.pause)
    except ReclaimError as error:
        print(f"real reclaim failed: {error}", file=sys.stderr)
        status = 1
    _show_state("after")
    return status


if __name__ == "__main__":
    if sys.argv[1:2] == ["_hold"]:
        _hold(int(sys.argv[2]), sys.argv[3] == "hot")
    else:
        sys.exit(main())
