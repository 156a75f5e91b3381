"""Memory cgroups of the tests' own, on whichever hierarchy has the memory controller.

Each is made below the root of that hierarchy, and is gone with its block, whatever happened in it: the programs in it
are killed, which are only those that a test started or moved there. With cgroup v2 a program can only be in one that
has no cgroups with a controller below it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel.cgroup import Hierarchy, find_hierarchy
from memnotify_cuse.kernel.mountinfo import read_mountinfo
from tests.support.mounted import wait_until

PREFIX: Final = "memnotify-test"
MIB: Final = 1 << 20
DISK_TYPES: Final = ("ext4", "xfs", "btrfs", "9p", "virtiofs", "overlay", "f2fs", "ext3", "ext2")
"""File systems whose files are in the page cache as those of a disk are, and not in shared memory."""

_numbers = itertools.count(1)


def cgroup_problem() -> str | None:
    """Why no memory cgroup can be made here, None if one can."""
    if os.geteuid() != 0:
        return "not root"
    hierarchy = find_hierarchy(read_mountinfo())
    if hierarchy is None:
        return "no cgroup file system is mounted"
    try:
        with new_cgroup() as cgroup:
            cgroup.limit(64 * MIB)
    except OSError as error:
        return f"no memory cgroup can be made in {hierarchy.mount_point}: {error}"
    return None


@contextmanager
def new_cgroup() -> Iterator[Cgroup]:
    """A cgroup that has a name of its own, and no limit."""
    hierarchy = find_hierarchy(read_mountinfo())
    assert hierarchy is not None, "no cgroup file system is mounted"
    name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
    if hierarchy.unified:
        _enable_memory(hierarchy.mount_point)
    cgroup = Cgroup(hierarchy, f"{hierarchy.root.rstrip('/')}/{name}")
    cgroup.make()
    try:
        yield cgroup
    finally:
        cgroup.remove()


class Cgroup:
    """The cgroup `path`, as /proc/PID/cgroup names it; nothing is made yet."""

    def __init__(self, hierarchy: Hierarchy, path: str) -> None:
        directory = hierarchy.directory(path)
        assert directory is not None, f"{path} is not below {hierarchy.mount_point}"
        self.path = path
        self.directory = directory
        self.unified = hierarchy.unified
        self._hierarchy = hierarchy
        self._children: list[Cgroup] = []

    @property
    def zone(self) -> str:
        """What records and MOUNT/cgroups call it."""
        return f"cgroup:{self.path}"

    def make(self) -> None:
        self.directory.mkdir()

    def child(self, name: str) -> Cgroup:
        """A new one in this one, which goes with it."""
        if self.unified:
            _enable_memory(self.directory)
        child = Cgroup(self._hierarchy, f"{self.path}/{name}")
        self._children.append(child)
        child.make()
        return child

    def remove(self) -> None:
        """Kill what is in it and in those below, and remove them; one that is gone already is fine."""
        for child in self._children:
            child.remove()
        self._children = []
        wait_until(self._is_removed, f"{self.directory} is removed")

    def limit(self, size_bytes: int | None) -> None:
        """Let it have so much and no swap, or (None) what there is."""
        if self.unified:
            self._write("memory.max", "max" if size_bytes is None else str(size_bytes))
            self._write_if_there("memory.swap.max", "max" if size_bytes is None else "0")
            return
        # The limit of both together is never below that of the memory.
        self._write_if_there("memory.memsw.limit_in_bytes", "-1")
        self._write("memory.limit_in_bytes", "-1" if size_bytes is None else str(size_bytes))
        if size_bytes is not None:
            self._write_if_there("memory.memsw.limit_in_bytes", str(size_bytes))

    def throttle(self, size_bytes: int) -> None:
        """Set memory.high (v2)."""
        self._write("memory.high", str(size_bytes))

    @property
    def usage_bytes(self) -> int:
        return int(self._read("memory.current" if self.unified else "memory.usage_in_bytes"))

    @property
    def oom_kills(self) -> int:
        """How many programs the kernel has killed in it for want of memory."""
        text = self._read("memory.events" if self.unified else "memory.oom_control")
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    @property
    def file_bytes(self) -> int:
        """How much page cache it has."""
        name = "file" if self.unified else "total_cache"
        lines = self._read("memory.stat").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def move(self, pid: int) -> None:
        """Put a program of the test's into it, with all its threads."""
        self._write("cgroup.procs", str(pid))

    def command(self, *command: str | Path | int) -> list[str]:
        """What is to be run, so that `command` is in it from its beginning."""
        return ["sh", "-c", f'echo $$ > {self.directory}/cgroup.procs && exec "$@"', "sh", *map(str, command)]

    @contextmanager
    def running(
        self, *command: str | Path | int, stdin: int | None = subprocess.PIPE, stderr: int | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A program in it for the block, which kills it."""
        with _started(self.command(*command), stdin=stdin, stderr=stderr) as process:
            yield process

    def run(self, *command: str | Path | int) -> None:
        """Run a program in it to its end, which must be a good one."""
        subprocess.run(self.command(*command), check=True, stdin=subprocess.DEVNULL)

    def _is_removed(self) -> bool:
        with contextlib.suppress(OSError):
            for pid in self._read("cgroup.procs").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        try:
            self.directory.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            # What was killed has not ended yet.
            return False
        return True

    def _read(self, name: str) -> str:
        return (self.directory / name).read_text()

    def _write(self, name: str, text: str) -> None:
        # The kernel may be short of time to reclaim what a lower limit does not leave room for.
        for attempt in range(20):
            try:
                (self.directory / name).write_text(text)
                return
            except OSError:
                if attempt == 19:
                    raise
                time.sleep(0.05)

    def _write_if_there(self, name: str, text: str) -> None:
        if (self.directory / name).exists():
            self._write(name, text)


@contextmanager
def _started(command: Sequence[str], *, stdin: int | None, stderr: int | None) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.kill()


def _enable_memory(directory: Path) -> None:
    """Give the cgroups in `directory` the memory controller (v2)."""
    file = directory / "cgroup.subtree_control"
    if "memory" not in file.read_text().split():
        file.write_text("+memory")


def folder_on_disk(*folders: Path) -> Path | None:
    """The first of them whose files come into the page cache as those of a disk do; None if there is none."""
    return next((folder for folder in folders if _type_of(folder) in DISK_TYPES), None)


@contextmanager
def large_file(size_bytes: int, folder: Path) -> Iterator[Path]:
    """A file without content: its pages are in the page cache once they are read."""
    path = folder / f"{PREFIX}-{os.getpid()}-{next(_numbers)}.bin"
    try:
        with path.open("wb") as file:
            file.truncate(size_bytes)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _type_of(folder: Path) -> str:
    """The type of the file system that `folder` is on."""
    inside = [mount for mount in read_mountinfo() if _contains(Path(mount.mount_point), folder)]
    # Of several on one folder the last is on top.
    return max(inside, key=lambda mount: len(mount.mount_point)).fstype if inside else ""


def _contains(mount_point: Path, folder: Path) -> bool:
    return mount_point == folder or mount_point in folder.parents
