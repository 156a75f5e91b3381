"""What outlives a server, and a keeper: descriptors, and facts about them.

The kernel ends a connection when its last descriptor is closed. The keeper has a duplicate of each, which it gives to
one server after the other. A keeper that is started by the service manager in place of one that has ended gets what
that one has stored (FDSTORE=1), as systemd passes it:

    LISTEN_PID=4711 LISTEN_FDS=3 LISTEN_FDNAMES=memnotify-facts:memnotify-fuse:memnotify-lock

One that replaces itself by newer code passes them on under the numbers that they have:

    MEMNOTIFY_KEPT=4711:facts=7:fuse=5:lock=6

Source: sd_listen_fds(3), sd_notify(3). The facts are lines in a memfd: `KEY VALUE`, where a value has \\\\ for a
backslash and \\n for a newline.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "memnotify-"
FACTS = "facts"
FIRST_FD = 3
OURS = "MEMNOTIFY_KEPT"
MAX_FACTS_BYTES = 1 << 20


class Kept:
    """Descriptors by name, and facts: (key, value), a key as often as one likes."""

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}
        self._facts = -1

    def write(self, facts: Iterable[tuple[str, str]]) -> int:
        """Write the facts, in place of those before; the descriptor of the memfd that has them."""
        if self._facts < 0:
            self._facts = os.memfd_create("memnotify-facts", os.MFD_CLOEXEC)
        data = "".join(f"{key} {_escaped(value)}\n" for key, value in facts).encode(errors="surrogateescape")
        os.ftruncate(self._facts, 0)
        os.pwrite(self._facts, data, 0)
        return self._facts

    def read(self) -> list[tuple[str, str]]:
        """The facts that a keeper before has written."""
        if self._facts < 0:
            return []
        text = os.pread(self._facts, MAX_FACTS_BYTES, 0).decode(errors="surrogateescape")
        pairs = (line.partition(" ") for line in text.split("\n") if line)
        return [(key, _unescaped(value)) for key, _, value in pairs]

    def named(self) -> dict[str, int]:
        """All descriptors, that of the facts first, by the names under which they are passed on."""
        facts = {PREFIX + FACTS: self._facts} if self._facts >= 0 else {}
        return facts | {PREFIX + name: fd for name, fd in self.fds.items()}

    def close(self) -> None:
        """Let go of all of it: connections that no other process holds end."""
        for fd in (*self.fds.values(), self._facts):
            if fd >= 0:
                os.close(fd)
        self.fds = {}
        self._facts = -1

    @classmethod
    def inherited(cls) -> Kept:
        """What this process was passed; nothing if it was not passed anything of ours. Other descriptors are closed."""
        kept = cls()
        pid, *pairs = os.environ.pop(OURS, "").split(":")
        names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
        count = os.environ.pop("LISTEN_FDS", "0")
        if pid == str(os.getpid()):
            for pair in pairs:
                name, _, number = pair.partition("=")
                kept._take(PREFIX + name, int(number))
        elif os.environ.pop("LISTEN_PID", "") == str(os.getpid()):
            for fd, name in zip(range(FIRST_FD, FIRST_FD + int(count)), names, strict=False):
                kept._take(name, fd)
        return kept

    def pass_on(self, argv: list[str]) -> None:
        """Become the program `argv`, which inherits all of it. Returns by OSError alone: then all is as before."""
        named = {name.removeprefix(PREFIX): fd for name, fd in self.named().items()}
        words = [str(os.getpid()), *(f"{name}={fd}" for name, fd in named.items())]
        try:
            for fd in named.values():
                os.set_inheritable(fd, True)
            os.execve(argv[0], argv, os.environ | {OURS: ":".join(words)})
        finally:
            for fd in named.values():
                os.set_inheritable(fd, False)

    def _take(self, name: str, fd: int) -> None:
        os.set_inheritable(fd, False)
        if name == PREFIX + FACTS and self._facts < 0:
            self._facts = fd
        elif name.startswith(PREFIX) and name.removeprefix(PREFIX) not in self.fds:
            self.fds[name.removeprefix(PREFIX)] = fd
        else:
            os.close(fd)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _unescaped(value: str) -> str:
    return "\\".join(part.replace("\\n", "\n") for part in value.split("\\\\"))
