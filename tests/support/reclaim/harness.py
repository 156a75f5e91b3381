"""Raises the watermarks to where memory is, and puts them back."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from memnotify_cuse.scanner.choices import RATE_KEPT_NS
from tests.support.reclaim.counters import (
    BOOST,
    CPU_LISTS,
    CPU_LISTS_FRACTION,
    EPISODE_LOW_ABOVE_MIN,
    EPISODE_SCALE,
    GIB,
    HUGE_PAGES,
    MIB,
    MIN_FREE,
    PAGE_BYTES,
    PLAIN_HIGH_PER_MIN,
    QUIET_S,
    RESERVE_RATIO,
    SCALE,
    SYSCTLS,
    VM,
    ZRAM_CONTROL,
    ReclaimError,
    ZonePages,
    available_bytes,
    huge_page_bytes,
    kswapd_gave_up,
    kswapd_pids,
    pressed_zones,
    read_sysctl,
    read_vmstat,
    read_zones,
    revive_kswapd,
    state_letter,
    write_sysctl,
)
from tests.support.reclaim.holder import Holder
from tests.support.reclaim.putback import Undo, add_zram, restore_leftovers, start_ticks

FORGOTTEN_S = 1.5 * RATE_KEPT_NS / 1e9
"""After so long a server does not reckon any more with how fast memory was taken."""


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
    there_bytes = available_bytes()
    if there_bytes < max(3 * GIB, total_bytes // 2):
        return f"only {there_bytes // MIB} MiB of {total_bytes // MIB} MiB available: too little for safety"
    return None


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
        self._undo: Undo | None = None
        self._holders: list[Holder] = []
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
        self._undo = Undo(own_pid, start_ticks(own_pid) or 0)
        self._undo.sysctls = {name: read_sysctl(name) for name in SYSCTLS if (VM / name).exists()}
        self._undo.save()
        if threading.current_thread() is threading.main_thread():
            # SIGTERM would otherwise end the interpreter without leaving any `with` block.
            self._old_sigterm = signal.signal(signal.SIGTERM, _exit_on_signal)
        try:
            if self._swap_bytes:
                self._undo.zram_index = int((ZRAM_CONTROL / "hot_add").read_text())
                self._undo.save()
                add_zram(self._undo.zram_index, self._swap_bytes)
            self._initialise_all_memory()
            for size_bytes, hot in zip(self._sizes, (False, True), strict=True):
                if size_bytes or not hot:
                    self._hold(size_bytes, hot=hot)
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
        """Low above the free pages of every zone that counts, min at most 95 % of them in the largest."""
        zones = pressed_zones(read_zones())
        largest = max(zones, key=lambda zone: zone.managed_pages)
        most = 0.95 * largest.free_pages / largest.managed_pages
        if _episode_min_share(zones) > most:
            # What others use lies in the largest zone, while those below it are free.
            self._close_zones_below(largest)
            zones = [zone for zone in zones if zone.zone == largest.zone]
        min_share = _episode_min_share(zones)
        if min_share > most:
            raise ReclaimError(f"zone {largest.zone} has too few free pages: an episode would not be safe")
        write_sysctl(SCALE, EPISODE_SCALE)
        self._write_min_share(min_share)

    def _close_zones_below(self, largest: ZonePages) -> None:
        """Ordinary allocations get nothing from them, however much is free, and kswapd does not reckon with them."""
        lower_zones = ("DMA", "DMA32", "Normal", "HighMem").index(largest.zone)
        ratios = read_sysctl(RESERVE_RATIO).split()
        write_sysctl(RESERVE_RATIO, " ".join(["1"] * lower_zones + ratios[lower_zones:]))

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
        self._close_zones_below(largest)
        spare_bytes = largest.free_pages * PAGE_BYTES - keep_bytes
        huge_pages = int(read_sysctl(HUGE_PAGES)) + spare_bytes // huge_page_bytes()
        write_sysctl(HUGE_PAGES, huge_pages)
        # A server that saw several steps of it took it for a rate, and would tell of what is left at that rate.
        time.sleep(FORGOTTEN_S)
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
            if scanned != seen or any(state_letter(pid) != "S" for pid in kswapds):
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
        """Rest, then reclaim for as long as the `with` block runs, at most `max_s`; then fill in the counters.

        It does not end before anonymous pages were scanned: a program may be told while page cache is still taken.
        """
        self.rest()
        running = self.begin(max_s=max_s)
        try:
            yield running
            while not running.end_ns and read_vmstat()["pgscan_anon"] == self._before["pgscan_anon"]:
                time.sleep(0.005)
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

        Nothing is reclaimed yet; what the `with` block then allocates decides whether page cache is enough. The memory
        held and set aside was taken too long ago to be told of as the rate at which memory goes.
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
        self._hold(size_bytes, hot=False)

    def _hold(self, size_bytes: int, *, hot: bool) -> None:
        self._holders.append(Holder(size_bytes, hot=hot))


def _episode_min_share(zones: list[ZonePages]) -> float:
    """The share of its pages that min has to be for low to be above what is free in each of `zones`."""
    fullest = max(zone.free_pages / zone.managed_pages for zone in zones)
    return max(0.05, fullest - EPISODE_LOW_ABOVE_MIN + 0.03)


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _allocate(size_bytes: int) -> None:
    """Touch fresh memory and give it back."""
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE) as memory:
        for offset in range(0, size_bytes, PAGE_BYTES):
            memory[offset] = 1
