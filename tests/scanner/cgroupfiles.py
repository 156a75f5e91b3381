"""Cgroups made of plain files, and a /proc with threads in them."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel.cgroup import CgroupFiles, Hierarchy

MIB: Final = 1024 * 1024
GIB_KB: Final = 1024 * 1024
PAGE_BYTES: Final = 4096
UNLIMITED_V1: Final = 0x7FFF_FFFF_FFFF_F000


class FakeCgroup:
    """One cgroup, whose files are written anew by `now`. Sizes are in MiB; a limit of None is none."""

    def __init__(
        self, root: Path, path: str = "/a", *, limit: int | None = 256, unified: bool = True, swap_max: int | None = 0
    ) -> None:
        self.path = path
        self.root = root
        self.unified = unified
        self.limit = limit
        self.high: int | None = None
        self.swap_max = swap_max
        self.anon = 0.0
        self.file = 0.0
        self.swap = 0.0
        self.scanned = 0
        self.stolen = 0
        self.charged = 0
        self._written: dict[str, int | str] = {}
        self.directory.mkdir(parents=True)
        self.now()

    @property
    def directory(self) -> Path:
        return self.root / self.path.strip("/")

    def files(self) -> CgroupFiles:
        return CgroupFiles(self.directory, unified=self.unified)

    def now(
        self,
        *,
        anon: float | None = None,
        file: float | None = None,
        swap: float | None = None,
        scanned: int | None = None,
        stolen: int | None = None,
    ) -> None:
        """It has so much from now on; what is not given stays as it is. Pages that came in are counted."""
        before = self.anon + self.file
        self.anon = self.anon if anon is None else anon
        self.file = self.file if file is None else file
        self.swap = self.swap if swap is None else swap
        self.scanned = self.scanned if scanned is None else scanned
        self.stolen = self.stolen if stolen is None else stolen
        self.charged += max(0, int((self.anon + self.file - before) * MIB / PAGE_BYTES))
        self._write()

    def set_limit(self, limit: int | None, *, high: int | None = None) -> None:
        self.limit, self.high = limit, high
        self._write()

    def remove(self) -> None:
        shutil.rmtree(self.directory)

    def without_stat(self) -> None:
        """A kernel that writes something else there."""
        self._written["memory.stat"] = "nonsense"
        (self.directory / "memory.stat").write_text("nonsense\n")

    def _write(self) -> None:
        usage, half_file = int((self.anon + self.file) * MIB), int(self.file * MIB) // 2
        lists = {
            "inactive_anon": int(self.anon * MIB),
            "active_anon": 0,
            "inactive_file": half_file,
            "active_file": int(self.file * MIB) - half_file,
        }
        if self.unified:
            texts: dict[str, int | str] = {
                "memory.max": _bytes(self.limit, "max"),
                "memory.high": _bytes(self.high, "max"),
                "memory.current": usage,
                "memory.swap.max": _bytes(self.swap_max, "max"),
                "memory.swap.current": int(self.swap * MIB),
            }
            stat: dict[str, int] = {**lists, "pgscan": self.scanned, "pgsteal": self.stolen}
        else:
            both = None if self.limit is None or self.swap_max is None else self.limit + self.swap_max
            texts = {
                "memory.limit_in_bytes": _bytes(self.limit, UNLIMITED_V1),
                "memory.usage_in_bytes": usage,
                "memory.memsw.limit_in_bytes": _bytes(both, UNLIMITED_V1),
            }
            stat = {f"total_{name}": size for name, size in lists.items()}
            stat |= {"total_swap": int(self.swap * MIB), "total_pgpgin": self.charged}
        texts["memory.stat"] = "\n".join(f"{name} {value}" for name, value in stat.items())
        for name, text in texts.items():
            if self._written.get(name) != text:
                (self.directory / name).write_text(f"{text}\n")
                self._written[name] = text


def _bytes(size_mib: int | None, unlimited: int | str) -> int | str:
    return unlimited if size_mib is None else size_mib * MIB


class FakeProc:
    """/proc, as far as it says which cgroup each thread is in, and when it began (seconds after boot)."""

    def __init__(self, proc: Path, *, unified: bool = True) -> None:
        self.path = proc
        self._unified = unified
        proc.mkdir()

    def thread(self, tid: int, cgroup: str, *, began_s: float = 1) -> None:
        """Thread `tid` is in `cgroup`, whether it was there before or not."""
        line = f"0::{cgroup}\n" if self._unified else f"2:cpu:/other\n7:memory:{cgroup}\n"
        (self.path / str(tid)).mkdir(exist_ok=True)
        (self.path / str(tid) / "cgroup").write_text(line, "latin-1")
        fields = " ".join(["0"] * 18)
        (self.path / str(tid) / "stat").write_text(f"{tid} (a) b) S {fields} {int(began_s * 100)} 0 0\n")

    def says(self, tid: int, text: str) -> None:
        (self.path / str(tid) / "cgroup").write_text(text)

    def end(self, tid: int) -> None:
        shutil.rmtree(self.path / str(tid))


class FakeMachine:
    """A hierarchy of cgroups and a /proc, in one folder."""

    def __init__(self, directory: Path, *, unified: bool = True) -> None:
        self.root = directory / "cgroup"
        self.root.mkdir()
        self.proc = FakeProc(directory / "proc", unified=unified)
        self.hierarchy = Hierarchy(self.root, "/", unified=unified)
        self.unified = unified

    def cgroup(self, path: str, limit: int | None = 256) -> FakeCgroup:
        return FakeCgroup(self.root, path, limit=limit, unified=self.unified)

    @property
    def descriptors(self) -> int:
        """How many descriptors of its cgroups and of their files this process has."""
        count = 0
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(f"/proc/self/fd/{fd}").startswith(f"{self.root}/")
        return count
