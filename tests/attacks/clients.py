"""The programs beside the server: those of an honest user, and the attack with its own silent FUSE mount."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from memnotify_cuse.kernel import libc
from tests.attacks.limits import LIMIT_S, RELEASE_S, SILENT_S
from tests.attacks.processes import CONNECTIONS, abort, kill_sessions, mount_fusectl, mounts_at, within
from tests.support.mounted import NOBODY
from tests.support.programs import Programs
from tests.support.server import unmount

HONEST_UID: Final = 1000


class Program:
    """A program in a session of its own, and the lines that it has printed. A context manager that ends all of it."""

    def __init__(self, command: Sequence[str | Path], *, uid: int | None = None, pass_fds: Sequence[int] = ()) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else (),
            pass_fds=pass_fds,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def count(self, word: str) -> int:
        """How many lines begin with a word."""
        return sum(line.startswith(word) for line in list(self.lines))

    def wait_for(self, word: str, count: int = 1) -> None:
        """Return once it has printed `count` such lines; AssertionError if it does not within the limit."""
        found = within(LIMIT_S, lambda: self.count(word) >= count or self.count("failed"))
        assert found is not None, f"no {word!r} from {self._process.args!r}: {self.lines[-5:]}"
        assert not self.count("failed"), f"{self._process.args!r}: {self.lines[-5:]}"

    def kill(self) -> list[int]:
        """SIGKILL for all of it; the processes that are still there after the limit."""
        return kill_all([self])

    def reap(self) -> None:
        """Take note of the end of its first process."""
        self._process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)

    @property
    def session(self) -> int:
        """The session that all its processes are in."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.lines.append(line.decode(errors="replace").rstrip())


def kill_all(programs: Sequence[Program]) -> list[int]:
    """SIGKILL for all of these programs at once; the processes that are still there after the limit."""
    left = kill_sessions({program.session for program in programs}, RELEASE_S)
    if not left:
        for program in programs:
            program.reap()
    return left


@dataclass(frozen=True, slots=True)
class Told:
    """One notification as a program saw it; CLOCK_MONOTONIC."""

    at_ns: int
    record_ns: int
    """The record's time_ns; 0 if there was none to read."""


class Honest(Program):
    """A program of uid 1000 asleep in poll, or waiting for its signal ("sigio")."""

    def __init__(self, programs: Programs, how: str, device: Path) -> None:
        super().__init__([programs("honest"), how, device], uid=HONEST_UID)
        self.how = how

    def told(self) -> list[Told]:
        lines = [line.split() for line in list(self.lines) if line.startswith("told ")]
        return [Told(int(words[1]), int(words[2])) for words in lines]


def open_as(programs: Programs, uid: int, path: Path, count: int) -> str:
    """What is wrong with `count` opens by a user, "" if each succeeds."""
    with Program([programs("honest"), "open", path, str(count)], uid=uid) as program:
        if within(LIMIT_S, lambda: program.count("opened")) is None:
            return f"uid {uid}: no answer to open within {LIMIT_S} s"
        words = program.lines[-1].split()
        return "" if int(words[1]) == count else f"uid {uid}: {words[1]} of {count} opens, {os.strerror(int(words[2]))}"


class SilentMount:
    """A FUSE mount on the file `path` that uid 65534 serves, through the descriptor `fd`, as it likes.

    fusermount3 would make it for any user; here root does. It is always aborted in the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        mount_fusectl()
        path.touch()
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        data = f"fd={self.fd},rootmode=100666,user_id={NOBODY},group_id={NOBODY},allow_other"
        libc.mount("silent", str(path), "fuse", libc.MS_NOSUID | libc.MS_NODEV, data)
        self._connections = mounts_at(path)
        # A program that looks at a process that it hangs (ps, lsof) hangs with it: not for longer, even if we are gone.
        aborts = "; ".join(f"echo 1 > {CONNECTIONS}/{number}/abort" for number in self._connections)
        command = ["sh", "-c", f"sleep {SILENT_S}; {aborts}"]
        self._watchdog = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)

    def hand_over(self) -> None:
        """Close our descriptor, once the attack has its own."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def abort(self) -> None:
        """Let go of everybody who waits for it."""
        for connection in self._connections:
            abort(connection)

    def __enter__(self) -> SilentMount:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()
        self.hand_over()
        unmount(self.path)
        with suppress(ProcessLookupError):
            os.killpg(self._watchdog.pid, signal.SIGKILL)
        self._watchdog.wait()


def sleep_until(deadline_s: float, condition: Callable[[], object]) -> None:
    """Return once `condition` is true, or at the deadline (time.monotonic)."""
    within(max(0.0, deadline_s - time.monotonic()), condition)
