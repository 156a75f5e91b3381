"""The server that is attacked: `memnotify serve` with a machine of its own, stopped and killed with a limit."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.attacks.limits import LIMIT_S, STOP_S, WATCHDOG_S
from tests.attacks.processes import abort, family, mounts_at, within
from tests.support.mounted import Machine
from tests.support.server import unmount

PIPE_BYTES = 4096
"""Of a stderr that nobody empties: the smallest pipe there is."""


class Target:
    """A server at `directory`/mount and `directory`/node; a context manager, after which nothing of it is left.

    With `full_stderr` its stderr is a pipe that is full from the moment it is ready, and that nobody empties.
    """

    def __init__(self, directory: Path, *options: str, full_stderr: bool = False) -> None:
        self.mount = directory / "mount"
        self.device = directory / "node"
        self.directory = directory
        if not (directory / "proc").exists():
            self.machine = Machine(directory)
        self._options = options
        self._log_path = directory / "server.log"
        self._pipe: tuple[int, int] | None = None
        self._full_stderr = full_stderr
        self._connections: set[int] = set()
        self._known: dict[int, int] = {}
        """A pidfd for each process that the server ever had: an id may be used again."""
        self._is_ready = False
        self._watchdog: threading.Timer | None = None
        self.start()

    def start(self) -> None:
        """Start it, at the paths of the one before. AssertionError if it is not ready within the limit."""
        paths = ("--mount", str(self.mount), "--device", str(self.device))
        command = (sys.executable, "-m", "memnotify_cuse", "serve", *paths, *self.machine.options, *self._options)
        self._log_path.write_bytes(b"")
        self._is_ready = False
        self._forget()
        if self._full_stderr:
            self._pipe = os.pipe()
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=self._pipe[1])
        else:
            with self._log_path.open("wb") as log:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        self._stop_watchdog()
        self._watchdog = threading.Timer(WATCHDOG_S, self.release)
        self._watchdog.daemon = True
        self._watchdog.start()
        try:
            ready = within(LIMIT_S, lambda: "ready: " in self.log or self._process.poll() is not None)
            assert ready is not None, f"not ready within {LIMIT_S} s: {self.log}"
            assert self._process.poll() is None, f"ended with {self._process.returncode}: {self.log}"
            self._is_ready = True
            self._connections = {*mounts_at(self.mount), *mounts_at(self.device)}
            self.pids()
            if self._pipe is not None:
                _fill(self._pipe[1])
        except BaseException:
            self.__exit__(None, None, None)
            raise

    @property
    def log(self) -> str:
        """What it wrote to stderr; of a pipe what can be had until it is ready."""
        if self._pipe is not None and not self._is_ready:
            os.set_blocking(self._pipe[0], False)
            try:
                with self._log_path.open("ab") as log:
                    log.write(os.read(self._pipe[0], 65536))
            except BlockingIOError:
                pass
        return self._log_path.read_text(errors="replace")

    def pids(self) -> list[int]:
        """The processes of the server, the first one first. Those of before are remembered, also without a parent."""
        now = family(self._process.pid)
        for pid in now:
            if pid not in self._known:
                with suppress(ProcessLookupError):
                    self._known[pid] = os.pidfd_open(pid)
        return now

    @property
    def known_pids(self) -> list[int]:
        """The processes that it was last seen with: without a look at all of the machine's."""
        return list(self._known)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> float | None:
        """SIGTERM: seconds until every process of it is gone, None if it is not within the limit."""
        self.pids()
        self._process.send_signal(signal.SIGTERM)
        return within(STOP_S, self._all_gone)

    def kill(self, pid: int) -> None:
        """SIGKILL for one process of it."""
        self.pids()
        os.kill(pid, signal.SIGKILL)

    def is_gone(self) -> bool:
        """Whether all processes that it ever had are gone, the first one reaped."""
        return self._all_gone()

    def release(self) -> None:
        """Let go of everybody who waits for it, then end it: it may be beyond SIGKILL before."""
        if self.is_gone():
            return
        for connection in self._connections | set(mounts_at(self.mount)):
            abort(connection)
        self._process.kill()
        for pid in self._living():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._known[pid], signal.SIGKILL)

    def leftovers(self) -> list[str]:
        """What a server that ended should not have left."""
        left = [f"{path} is mounted" for path in (self.mount, self.device) if mounts_at(path)]
        # Looked at only where that cannot wait for a dead server.
        if not left and self.device.exists():
            left.append(f"{self.device} is there")
        if self._process.poll() not in (0, None):
            left.append(f"exit code {self._process.returncode}: {self.log[-2000:]}")
        return left + [f"process {pid} is there" for pid in self._living()]

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_watchdog()
        if self._process.poll() is None:
            self.terminate()
        self.release()
        for path in (self.device, self.mount):
            while mounts_at(path):
                unmount(path)
        self._process.wait(LIMIT_S)
        self._forget()
        for fd in self._pipe or ():
            os.close(fd)
        self._pipe = None

    def _all_gone(self) -> bool:
        return self._process.poll() is not None and not self._living()

    def _living(self) -> list[int]:
        """Those of which a thread is left: a pidfd is readable once the last has ended."""
        poll = select.poll()
        for pidfd in self._known.values():
            poll.register(pidfd, select.POLLIN)
        ended = {pidfd for pidfd, _ in poll.poll(0)}
        return [pid for pid, pidfd in self._known.items() if pidfd not in ended and not _is_abandoned(pid)]

    def _stop_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _forget(self) -> None:
        for pidfd in self._known.values():
            os.close(pidfd)
        self._known = {}


def _fill(pipe: int) -> None:
    """Fill a pipe through an open file of our own: O_NONBLOCK on the server's would be the server's as well."""
    fd = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(fd, b"\n" * PIPE_BYTES)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)


def _is_abandoned(pid: int) -> bool:
    """Whether this is a SIGIO helper that not even SIGKILL ends, since it waits for an attacker's file system.

    It holds nothing of the server's, and ends with that file system. Their number is bounded.
    """
    try:
        lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    except OSError:
        return False
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    pending = int(status.get("SigPnd", "0"), 16) | int(status.get("ShdPnd", "0"), 16)
    killed = bool(pending & 1 << (signal.SIGKILL - 1))
    return status["Name"] == "memnotify-sigio" and status["State"].startswith("D") and killed
