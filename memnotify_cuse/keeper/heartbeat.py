"""When the server has last done its work: a time in the state file, which the keeper reads when it wakes.

A message would wake the keeper each time, on a machine at rest as well. The server that writes it may have been taken
over: so a time that lies ahead counts for nothing.

This module, like all that the keeper imports, imports little.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

AT = 40
"""In the header of the state file (`statefile`)."""
BYTES = 8


def note(shared: mmap.mmap, now_ns: int) -> None:
    """The server has done its work until `now_ns` (CLOCK_MONOTONIC); `shared` is a map of the state file."""
    shared[AT : AT + BYTES] = now_ns.to_bytes(BYTES, sys.byteorder)


def last_s(fd: int, clock_s: Callable[[], float] = time.monotonic) -> float:
    """When that was, in seconds; 0 where it never did, or says that it will."""
    noted_s = int.from_bytes(os.pread(fd, BYTES, AT), sys.byteorder) / 1e9
    return noted_s if noted_s <= clock_s() else 0.0
