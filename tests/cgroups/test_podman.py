"""A real container with a limit, made by podman and runc: the device in it is a bind mount of the host's.

Its files are two programs that need no library. One is the example, unmodified; the other takes memory beside it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from memnotify_cuse.kernel.mountinfo import read_mountinfo
from memnotify_cuse.record import Record
from tests.cgroups.conftest import EXAMPLES
from tests.support.cgroups import PREFIX
from tests.support.listeners import listed
from tests.support.mounted import LIMIT_S, wait_until
from tests.support.programs import compiler_problem
from tests.support.server import Server

LIMIT_MIB: Final = 160
AT_ONCE_MIB: Final = 60
TAKEN_MIB: Final = 120
"""With the cache's 64 MiB that is 24 MiB too much."""

PROGRAMS: Final = Path(__file__).parents[1] / "programs"
SETUP_S: Final = 300.0
_numbers = itertools.count(1)


def podman_problem() -> str | None:
    """Why there are no containers here, None if there are."""
    missing = [tool for tool in ("podman", "runc", "conmon") if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else compiler_problem()


pytestmark = [
    pytest.mark.mount,
    pytest.mark.alone,
    pytest.mark.skipif(podman_problem() is not None, reason=f"no containers here: {podman_problem()}"),
]


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a container."""
    folder = tmp_path_factory.mktemp("rootfs")
    for source in (EXAMPLES / "poll_cache.c", PROGRAMS / "fill.c"):
        command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-static", "-o", str(folder / source.stem), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no static programs can be made here: {done.stderr.splitlines()[-1]}")
    return folder


class Container:
    """A container whose first program is the example; `parent` is the cgroup that podman makes its cgroup in."""

    def __init__(self, storage: Path, rootfs: Path, device: Path) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self.parent = f"/{self.name}"
        self._storage = storage
        self._output = storage / "output"
        limits = ["--memory", f"{LIMIT_MIB}m", "--memory-swap", f"{LIMIT_MIB}m"]
        # It cannot have more than the process that starts it.
        limits += ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
        run = ["run", "--rm", "--name", self.name, "--network", "none", "--cgroup-parent", self.parent, *limits]
        run += ["-v", f"{device}:/dev/mem_notify", "--rootfs", str(rootfs), "/poll_cache"]
        with self._output.open("w") as output:
            self._podman = subprocess.Popen(
                self._command(*run), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def ended(self) -> bool:
        return self._podman.poll() is not None

    @property
    def records(self) -> list[Record]:
        """What the example was told."""
        lines = [line for line in self.output.splitlines() if line.startswith("freed ")]
        return [Record.parse(line.partition(": ")[2]) for line in lines]

    def fill(self) -> str:
        """Take memory beside the example; what the program that does it says of itself. Its end gives it back."""
        command = self._command("exec", self.name, "/fill", "cold", AT_ONCE_MIB, TAKEN_MIB - AT_ONCE_MIB, 200)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False, timeout=SETUP_S
        )
        return done.stdout

    def remove(self) -> None:
        """Also where it does not exist any more."""
        remove = self._command("rm", "--force", "--time", "0", self.name)
        subprocess.run(remove, check=False, capture_output=True, timeout=SETUP_S)
        self._podman.wait(LIMIT_S)
        wait_until(self._are_cgroups_removed, f"the cgroups {self.parent} are removed")

    def _command(self, *words: object) -> list[str]:
        folders = [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")]
        options = [word for option, name in folders for word in (option, str(self._storage / name))]
        options += ["--cgroup-manager=cgroupfs", "--runtime", "runc", "--storage-driver=vfs", "--events-backend=none"]
        return ["podman", *options, *map(str, words)]

    def _are_cgroups_removed(self) -> bool:
        """Remove those that podman made for it, in each hierarchy. What watches over the container ends after it."""
        mounts = [mount for mount in read_mountinfo() if mount.fstype in ("cgroup", "cgroup2")]
        parents = [Path(mount.mount_point) / self.name for mount in mounts]
        for parent in parents:
            for folder, _, _ in os.walk(parent, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        return not any(parent.exists() for parent in parents)


@contextmanager
def container(storage: Path, rootfs: Path, device: Path) -> Iterator[Container]:
    """A container whose example waits with a full cache."""
    made = Container(storage, rootfs, device)
    try:
        wait_until(lambda: "watching" in made.output or made.ended, "a container")
        assert not made.ended, made.output
        yield made
    finally:
        made.remove()


def test_a_program_in_a_container_is_told_before_its_limit_and_survives(
    server: Server, open_directory: Path, rootfs: Path
) -> None:
    with container(open_directory, rootfs, server.device) as made:
        (zone,) = listed(server)
        assert zone.startswith(f"cgroup:{made.parent}/")
        assert listed(server)[zone]["limit_kb"] == str(LIMIT_MIB * 1024)
        assert made.fill() == "begun\nfull\n", made.output
        assert not made.ended, made.output
        told = [record for record in made.records if record.zone == zone]
        assert told, made.output
        assert told[0].free_pages > 0
    wait_until(lambda: not listed(server), "no cgroup once the container is gone")


def test_without_the_device_a_program_in_the_container_is_killed(open_directory: Path, rootfs: Path) -> None:
    silent = open_directory / "silent"
    os.mkfifo(silent)
    with container(open_directory, rootfs, silent) as made:
        said = made.fill()
        assert said.startswith("begun\n")
        if said.endswith("full\n"):
            wait_until(lambda: made.ended, "the example killed")
