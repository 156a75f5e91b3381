"""What a keeper must know to go on with what another one has set up: one line per fact in the kept memfd (`kept`)."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memnotify_cuse.keeper.kept import Kept
    from memnotify_cuse.keeper.rights import Identity


class Facts:
    """Each attribute is written down under its own name; a list as a line for each of its values.

    given       what a server is given: names of descriptors, then `KEY=VALUE` words, all separated by NUL
    undo        what is to be undone at the end, last line first (`undo`)
    told        what the parent of helpers is told: `device …`, `inodes …`, `mount …`
    watch       the mounts that are made again when they are taken away (`watch`)
    trace       the path at which a trace instance may be made
    identity    the user and group as whom the helpers run
    lives       how many servers there have been
    """

    def __init__(self) -> None:
        self.given = ""
        self.undo: list[str] = []
        self.told: list[str] = []
        self.watch = ""
        self.trace: str | None = None
        self.identity: Identity | None = None
        self.lives = 0

    @property
    def given_names(self) -> list[str]:
        """The names of the descriptors that go with what a server is given, in their order."""
        return [name for name in self.given.partition("\0")[0].split(",") if name]

    def forget_trace(self, kept: Kept) -> None:
        """The next server is told that there is no trace instance, and that there may come to be one."""
        names = ",".join(name for name in self.given_names if name in kept.fds)
        words = self.given.split("\0")[1:]
        others = [word for word in words if not word.startswith(("trace=", "trace_may_come="))]
        self.given = "\0".join([names, *others, "trace_may_come=yes"])

    def add_undo(self, line: str) -> None:
        """Take note of what is to be undone. What is done again is undone in that order."""
        if line in self.undo:
            self.undo.remove(line)
        self.undo.append(line)

    def write(self, kept: Kept, server: int | None = None, children: tuple[int, ...] = ()) -> None:
        """Write all of it down, and the options of this program; `server`, `children`: processes to be taken over."""
        lines = [("argv", "\0".join(sys.argv[1:])), ("given", self.given), ("watch", self.watch)]
        lines += [("lives", str(self.lives))]
        lines += [("undo", line) for line in self.undo]
        lines += [("told", line) for line in self.told]
        if self.trace is not None:
            lines.append(("trace", self.trace))
        if self.identity is not None:
            lines.append(("identity", "{} {}".format(*self.identity)))
        if server is not None:
            lines.append(("server", str(server)))
        lines += [("child", str(pid)) for pid in children]
        kept.write(lines)


class Recalled:
    """What a keeper before has written down, its options, and the processes that it has left to this one."""

    def __init__(self, kept: Kept) -> None:
        self.facts = facts = Facts()
        self.options: list[str] = []
        self.server: int | None = None
        self.children: list[int] = []
        for key, value in kept.read():
            if key == "argv":
                self.options = value.split("\0")
            elif key in ("given", "watch", "trace"):
                setattr(facts, key, value)
            elif key == "undo":
                facts.undo.append(value)
            elif key == "told":
                facts.told.append(value)
            elif key == "lives":
                facts.lives = int(value)
            elif key == "identity":
                uid, _, gid = value.partition(" ")
                facts.identity = int(uid), int(gid)
            elif key == "server":
                self.server = int(value)
            elif key == "child":
                self.children.append(int(value))
