"""Starting the programs to be measured, and ending them whatever happens."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import CannotRunError
from tests.support.reclaim import RealReclaim, ReclaimError, supported
from tests.support.server import Server, mount_problem, unmount

SOURCES = Path(__file__).resolve().parent
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")
START_LIMIT_S = 20.0
END_LIMIT_S = 10.0
RECLAIM_WAIT_S = 60.0


class Workshop:
    """A temporary folder for one run, and the C programs compiled into it when they are first asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def program(self, name: str, *packages: str) -> Path:
        """The path of the program `name`.c, linked with these pkg-config packages; CannotRunError if that fails."""
        program = self.directory / name
        if not program.exists():
            command = ["cc", *FLAGS, "-o", str(program), str(SOURCES / f"{name}.c"), *_package_flags(packages)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True)
            except FileNotFoundError:
                raise CannotRunError("no C compiler (cc)") from None
            except subprocess.CalledProcessError as error:
                raise CannotRunError(f"{name}.c does not compile: {_first_line(error.stderr)}") from None
        return program

    @contextmanager
    def server(self, *options: str) -> Iterator[Server]:
        """`memnotify serve` with a mount in the folder; its device is the one in the mount."""
        problem = mount_problem()
        if problem is not None:
            raise CannotRunError(problem)
        directory = Path(tempfile.mkdtemp(prefix="server-", dir=self.directory))
        try:
            with Server(directory, *options) as server:
                yield server
        except RuntimeError as error:
            raise CannotRunError(_first_line(str(error))) from None
        except subprocess.TimeoutExpired:
            unmount(directory / "mount")
            raise CannotRunError("the server does not end, not even by SIGKILL") from None


@contextmanager
def workshop() -> Iterator[Workshop]:
    """A `Workshop` that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="memnotify-bench-", ignore_cleanup_errors=True) as directory:
        yield Workshop(Path(directory))


@contextmanager
def running(command: list[str], *, stdout: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """A program with a pipe for its standard input; ended with SIGTERM, or SIGKILL if that does not help."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            end(process)


def answering_pid(server: Server) -> int:
    """The process of the server that answers requests, a child of the one that was started."""
    words = (server.mount / "server").read_text().split()
    return next(int(word.partition("=")[2]) for word in words if word.startswith("server_pid="))


def is_real_time(pid: int) -> bool:
    """Whether the process runs before all ordinary ones just now."""
    return os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR)


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """SIGTERM, then SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def progress(text: str) -> None:
    """Say how far it is, for who watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {text}", end="", file=sys.stderr, flush=True)


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
    """Return once `condition` holds; CannotRunError after the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise CannotRunError(f"waited {limit_s:.0f} s in vain: {what}")
        time.sleep(0.01)


class Listener:
    """A running `listen`. It writes to memory, not to a pipe: nobody is woken to read while it is measured."""

    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self._process = process
        self._output = output

    def lines(self) -> list[list[int]]:
        """The numbers of every line so far; CannotRunError when the program has ended."""
        if self._process.poll() is not None:
            assert self._process.stderr is not None
            message = _first_line(self._process.stderr.read().decode())
            raise CannotRunError(message or f"listen ended with {self._process.returncode}")
        text = os.pread(self._output, os.fstat(self._output).st_size, 0).decode()
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [[int(word) for word in line.split()] for line in whole if line != "ready"]

    def times_ns(self) -> list[int]:
        """When each notification came."""
        return [line[0] for line in self.lines()]

    def wait_until_ready(self) -> None:
        wait_until(self._is_ready, "listen is not ready")

    def _is_ready(self) -> bool:
        self.lines()
        return os.fstat(self._output).st_size > 0


@contextmanager
def listening(program: Path, *arguments: str) -> Iterator[Listener]:
    """`listen` with these arguments, ready; CannotRunError with what it says when it cannot."""
    output = os.memfd_create("listen")
    try:
        with running([str(program), *arguments], stdout=output) as process:
            listener = Listener(process, output)
            listener.wait_until_ready()
            yield listener
    finally:
        os.close(output)


@contextmanager
def real_reclaim(*, cold_bytes: int | None = None, swap: bool = True) -> Iterator[RealReclaim]:
    """`RealReclaim`, waited for when somebody else is at it; CannotRunError when it is not possible here."""
    reason = supported()
    if reason is not None:
        raise CannotRunError(f"no real reclaim: {reason}")
    with contextlib.ExitStack() as stack:
        deadline = time.monotonic() + RECLAIM_WAIT_S
        while True:
            reclaim = RealReclaim(swap=swap) if cold_bytes is None else RealReclaim(cold_bytes=cold_bytes, swap=swap)
            try:
                stack.enter_context(reclaim)
                break
            except ReclaimError as error:
                if time.monotonic() > deadline:
                    raise CannotRunError(f"no real reclaim: {error}") from None
                time.sleep(1.0)
        yield reclaim


def _package_flags(packages: tuple[str, ...]) -> list[str]:
    if not packages:
        return []
    if shutil.which("pkg-config") is None:
        raise CannotRunError("no pkg-config")
    query = ["pkg-config", "--cflags", "--libs", *packages]
    result = subprocess.run(query, check=False, capture_output=True, text=True)
    if result.returncode:
        raise CannotRunError(f"the development files of {' and '.join(packages)} are missing")
    return result.stdout.split()


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
