"""A child process that holds memory, and puts things back when its parent is killed."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from tests.support.reclaim.counters import CHUNK_BYTES, MADV_COLD, MIB, PAGE_BYTES, ReclaimError
from tests.support.reclaim.putback import read_undo, start_ticks

PROJECT = Path(__file__).parents[3]


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


def hold(size_bytes: int, hot: bool) -> None:
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
        undo = read_undo()
        if undo is None:
            break
        if start_ticks(undo.owner_pid) != undo.owner_start_ticks:
            undo.apply()
            break
        time.sleep(0.05)


class Holder:
    """The child process, seen from the parent."""

    def __init__(self, size_bytes: int, *, hot: bool) -> None:
        kind = "hot" if hot else "cold"
        command = [sys.executable, "-m", "tests.support.reclaim", "_hold", str(size_bytes), kind]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=PROJECT
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
