"""What memory cgroups of version 2 have beside those of `tests.support.cgroups`, and programs that run in them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel.cgroup import find_hierarchy
from memnotify_cuse.kernel.mountinfo import read_mountinfo
from memnotify_cuse.record import Record
from tests.guest.experiment import Log
from tests.support.cgroups import Cgroup
from tests.support.mounted import wait_until

MOUNT_POINT: Final = Path("/sys/fs/cgroup")
# The tests are not the OOM killer's to choose, and what they start is as they are.
_AS_ANY_OTHER: Final = ("sh", "-c", 'echo 0 > /proc/$$/oom_score_adj && exec "$@"', "sh")


def v2_problem() -> str | None:
    """Why there are no memory limits of cgroup v2, None if there are. It is mounted if need be."""
    hierarchy = find_hierarchy(read_mountinfo())
    if hierarchy is None:
        done = subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(MOUNT_POINT)], capture_output=True, text=True)
        if done.returncode:
            return f"cgroup v2 cannot be mounted: {done.stderr.strip()}"
        hierarchy = find_hierarchy(read_mountinfo())
    assert hierarchy is not None
    controllers = hierarchy.mount_point / "cgroup.controllers"
    if not hierarchy.unified or "memory" not in controllers.read_text().split():
        return "the memory controller is cgroup v1's"
    return None


def set_limits(cgroup: Cgroup, limits: Mapping[str, int | str]) -> None:
    """Write its files, such as `memory.high`."""
    for name, value in limits.items():
        (cgroup.directory / name).write_text(str(value))


def number(cgroup: Cgroup, name: str) -> int:
    return int((cgroup.directory / name).read_text())


def events(cgroup: Cgroup) -> dict[str, int]:
    """How often it, or one below it, was at a limit, and had a program killed: memory.events."""
    lines = (cgroup.directory / "memory.events").read_text().splitlines()
    return {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}


@dataclass
class Running:
    """A program and what it writes."""

    process: subprocess.Popen[bytes]
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(errors="replace")

    @property
    def log(self) -> Log:
        """Its lines, for a program that begins each with the time."""
        return Log(self.path)

    @property
    def records(self) -> list[Record]:
        """What examples/poll_cache.c was told."""
        lines = [line for line in self.text.splitlines() if line.startswith("freed ")]
        return [Record.parse(line.partition(": ")[2]) for line in lines]

    @property
    def freed_kb(self) -> int:
        """What it gave back, all in all."""
        return sum(int(line.split()[1]) for line in self.text.splitlines() if line.startswith("freed "))

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, text: str) -> None:
        """Until it has written that; AssertionError, with all that it wrote, if it ends first or takes too long."""

        def written() -> bool:
            assert self.alive or text in self.text, f"it ended with {self.process.returncode}: {self.text}"
            return text in self.text

        wait_until(written, text)

    def end(self) -> None:
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def start(
    path: Path, command: Sequence[str | Path | int], *, inside: Cgroup | None = None, user: int | None = None
) -> Running:
    """Run `command` inside a cgroup, by the user of that id; what it writes goes to the file `path`."""
    if user is not None:
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
    command = [*_AS_ANY_OTHER, *command]
    if inside is not None:
        command = inside.command(*command)
    with path.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    return Running(process, path)
