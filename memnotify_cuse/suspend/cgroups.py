"""The freezers of the control groups: which group a process is in, and how it is frozen and thawed.

    /proc/PID/cgroup        0::/user.slice/user-1000.slice/session-2.scope       version 2
                            5:freezer:/docker/4f2a                               version 1

Version 2: `1` in cgroup.freeze, after which cgroup.events says `frozen 1` once all of its processes stand still (Linux
5.2). Version 1: FROZEN in freezer.state, which says FREEZING until then. The root group has neither file. What a frozen
group has below it is frozen too. Sources: kernel/cgroup/freezer.c, kernel/cgroup/legacy_freezer.c.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OWN_GROUP: Final = "memnotify-suspend"
"""The group for processes that cannot be frozen in the one they are in."""
PAUSE_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted tree of groups that can be frozen, by one of the two versions."""

    mount_point: Path
    version: int

    @property
    def freeze_file(self) -> str:
        return "cgroup.freeze" if self.version == 2 else "freezer.state"

    def group_of(self, pid: int, proc: Path = Path("/proc")) -> Path | None:
        """The folder of the group that a process is in, None if it is not seen here. Raises OSError."""
        for line in os.fsdecode((proc / str(pid) / "cgroup").read_bytes()).split("\n"):
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            ours = number == "0" if self.version == 2 else "freezer" in controllers.split(",")
            # "/../x": beyond the root of our own cgroup namespace.
            if ours and not path.startswith("/.."):
                return self._domain(self.mount_point / path.lstrip("/"))
        return None

    def can_freeze(self, group: Path) -> bool:
        return (group / self.freeze_file).exists()

    def is_asked_to_freeze(self, group: Path) -> bool:
        """Whether the group is frozen, or is to be, such as a container that is paused. Raises OSError."""
        return (group / self.freeze_file).read_text().strip() not in ("0", "THAWED")

    def freeze(self, group: Path) -> None:
        """Ask for it; `wait_frozen` says when it is so. Raises OSError."""
        (group / self.freeze_file).write_text("1" if self.version == 2 else "FROZEN")

    def thaw(self, group: Path) -> None:
        """Let the group go on. Raises OSError."""
        (group / self.freeze_file).write_text("0" if self.version == 2 else "THAWED")

    def wait_frozen(self, group: Path, deadline_s: float) -> bool:
        """Whether all of the group's processes stand still by `deadline_s` (of time.monotonic()). Raises OSError."""
        while not self._stands_still(group):
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(PAUSE_S)
        return True

    def own_group(self) -> Path:
        """A group of our own, made if it is not there. Raises OSError."""
        group = self.mount_point / OWN_GROUP
        with suppress(FileExistsError):
            group.mkdir()
        return group

    def _stands_still(self, group: Path) -> bool:
        if self.version == 2:
            return "frozen 1" in (group / "cgroup.events").read_text().split("\n")
        return (group / "freezer.state").read_text().strip() == "FROZEN"

    def _domain(self, group: Path) -> Path:
        """Of a group that has only threads, the one that has their processes."""
        while self.version == 2 and group != self.mount_point:
            with suppress(OSError):
                if (group / "cgroup.type").read_text().strip() == "threaded":
                    group = group.parent
                    continue
            break
        return group


def hierarchies(proc: Path = Path("/proc")) -> list[Hierarchy]:
    """The hierarchies of this machine that have a freezer, version 2 first."""
    found = []
    for line in os.fsdecode((proc / "self" / "mountinfo").read_bytes()).split("\n"):
        mount, _, kind = line.partition(" - ")
        fields, kinds = mount.split(" "), kind.split(" ")
        # Only a mount of the whole tree: the paths in /proc/PID/cgroup begin at its root.
        if len(fields) < 5 or len(kinds) < 3 or fields[3] != "/":
            continue
        if kinds[0] == "cgroup2":
            found.append(Hierarchy(Path(fields[4]), 2))
        elif kinds[0] == "cgroup" and "freezer" in kinds[2].split(","):
            found.append(Hierarchy(Path(fields[4]), 1))
    unique = {each.version: each for each in reversed(found)}
    return [unique[version] for version in (2, 1) if version in unique and _has_freezer(unique[version])]


def _has_freezer(hierarchy: Hierarchy) -> bool:
    """Whether groups of it can be frozen: those of version 2 can since Linux 5.2. Told by any group but the root."""
    if hierarchy.version == 1:
        return True
    try:
        with os.scandir(hierarchy.mount_point) as entries:
            groups = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return False
    if not groups:
        group = hierarchy.mount_point / OWN_GROUP
        try:
            group.mkdir()
        except OSError:
            return False
        try:
            return hierarchy.can_freeze(group)
        finally:
            group.rmdir()
    return hierarchy.can_freeze(groups[0])
