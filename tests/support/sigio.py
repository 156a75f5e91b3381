"""What tests of SIGIO share: a client that does as it is told, the device, and the kernel's own sources of SIGIO."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import pytest

from memnotify_cuse.kernel.kprobes import kprobes_problem
from memnotify_cuse.kernel.tracefs import find_tracefs
from tests.support.mounted import LIMIT_S, LONG_S, Machine, notifications, open_files, wait_until
from tests.support.server import Lines, Server

SIGIO: Final = int(signal.SIGIO)
REALTIME: Final = int(signal.SIGRTMIN) + 3

SI_SIGIO: Final = -5
SI_KERNEL: Final = 0x80
POLL_IN: Final = 1
BAND: Final = 0x41
"""POLLIN | POLLRDNORM."""

THREAD, PROCESS, GROUP = 0, 1, 2
"""The kinds of owner of F_SETOWN_EX."""

GUARD_STEP_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Got:
    """A signal: what siginfo_t said, and the process and thread that got it."""

    number: int
    code: int
    fd: int
    band: int
    pid: int
    tid: int


class PuppetError(Exception):
    """A command failed; the message is the name of the error."""


class Puppet:
    """A process of programs/puppet.c; a context manager. It starts with the default disposition of every signal."""

    def __init__(self, program: Path, *, pass_fds: Sequence[int] = ()) -> None:
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=pass_fds, bufsize=0
        )
        self.pid = self.process.pid
        self._lines = Lines(self.process, limit_s=LIMIT_S)
        self._got: list[Got] = []
        self._reply()

    def ask(self, *words: object) -> str:
        """Have it do something, and its reply; PuppetError with the name of the error if that failed."""
        self.tell(*words)
        return self._reply()

    def number(self, *words: object) -> int:
        return int(self.ask(*words))

    def tell(self, *words: object) -> None:
        """Have it do something that lasts; `reply` is for later."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")

    def reply(self) -> str:
        return self._reply()

    def watch(self, path: Path, *, number: int = 0, owner: int | None = None) -> int:
        """Open `path` and ask for its signal (0: plain SIGIO), with a handler; the descriptor."""
        fd = self.number("open", path)
        self.ask("handle", number or SIGIO)
        self.subscribe(fd, number=number, owner=owner)
        return fd

    def subscribe(self, fd: int, *, number: int = 0, owner: int | None = None) -> None:
        """Ask for `fd`'s signal, to be sent to `owner` (None: itself)."""
        if number:
            self.ask("setsig", fd, number)
        self.ask("setown", fd, self.pid if owner is None else owner)
        self.ask("async", fd, 1)

    def next(self) -> Got:
        """The next signal that it got, waited for with a limit."""
        while not self._got:
            self._take(self._lines.next())
        return self._got.pop(0)

    def so_far(self) -> list[Got]:
        """The signals that were not asked for yet, all that it had when this was called: it answers after them."""
        self.ask("pid")
        got, self._got = self._got, []
        return got

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        if self.alive:
            self.process.kill()
        self.process.wait(LIMIT_S)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Puppet:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _reply(self) -> str:
        while True:
            line = self._lines.next()
            if line.startswith("! "):
                raise PuppetError(line[2:])
            if line.startswith("= "):
                return line[2:]
            self._take(line)

    def _take(self, line: str) -> None:
        assert line.startswith("s "), line
        self._got.append(Got(*map(int, line.split()[1:])))


NewPuppet = Callable[..., Puppet]


def needs_kprobes() -> None:
    """Skip where mode `auto` can see no more than mode `owner`."""
    tracefs = find_tracefs()
    problem = "no tracefs for us to see" if tracefs is None else kprobes_problem(tracefs)
    if problem is not None:
        pytest.skip(f"O_ASYNC cannot be seen here: {problem}")


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Witness:
    """A client that is signalled at each notification, so that a test knows when others have had their turn."""

    def __init__(self, server: Server, puppet: Puppet) -> None:
        self._server = server
        self._puppet = puppet
        puppet.watch(server.device)

    def sees_notifications(self, count: int = 3) -> None:
        """Return when `count` notifications were served to the witness, so all but the last to everybody."""
        with notifying(self._server):
            self._puppet.so_far()
            for _ in range(count):
                self._puppet.next()


