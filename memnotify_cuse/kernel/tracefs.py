"""tracefs: a trace instance of our own that tells when the kernel reclaims.

    /sys/kernel/tracing/instances/memnotify-4711/               of process 4711
    /sys/kernel/tracing/instances/memnotify-1-4026532281/       of process 1 in another pid namespace
        buffer_size_kb  trace_clock  buffer_percent  tracing_on  trace_pipe  set_event
        events/vmscan/mm_vmscan_lru_shrink_active/{enable,filter,format}

Kernel source: kernel/trace/trace.c, instance_mkdir(), tracing_read_pipe(), and
Documentation/trace/ftrace.rst. An instance has its own ring buffer, events, filters and clock, so other
users of tracing notice nothing. It stays until it is removed: a server that was killed leaves one behind,
which `remove_stale_instances()` finds. Removing one whose trace_pipe is open, or being read, fails with
EBUSY.

The kernel has one set of instances for all pid namespaces, and the same process id can be in several of
them, so a name has the inode of /proc/PID/ns/pid as well; the first namespace's is left out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.errors import KernelFileGoneError, NoKernelMemoryError
from memnotify_cuse.kernel.trace import (
    DIRECT_RECLAIM_BEGIN,
    KSWAPD_WAKE,
    LRU_SHRINK_ACTIVE,
    LRU_SHRINK_INACTIVE,
)

TRACEFS_CANDIDATES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
BUFFER_SIZE_KB = 64

_PREFIX = "memnotify-"
# Bit 0 of reclaim_flags is RECLAIM_WB_ANON (include/trace/events/vmscan.h): file lists stay silent.
VMSCAN_EVENTS: Mapping[str, str | None] = {
    f"vmscan/{KSWAPD_WAKE}": None,
    f"vmscan/{DIRECT_RECLAIM_BEGIN}": None,
    f"vmscan/{LRU_SHRINK_ACTIVE}": "reclaim_flags & 1",
    f"vmscan/{LRU_SHRINK_INACTIVE}": "reclaim_flags & 1",
}
"""The events of reclaim, and what is let through of each."""

_F_SETFL = 4
FCNTL_EVENTS: Mapping[str, str | None] = {"syscalls/sys_enter_fcntl": f"cmd == {_F_SETFL}"}
"""The event of a call of fcntl(2), and what is let through of it: F_SETFL."""

# A new instance inherits the global options; these are the ones that would change the form of a line. Not
# record-tgid, which `TraceParser` copes with: on some kernels it counts for all instances.
_OPTIONS = (
    "context-info",
    "irq-info",
    "noraw",
    "nohex",
    "nobin",
    "noverbose",
    "nofields",
    "nolatency-format",
    "nostacktrace",
    # Or trace_pipe would always be said to be readable (trace_poll()).
    "noblock",
)
_READ_BYTES = 64 * 1024
# PROC_PID_INIT_INO, include/linux/proc_ns.h
_FIRST_NAMESPACE = 0xEFFFFFFC
_SETTING_UP_S = 10.0
_REMOVE_ATTEMPTS = 20
_REMOVE_PAUSE_S = 0.01


def instance_name(pid: int, word: str = "") -> str:
    """What the instance of process `pid` of this pid namespace is called; `word` tells a second one from the first."""
    namespace = own_namespace()
    return _PREFIX + (f"{word}-" if word else "") + str(pid) + (f"-{namespace}" if namespace else "")


def own_namespace() -> int | None:
    """The number of this pid namespace, None for the first one, or where /proc does not tell."""
    try:
        number = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
    return None if number == _FIRST_NAMESPACE else number


def find_tracefs(candidates: Iterable[str | Path] = TRACEFS_CANDIDATES) -> Path | None:
    """The first candidate that is a mounted tracefs which we may look into, else None."""
    for candidate in candidates:
        path = Path(candidate)
        if os.path.isdir(path / "instances") and os.path.isdir(path / "events"):
            return path
    return None


def mount_tracefs(path: Path = Path(TRACEFS_CANDIDATES[0])) -> None:
    """Mount tracefs on the directory `path` (needs CAP_SYS_ADMIN). Raises KernelFileGoneError."""
    try:
        libc.mount("tracefs", str(path), "tracefs", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
    except OSError as error:
        raise KernelFileGoneError(str(path), _reason("tracefs cannot be mounted", error)) from error


class TracePipe:
    """What a trace instance is used by: its trace_pipe, to be polled and read, its tracing_on and its set_event.

    All are open files, so that a process may use them that could not open them. `path` is the instance's. set_event
    lists the events that are on, and takes the name of one to be switched on ("system:event"); -1 where it is not to be
    had. Every error is a KernelFileGoneError that names the file.
    """

    def __init__(self, path: Path, pipe: int, switch: int, events: int = -1) -> None:
        self.path = path
        self.pipe = pipe
        self.switch = switch
        self.events = events
        self._wanted: frozenset[bytes] | None = None

    def fileno(self) -> int:
        """The descriptor of trace_pipe: readable when there is an event."""
        if self.pipe < 0:
            raise KernelFileGoneError(str(self.path / "trace_pipe"), "closed")
        return self.pipe

    def read(self) -> bytes:
        """What has arrived, for `TraceParser.feed()`; b"" when there is nothing. Never waits."""
        try:
            return os.read(self.fileno(), _READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise KernelFileGoneError(str(self.path / "trace_pipe"), _reason("cannot be read", error)) from error

    def set_tracing(self, on: bool) -> None:
        """Let the instance record or not; what it has recorded stays readable."""
        try:
            os.write(self.switch, b"1" if on else b"0")
        except OSError as error:
            raise _failure(self.path / "tracing_on", "cannot be written", error) from error

    def watch_events(self) -> None:
        """Take the events that are on for those that are to be on, opening set_event if need be and permitted."""
        if self.events < 0:
            try:
                self.events = os.open(self.path / "set_event", os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                # Only a check is lost with it.
                return
        self._wanted = self._enabled()

    def check(self, *, tracing: bool = True) -> None:
        """Raise KernelFileGoneError if the instance (unless not `tracing`), or an event, was switched off."""
        missing = self._missing()
        if missing:
            names = ", ".join(sorted(event.decode().removeprefix("vmscan:mm_vmscan_") for event in missing))
            raise KernelFileGoneError(str(self.path / "set_event"), f"switched off from outside: {names}")
        if tracing:
            try:
                is_on = os.pread(self.switch, 8, 0).strip() != b"0"
            except OSError as error:
                raise _failure(self.path / "tracing_on", "cannot be read", error) from error
            if not is_on:
                raise KernelFileGoneError(str(self.path / "tracing_on"), "switched off from outside")

    def mend(self) -> None:
        """Switch on again what `check` complains of; the filters of events are kept while they are off."""
        for event in self._missing():
            try:
                os.write(self.events, event + b"\n")
            except OSError as error:
                raise _failure(self.path / "set_event", f"does not take {event.decode()!r}", error) from error
        self.set_tracing(True)

    def close(self) -> None:
        """Close the files; closing them twice does nothing. The instance stays."""
        for fd in (self.pipe, self.switch, self.events):
            if fd >= 0:
                os.close(fd)
        self.pipe = self.switch = self.events = -1

    def _missing(self) -> frozenset[bytes]:
        return self._wanted - self._enabled() if self._wanted is not None else frozenset()

    def _enabled(self) -> frozenset[bytes]:
        names = b""
        try:
            while part := os.pread(self.events, _READ_BYTES, len(names)):
                names += part
            return frozenset(names.split())
        except OSError as error:
            raise _failure(self.path / "set_event", "cannot be read", error) from error


class TraceInstance:
    """A trace instance with the reclaim events enabled; make one with `create()`, and `close()` removes it.

    `events` names those that this kernel has. `pipe` is what it is used by. Every error is a KernelFileGoneError that
    names the file; a NoKernelMemoryError may have passed when `create()` is tried again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: tuple[str, ...] = ()
        self.pipe = TracePipe(path, -1, -1)
        self._closed = False

    @classmethod
    def create(
        cls, tracefs: Path, name: str | None = None, events: Mapping[str, str | None] = VMSCAN_EVENTS
    ) -> TraceInstance:
        """Make `tracefs`/instances/`name` (default: `instance_name`) and start tracing `events` ("system/event")."""
        instance = cls(tracefs / "instances" / (name or instance_name(os.getpid())))
        try:
            instance.path.mkdir()
        except OSError as error:
            raise _failure(instance.path, "cannot be made", error) from error
        try:
            instance._set_up(events)
        except BaseException:
            with contextlib.suppress(KernelFileGoneError):
                instance.close()
            raise
        return instance

    def close(self) -> None:
        """Disable the events and remove the instance; closing it twice does nothing."""
        if self._closed:
            return
        self._closed = True
        for event in self.events:
            # The instance is about to go, and its events with it.
            with contextlib.suppress(KernelFileGoneError):
                self._write(f"events/{event}/enable", "0")
        self.pipe.close()
        _remove(self.path)

    def __enter__(self) -> TraceInstance:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _set_up(self, events: Mapping[str, str | None]) -> None:
        for option in _OPTIONS:
            # Not every kernel has every option, and a missing one is at its harmless setting.
            with contextlib.suppress(KernelFileGoneError):
                self._write("trace_options", option)
        self._write("buffer_size_kb", str(BUFFER_SIZE_KB))
        self._write("trace_clock", "mono")
        # Older than 4.20 there is no buffer_percent, and a reader is woken for every event anyway.
        if (self.path / "buffer_percent").exists():
            self._write("buffer_percent", "0")
        found: list[str] = []
        for event, event_filter in events.items():
            folder = f"events/{event}"
            if not (self.path / folder / "enable").exists():
                continue
            if event_filter is not None:
                self._write(f"{folder}/filter", event_filter)
            self._write(f"{folder}/enable", "1")
            found.append(event)
            self.events = tuple(found)
        if not found:
            raise KernelFileGoneError(str(self.path / "events" / "vmscan"), "this kernel has no reclaim tracepoints")
        self.pipe.pipe = self._open("trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        self.pipe.switch = self._open("tracing_on", os.O_RDWR)
        self.pipe.set_tracing(True)
        self.pipe.watch_events()

    def _open(self, name: str, flags: int) -> int:
        file = self.path / name
        try:
            return os.open(file, flags | os.O_CLOEXEC)
        except OSError as error:
            raise _failure(file, "cannot be opened", error) from error

    def _write(self, name: str, value: str) -> None:
        file = self.path / name
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise _failure(file, f"does not take {value!r}", error) from error


def remove_stale_instances(
    tracefs: Path, prefix: str = _PREFIX, *, proc: Path = Path("/proc"), own_pid: int | None = None
) -> list[str]:
    """Remove the instances that servers left which no longer run; return the names of those removed.

    An instance (`instance_name`) is stale when its process is gone, does not have "memnotify" in its command line, or
    is `own_pid` (default: this one), which has only just started. One that cannot be removed now (a process reads it)
    is left for the next time. That tells stale ones of other pid namespaces, whose processes may not be seen from here,
    once they are old enough to have been set up.
    """
    removed: list[str] = []
    try:
        names = sorted(os.listdir(tracefs / "instances"))
    except OSError as error:
        raise KernelFileGoneError(str(tracefs / "instances"), _reason("cannot be listed", error)) from error
    for name in names:
        match = re.fullmatch(re.escape(prefix) + "(?:[a-z]+-)?([1-9][0-9]{0,9})(?:-([1-9][0-9]{0,9}))?", name)
        if match is None:
            continue
        path = tracefs / "instances" / name
        namespace = int(match[2]) if match[2] else None
        if not is_left_behind(int(match[1]), namespace, path, proc=proc, own_pid=own_pid or os.getpid()):
            continue
        with contextlib.suppress(KernelFileGoneError):
            _remove(path, attempts=_REMOVE_ATTEMPTS if namespace == own_namespace() else 1)
            removed.append(name)
    return removed


def is_left_behind(pid: int, namespace: int | None, path: Path, *, proc: Path, own_pid: int) -> bool:
    """Whether what process `pid` of pid namespace `namespace` made at `path` is of a server that no longer runs."""
    if namespace == own_namespace():
        return pid == own_pid or not _runs_memnotify(proc / str(pid))
    return not _is_new(path)


def _is_new(path: Path) -> bool:
    """Whether it may still be without a reader because it is only being set up."""
    try:
        return time.time() - path.stat().st_ctime < _SETTING_UP_S
    except OSError:
        return True


def _runs_memnotify(process: Path) -> bool:
    try:
        return b"memnotify" in (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        # Another user's process that we may not look at: not ours to judge.
        return True


def remove_instance(path: Path) -> None:
    """Remove a trace instance, if it is there. Raises KernelFileGoneError, for one if a process reads it."""
    _remove(path)


def _remove(path: Path, attempts: int = _REMOVE_ATTEMPTS) -> None:
    for attempt in range(attempts):
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or attempt == attempts - 1:
                raise KernelFileGoneError(str(path), _reason("cannot be removed", error)) from error
            time.sleep(_REMOVE_PAUSE_S)
        else:
            return


def _failure(path: Path, what: str, error: OSError) -> KernelFileGoneError:
    # No instance gets its ring buffer while memory is short (kernel/trace/ring_buffer.c asks si_mem_available()).
    kind = NoKernelMemoryError if error.errno == errno.ENOMEM else KernelFileGoneError
    return kind(str(path), _reason(what, error))


def _reason(what: str, error: OSError) -> str:
    return f"{what}: {os.strerror(error.errno) if error.errno is not None else error}"
