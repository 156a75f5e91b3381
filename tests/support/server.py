"""A real server in a process of its own, for the mount tier: started, waited for, and cleaned up after."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from memnotify_cuse.kernel.mountinfo import mount_at
from tests.support.spawner import Spawned, Spawner

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


def mount_problem() -> str | None:
    """Why no FUSE file system can be mounted here, None if one can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "not root, and fusermount3 is not installed"
    return None


class Server:
    """`memnotify serve` with a mount of its own under `directory`; a context manager.

    `device` is the device of all zones in the mount, or the node outside it that `node` asks for. `log` has what
    the server wrote to stderr. With a `spawner` it is that which starts it.
    """

    def __init__(
        self, directory: Path, *options: str, node: Path | None = None, spawner: Spawner | None = None
    ) -> None:
        self.mount = directory / "mount"
        self.device = node or self.mount / "mem_notify"
        self._log_path = directory / "server.log"
        argv = ["serve", "--mount", str(self.mount), "--device", str(node or ""), *options]
        # What another server wrote there must not be taken for this one's.
        self._log_path.write_text("")
        self.process: subprocess.Popen[bytes] | Spawned
        self.process = spawner.start(argv, self._log_path) if spawner else _started(argv, self._log_path)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    @property
    def zones(self) -> list[str]:
        """The zones that have a device of their own and are not ignored for their size."""
        lines = [dict(word.split("=") for word in line.split()) for line in self.status().splitlines()]
        return [f"node{line['node']}-{line['zone']}" for line in lines if line["status"] != "-1"]

    def status(self) -> str:
        return (self.mount / "status").read_text()

    def simulate(self, zone: str = "all", seconds: float = 1.0, level: str = "low") -> None:
        """Put a zone under simulated pressure, as the control file system takes it."""
        (self.mount / "simulate").write_text(f"{zone} {seconds} {level}\n")

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL; the mounts it leaves are removed."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)
        for path in (self.device, self.mount):
            unmount(path)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_TIMEOUT_S)
        for path in (self.device, self.mount):
            unmount(path)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "ready: " not in self.log:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {self.log}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server is not ready: {self.log}")
            time.sleep(0.01)


def _started(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as stderr:
        command = [sys.executable, "-m", "memnotify_cuse", *argv]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr)


def unmount(path: Path) -> None:
    """Unmount lazily whatever is mounted at `path`; nothing there is fine."""
    if mount_at(path) is not None:
        command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
        subprocess.run([*command, str(path)], check=False, stderr=subprocess.DEVNULL)


class Lines:
    """The lines that a program prints, waited for with a limit."""

    def __init__(self, process: subprocess.Popen[bytes], *, limit_s: float = 120.0) -> None:
        assert process.stdout is not None
        self._stdout = process.stdout
        self._limit_s = limit_s
        self._rest = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)

    def waiting(self, limit_s: float) -> bool:
        """Whether a line, or the end, can be had within `limit_s`."""
        return b"\n" in self._rest or bool(self._selector.select(limit_s))

    def next(self) -> str:
        """The next line, without its end; AssertionError if none comes within the limit."""
        deadline = time.monotonic() + self._limit_s
        while b"\n" not in self._rest:
            assert self._selector.select(max(0.0, deadline - time.monotonic())), f"no line within {self._limit_s} s"
            data = os.read(self._stdout.fileno(), 65536)
            assert data, f"the program closed its output after {self._rest!r}"
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()
