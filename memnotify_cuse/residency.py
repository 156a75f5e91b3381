"""Keeping the server's memory small and in memory, out of the OOM killer's way, and ahead of others for a CPU.

A server that must act when memory is short must not wait for its own pages. So it locks what it uses: not the
whole of every library that it has loaded, but each page from its first use on (MCL_ONFAULT). Pages of program files
that only the start needed are let go first; should one be needed again, it comes from the page cache.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
from pathlib import Path
from typing import NamedTuple

from memnotify_cuse.kernel import libc

log = logging.getLogger(__name__)

OOM_SCORE_ADJ = -900
REALTIME_PRIORITY = 1


class _Mapping(NamedTuple):
    start: int
    length: int


def settle() -> None:
    """Call once all is set up, in the thread that serves. What is not permitted is one warning, not a failure."""
    gc.collect()
    gc.freeze()
    _release_start_up_memory()
    refused = []
    for what, attempt in (
        ("memory locked", libc.lock_memory),
        ("oom_score_adj lowered", _lower_oom_score),
        ("real-time priority", be_first_in_line),
    ):
        try:
            attempt()
        except OSError as error:
            refused.append(f"{what} ({error.strerror})")
    if refused:
        log.warning("not permitted, so it may be late when memory is short: %s", ", ".join(refused))


def be_first_in_line() -> None:
    """Let this thread run before ordinary programs: while memory is reclaimed the CPUs are busy.

    It does little each time, and the kernel keeps some time for others (sched_rt_runtime_us). Raises OSError.
    """
    os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(REALTIME_PRIORITY))


def _lower_oom_score() -> None:
    Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJ))


def _release_start_up_memory() -> None:
    try:
        mappings = clean_file_mappings(Path("/proc/self/smaps").read_text())
    except OSError as error:
        log.debug("smaps: %s", error)
        return
    for mapping in mappings:
        libc.drop_clean_pages(mapping.start, mapping.length)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def clean_file_mappings(smaps: str) -> list[_Mapping]:
    """The mappings of files that are read-only and hold no page of our own: all of them can be read again.

    A library's relocated pages are read-only as well, but changed: they show as `Anonymous`.
    """
    found = []
    candidate: _Mapping | None = None
    for line in smaps.splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            start, end = (int(address, 16) for address in words[0].split("-"))
            read_only, inode = words[1][1] == "-", words[4]
            candidate = _Mapping(start, end - start) if read_only and inode != "0" else None
        elif words[0] == "Anonymous:" and words[1] == "0" and candidate is not None:
            found.append(candidate)
    return found
