"""Freezes the programs that have the device open, and thaws them again.

A group is frozen whole, since a process cannot be frozen alone. Where that would freeze the server, or this process,
and in the root group, a program is moved to a group of our own instead, and moved back afterwards. Every step is
written to a file before it is made, so that another process can undo it, even if this one was killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.process import read_start_time
from memnotify_cuse.suspend.cgroups import OWN_GROUP, Hierarchy, hierarchies
from memnotify_cuse.suspend.holders import OUR_PREFIX, Found, Process, find_holders

STATE: Final = Path("/run/memnotify-suspend")
FREEZE_S: Final = 5.0
"""How long all of it may take; a program that does not stand still by then is left to the kernel."""
ROUNDS: Final = 5
"""How often to look for programs that have opened the device meanwhile."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the state file: `frozen VERSION GROUP`, or `moved PID STARTED GROUP`: out of GROUP, where it is to
    go back to. STARTED, in clock ticks since boot, tells the process from a later one of the same id.
    """

    word: str
    numbers: tuple[int, ...]
    group: Path

    def line(self) -> str:
        return " ".join([self.word, *map(str, self.numbers), str(self.group)]) + "\n"

    @classmethod
    def parse(cls, line: str) -> Step:
        """Raises ValueError."""
        word, rest = line.split(" ", 1)
        *numbers, group = rest.split(" ", {"frozen": 1, "moved": 2}[word])
        return cls(word, tuple(map(int, numbers)), Path(group))


class FreezeError(Exception):
    """Programs cannot be frozen here; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Spared:
    """Processes that are not to be frozen, and by hierarchy the groups that they are in."""

    pids: frozenset[int]
    groups: dict[Hierarchy, set[Path]]

    def is_within(self, tree: Hierarchy, group: Path) -> bool:
        """Whether any of them would be frozen with `group`."""
        return any(each.is_relative_to(group) for each in self.groups[tree])


class Freezer:
    """Freezes and thaws. `say` is told, in a line, what could not be done."""

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        state: Path = STATE,
        proc: Path = Path("/proc"),
        find: Callable[[], Found] = find_holders,
    ) -> None:
        self._say = say
        self._state = state
        self._proc = proc
        self._find = find
        self._frozen: dict[Path, Hierarchy] = {}

    def freeze(self) -> int:
        """Freeze the programs that have the device open; how many they are.

        Raises FreezeError where there is nothing to freeze them with, OSError when the state cannot be written.
        """
        if self._state.exists():
            self.thaw()
        trees = hierarchies(self._proc)
        seen: set[int] = set()
        deadline_s = time.monotonic() + FREEZE_S
        for _ in range(ROUNDS):
            found = self._find()
            spared = self._spared(found, trees)
            new = [each for each in found.holders if each.pid not in seen and each.pid not in spared.pids]
            if not new:
                break
            if not trees:
                raise FreezeError("no cgroup file system with a freezer is mounted")
            for process in new:
                seen.add(process.pid)
                # It may have ended.
                with suppress(FileNotFoundError, ProcessLookupError, KernelFileError):
                    self._freeze_process(process, spared, trees)
            self._wait(deadline_s)
        return len(seen)

    def thaw(self) -> None:
        """Undo what the state file tells of, and remove it."""
        try:
            lines = os.fsdecode(self._state.read_bytes()).split("\n")
        except FileNotFoundError:
            return
        for line in reversed([each for each in lines if each]):
            try:
                self._undo(Step.parse(line))
            except (ValueError, KeyError):
                self._say(f"{self._state}: not a step: {line!r}")
            except (FileNotFoundError, ProcessLookupError, KernelFileError):
                # The group or the process is gone.
                continue
            except OSError as error:
                self._say(f"cannot undo {line!r}: {error.strerror}")
        self._state.unlink()

    def _spared(self, found: Found, trees: list[Hierarchy]) -> Spared:
        """What must not be frozen: the servers and all of theirs, this process and whoever waits for it, and init."""
        kept = [os.getpid(), 1, *(server.pid for server in found.servers)]
        groups = {tree: {group for pid in kept if (group := self._group(tree, pid))} for tree in trees}
        theirs = [(tree, self._group(tree, server.pid)) for server in found.servers for tree in trees[:1]]
        pids = {1, *self._ancestors(), *(server.pid for server in found.servers)}
        for process in found.holders:
            if process.name.startswith(OUR_PREFIX):
                pids |= {process.pid for tree, group in theirs if group and self._group(tree, process.pid) == group}
        return Spared(frozenset(pids), groups)

    def _freeze_process(self, process: Process, spared: Spared, trees: list[Hierarchy]) -> None:
        for tree in trees:
            group = self._group(tree, process.pid)
            if group is not None and tree.can_freeze(group) and not spared.is_within(tree, group):
                self._freeze_group(tree, group)
                return
        # Version 1, if there is a choice: service managers do not look at who is in its groups.
        tree = trees[-1]
        group = self._group(tree, process.pid)
        if group is None:
            return
        own = tree.own_group()
        # Frozen before anything is in it, so that a program has no time to start another one there.
        self._freeze_group(tree, own)
        self._note(Step("moved", (process.pid, read_start_time(process.pid, self._proc)), group))
        (own / "cgroup.procs").write_text(str(process.pid))

    def _freeze_group(self, tree: Hierarchy, group: Path) -> None:
        if group in self._frozen or tree.is_asked_to_freeze(group):
            return
        self._note(Step("frozen", (tree.version,), group))
        self._frozen[group] = tree
        tree.freeze(group)

    def _wait(self, deadline_s: float) -> None:
        for group, tree in self._frozen.items():
            with suppress(FileNotFoundError):
                if not tree.wait_frozen(group, deadline_s):
                    self._say(f"{group}: not all of it stands still after {FREEZE_S:g} s")

    def _undo(self, step: Step) -> None:
        if step.word == "frozen":
            tree = Hierarchy(Path(), step.numbers[0])
            tree.thaw(step.group)
            if step.group.name == OWN_GROUP:
                step.group.rmdir()
            return
        pid, started_ticks = step.numbers
        if read_start_time(pid, self._proc) == started_ticks:
            (step.group / "cgroup.procs").write_text(str(pid))

    def _note(self, step: Step) -> None:
        with open(self._state, "a", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(step.line())

    def _group(self, tree: Hierarchy, pid: int) -> Path | None:
        try:
            return tree.group_of(pid, self._proc)
        except OSError:
            return None

    def _ancestors(self) -> set[int]:
        """This process and those above it: a shell or a service manager's helper that waits for this to be over."""
        found: set[int] = set()
        pid = os.getpid()
        while pid > 0 and pid not in found:
            found.add(pid)
            try:
                pid = int((self._proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            except OSError:
                break
        return found
