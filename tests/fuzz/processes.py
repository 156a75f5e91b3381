"""A server and all processes that it started: which they are, what they hold, how to end them whatever they do."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
CONNECTIONS: Final = Path("/sys/fs/fuse/connections")

_PSS: Final = re.compile(r"^Pss: +([0-9]+) kB$", re.MULTILINE)
_RSS: Final = re.compile(r"^Rss: +([0-9]+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Held:
    """What processes hold together; memory in KiB. Pages that several of them have count once in `pss_kb`."""

    processes: int
    descriptors: int
    rss_kb: int
    pss_kb: int


def family(pid: int) -> list[int]:
    """`pid` and all that descend from it, by /proc/PID/task/*/children (fs/proc/array.c)."""
    found = [pid]
    for parent in found:
        for task in _listed(PROC / str(parent) / "task"):
            with suppress(OSError):
                found += map(int, (PROC / str(parent) / "task" / task / "children").read_text().split())
    return found


def held_by(pid: int) -> Held:
    """What `pid` and its descendants hold now. One that is gone meanwhile holds nothing."""
    pids = family(pid)
    descriptors = rss_kb = pss_kb = 0
    for each in pids:
        descriptors += len(_listed(PROC / str(each) / "fd"))
        with suppress(OSError):
            text = (PROC / str(each) / "smaps_rollup").read_text()
            rss_kb += _number(_RSS, text)
            pss_kb += _number(_PSS, text)
    return Held(len(pids), descriptors, rss_kb, pss_kb)


def connection_of(mount: Path) -> Path:
    """Where fusectl has the connection of a mount: by its device number, so that the mount need not answer."""
    for line in (PROC / "self/mountinfo").read_text(errors="surrogateescape").split("\n"):
        fields = line.split(" ")
        if len(fields) > 4 and fields[4] == str(mount):
            return CONNECTIONS / fields[2].partition(":")[2]
    raise LookupError(f"nothing is mounted at {mount}")


def end(pid: int, connection: Path) -> None:
    """Kill `pid` and its descendants, and end the connection: whoever waits in a request gets an error."""
    for each in family(pid):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    with suppress(OSError):
        (connection / "abort").write_text("1")


def _listed(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _number(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.search(text)
    return int(match[1]) if match else 0
