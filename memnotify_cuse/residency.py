"""Keeping the server's memory small and in memory, and ahead of others for a CPU while that is needed.

A server that must act when memory is short must not wait for its own pages. So it locks what it uses once it is set up:
not the whole of every library that it has loaded, but each page from its first use on (MCL_ONFAULT). Pages of program
files that only the start needed are let go first; should one be needed again, it comes from the page cache. What comes
later is not locked, since clients can make it grow.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from memnotify_cuse.kernel import libc

log = logging.getLogger(__name__)

REALTIME_PRIORITY = 1


class _Mapping(NamedTuple):
    start: int
    length: int


def settle() -> str | None:
    """Call once all is set up: let go of what only that needed, and lock the rest. What is not permitted, None if all
    is.
    """
    gc.collect()
    gc.freeze()
    _release_start_up_memory()
    try:
        libc.lock_memory()
    except OSError as error:
        return f"memory locked ({error.strerror})"
    return None


def warn_of_refusals(refusals: Iterable[str | None]) -> None:
    """One warning that names what was not permitted, if anything was."""
    named = [refused for refused in refusals if refused]
    if named:
        log.warning("not permitted, so it may be late when memory is short: %s", ", ".join(named))


class Realtime:
    """Real-time priority for this thread, while the kernel reclaims or a zone is under pressure, and not at rest.

    While memory is reclaimed the CPUs are busy. The server does little each time, and the kernel keeps some time for
    others (sched_rt_runtime_us); where clients ask so much of it that it would do more, it is an ordinary process
    meanwhile.
    """

    def __init__(self) -> None:
        self._reclaiming = False
        self._pressed = False
        self._flooded: set[object] = set()
        self._held = False
        self._permitted = True

    def check(self) -> str | None:
        """What is not permitted, None if all is. To be called with the rights that the server will keep."""
        try:
            _set_realtime(held=True)
            _set_realtime(held=False)
        except OSError as error:
            self._permitted = False
            return f"real-time priority ({error.strerror})"
        return None

    @property
    def held(self) -> bool:
        return self._held

    def reclaiming(self, reclaiming: bool) -> None:
        """Whether the kernel reclaims, as far as the scanner sees."""
        self._reclaiming = reclaiming
        self._apply()

    def pressed(self, pressed: bool) -> None:
        """Whether a zone is under pressure, be it a simulated one."""
        self._pressed = pressed
        self._apply()

    def flood(self, connection: object, flooded: bool) -> None:
        """Whether clients ask more through a connection than is good for others."""
        (self._flooded.add if flooded else self._flooded.discard)(connection)
        self._apply()

    def _apply(self) -> None:
        wanted = (self._reclaiming or self._pressed) and not self._flooded
        if wanted == self._held or not self._permitted:
            return
        try:
            _set_realtime(held=wanted)
        except OSError as error:
            self._permitted = False
            log.warning("real-time priority is not permitted any more: %s", error.strerror)
            return
        self._held = wanted


def _set_realtime(*, held: bool) -> None:
    # Who is not root may not take the flag away again, and must repeat it.
    policy, priority = (os.SCHED_RR, REALTIME_PRIORITY) if held else (os.SCHED_OTHER, 0)
    os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))


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
