"""Keeping the server's memory small and in memory, and ahead of others for a CPU while that is needed.

A server that must act when memory is short must not wait for its own pages. So it locks what it uses once it is set up:
not the whole of every library that it has loaded, but each page from its first use on (MCL_ONFAULT). Pages of program
files that only the start needed are let go first; should one be needed again, it comes from the page cache. What comes
later is not locked, since clients can make it grow.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterable

from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.mappings import drop_clean_file_pages

log = logging.getLogger(__name__)

REALTIME_PRIORITY = 1


def lock_memory() -> str | None:
    """Call once all is set up: let go of what only that needed, and lock the rest. What is not permitted, None if all
    is.
    """
    gc.collect()
    gc.freeze()
    drop_clean_file_pages()
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
    """Real-time priority for this thread, while the kernel reclaims, a zone is under pressure, or programs wait for it
    to take the place of another server; and not at rest.

    While memory is reclaimed the CPUs are busy. The server does little each time, and the kernel keeps some time for
    others (sched_rt_runtime_us); where clients ask so much of it that it would do more, it is an ordinary process
    meanwhile.
    """

    def __init__(self) -> None:
        # The keeper starts a server in place of another one with it: programs wait for that one.
        self._starting = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
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
        self._apply()
        return None

    def started(self) -> None:
        """The start is over."""
        self._starting = False
        self._apply()

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
        wanted = (self._reclaiming or self._pressed or self._starting) and not self._flooded
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
