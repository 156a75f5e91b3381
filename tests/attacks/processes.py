"""Facts about processes that may be stuck, from what can be read without waiting for them.

/proc/PID/status and getsid(2) need neither the memory map of a process nor the lock of its exec. /proc/PID/stat,
environ, cmdline and maps do (on 6.18 a reader of stat waits in state D for an exec that hangs), and are read of no
process but the server's own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

from memnotify_cuse.kernel import libc

CONNECTIONS = Path("/sys/fs/fuse/connections")
"""The kernel's list of FUSE connections (Documentation/filesystems/fuse.rst), a folder for each number."""


def within(limit_s: float, condition: Callable[[], object]) -> float | None:
    """Seconds until `condition` was true, None if it was not within the limit."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > limit_s:
            return None
        time.sleep(0.005)
    return time.monotonic() - started


def is_gone(pid: int) -> bool:
    """Whether all threads of a process have ended. A zombie with a living thread is not gone: that is how it hangs."""
    status = _status(pid)
    return not status or (status["State"][:1] in "ZX" and status["Threads"] == "1")


def family(pid: int) -> list[int]:
    """A process and all its descendants, itself first."""
    parents = {each: _status(each).get("PPid") for each in _pids()}
    found = [pid]
    for member in found:
        found += sorted(child for child, parent in parents.items() if parent == str(member))
    return found


def kill_sessions(sids: Collection[int], limit_s: float) -> list[int]:
    """SIGKILL for every process of these sessions, at once; those that are still there after `limit_s`."""

    def left() -> list[int]:
        return [pid for pid in _pids() if _session_of(pid) in sids and not is_gone(pid)]

    def all_gone() -> bool:
        found = left()
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    return [] if within(limit_s, all_gone) is not None else left()


def pss_mb(pids: Iterable[int]) -> float:
    """The proportional set size of processes together; those that have ended count nothing."""
    total_kb = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total_kb += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kb / 1024


def descriptors(pids: Iterable[int]) -> int:
    """The most descriptors that one of the processes has."""
    most = 0
    for pid in pids:
        with suppress(OSError):
            most = max(most, len(os.listdir(f"/proc/{pid}/fd")))
    return most


def mounts_at(path: Path) -> list[int]:
    """The connection numbers (device minors) of what is mounted at a path."""
    # Others on the machine may have mounts whose names are no UTF-8.
    lines = (line.split(" ") for line in os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).split("\n"))
    return [int(words[2].split(":")[1]) for words in lines if words[4:5] == [str(path)]]


def mount_fusectl() -> None:
    """Make the kernel's list of connections visible; it stays so."""
    if not mounts_at(CONNECTIONS):
        with suppress(OSError):
            libc.mount("none", str(CONNECTIONS), "fusectl", 0)


def abort(connection: int) -> None:
    """End a FUSE connection, whoever holds it; everybody who waits for it gets an error."""
    mount_fusectl()
    with suppress(OSError):
        (CONNECTIONS / str(connection) / "abort").write_text("1")


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _status(pid: int) -> dict[str, str]:
    """The words of a status file by their key; empty if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