class Source(Protocol):
    """Something that signals its owner when there is something to read."""

    @property
    def name(self) -> str: ...

    def give(self, puppet: Puppet) -> int:
        """Have `puppet` open it; the descriptor."""

    def stimulate(self) -> None:
        """Have it signal once."""

    def close(self) -> None: ...


class DeviceSource:
    """The device of a server that sees `machine`, and that tells everybody at each notification."""

    def __init__(self, server: Server, machine: Machine, name: str = "device") -> None:
        self.name = name
        self._server = server
        self._swapless = machine

    def give(self, puppet: Puppet) -> int:
        return puppet.number("open", self._server.device)

    def stimulate(self) -> None:
        notify_once(self._server, self._swapless)

    def close(self) -> None:
        """The server is somebody else's."""


class FifoSource:
    """The kernel's own SIGIO, of a FIFO."""

    name = "fifo"

    def __init__(self, directory: Path) -> None:
        self._path = directory / "fifo"
        os.mkfifo(self._path)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def give(self, puppet: Puppet) -> int:
        return puppet.number("open", self._path)

    def stimulate(self) -> None:
        os.write(self._fd, b"x")

    def close(self) -> None:
        os.close(self._fd)


class PtySource:
    """The kernel's own SIGIO, of a terminal."""

    name = "pty"

    def __init__(self) -> None:
        self._fd, self._slave = os.openpty()
        tty.setraw(self._slave)
        self._written = 0

    def give(self, puppet: Puppet) -> int:
        return puppet.number("open", os.ttyname(self._slave))

    def stimulate(self) -> None:
        self._written += os.write(self._fd, b"x")
        # A terminal passes on later what was written, together with what was written since.
        wait_until(lambda: self._readable_bytes() == self._written, "the terminal readable")

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._slave)

    def _readable_bytes(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._slave, termios.FIONREAD, bytes(4)), sys.byteorder)


class SocketSource:
    """The kernel's own SIGIO, of sockets: they have no path, so each puppet is passed one through another socket."""

    name = "socket"

    def __init__(self, directory: Path) -> None:
        self._path = directory / "socket"
        self._ours: list[socket.socket] = []

    def give(self, puppet: Puppet) -> int:
        ours, theirs = socket.socketpair()
        self._ours.append(ours)
        with theirs:
            return pass_descriptor(theirs.fileno(), puppet, self._path)

    def stimulate(self) -> None:
        for each in self._ours:
            # The other end may be closed, which is the point of a test.
            with suppress(BrokenPipeError):
                each.send(b"x")

    def close(self) -> None:
        for each in self._ours:
            each.close()


def pass_descriptor(fd: int, puppet: Puppet, path: Path) -> int:
    """Send `fd` to `puppet` through a socket made at `path`; the descriptor that it got."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        connected = puppet.number("connect", path)
        by, _ = listening.accept()
    path.unlink()
    with by:
        socket.send_fds(by, [b"x"], [fd])
        received = puppet.number("receive", connected)
    puppet.ask("close", connected)
    return received


def notify_once(server: Server, machine: Machine) -> None:
    """Have `server` notify once, when the guard time of every file that it may have told before is over."""
    time.sleep(GUARD_STEP_S * max(1, open_files(server)))
    before = notifications(server)
    machine.tighten()
    wait_until(lambda: notifications(server) == before + 1, "a notification")


def notify_until_told(server: Server, machine: Machine, puppet: Puppet) -> list[Got]:
    """Have `server` notify until `puppet` is told; its signals.

    Where files are is not known when they were passed on, and after a search of all processes there is none for nine
    times as long as that took: it may be a later notification that finds one.
    """
    got: list[Got] = []

    def told() -> bool:
        notify_once(server, machine)
        got.extend(puppet.so_far())
        return bool(got)

    wait_until(told, "the file found")
    return got


@contextmanager
def notifying(server: Server) -> Iterator[None]:
    """Notifications for the block, one every 200 ms."""
    server.simulate(seconds=LONG_S)
    try:
        yield
    finally:
        server.simulate(seconds=0)
