"""Memory cgroups: which one a program is in, what limits it, and how much it has.

/proc/PID/cgroup names the program's cgroup in each hierarchy, as seen from the root of the reader's cgroup namespace:

    4:memory:/kubepods/pod1      cgroup v1: the hierarchy with the memory controller
    0::/system.slice/x.service   cgroup v2: the only one

One hierarchy has the memory controller: v1's where that line is there, else v2's. A path that begins with `/..` is
outside of the reader's namespace, and one that ends in ` (deleted)` was removed.

A cgroup is limited by `memory.max` and `memory.high` (v2) or `memory.limit_in_bytes` (v1), its swap by
`memory.swap.max`, or with its memory together by `memory.memsw.limit_in_bytes`. Kernel source: mm/memcontrol.c,
mm/memcontrol-v1.c; Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.files import read_short_kernel_text
from memnotify_cuse.kernel.mountinfo import Mount

DELETED: Final = " (deleted)"
OUTSIDE: Final = "/.."
ROOT: Final = "/"

_MEMORY_LINE = re.compile(r"^[0-9]{1,9}:(?:[^:\n]*,)?memory(?:,[^:\n]*)?:(/[^\n]*)$", re.MULTILINE)
_UNIFIED_LINE = re.compile(r"^0::(/[^\n]*)$", re.MULTILINE)
_DIGITS = re.compile(r"[0-9]{1,20}")
_MOST_TEXT_BYTES: Final = 16 * 1024


class CgroupGoneError(KernelFileGoneError):
    """The cgroup was removed, or cannot be read by this process. What may be over in a moment is a KernelFileGoneError
    of no such kind.
    """


_GONE: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where the memory controller's hierarchy is mounted. `root` is the cgroup that is seen there.

    Paths of cgroups have a character for each byte (latin-1), as kernel files are read here; `root` is as os.fsdecode()
    gives it, and so are folders.
    """

    mount_point: Path
    root: str
    unified: bool

    def directory(self, path: str) -> Path | None:
        """The folder of the cgroup `path`; None where it cannot be seen from here."""
        name = os.fsdecode(path.encode("latin-1", "replace"))
        if name == OUTSIDE or name.startswith(f"{OUTSIDE}/") or name.endswith(DELETED):
            return None
        root = self.root.rstrip("/")
        if name != root and not name.startswith(f"{root}/"):
            return None
        below = name[len(root) :].strip("/")
        return self.mount_point / below if below else self.mount_point

    def path(self, directory: Path) -> str:
        """The cgroup of a folder below the mount point."""
        below = directory.relative_to(self.mount_point)
        name = "/".join([self.root.rstrip("/"), *below.parts]) or ROOT
        return str(os.fsencode(name), "latin-1")


def find_hierarchy(mounts: Iterable[Mount]) -> Hierarchy | None:
    """The hierarchy with the memory controller: v1's if it is mounted, else v2's; None where there is neither."""
    unified = None
    for mount in mounts:
        if mount.fstype == "cgroup" and "memory" in mount.options.split(","):
            return Hierarchy(Path(mount.mount_point), mount.root, unified=False)
        if mount.fstype == "cgroup2" and unified is None:
            unified = Hierarchy(Path(mount.mount_point), mount.root, unified=True)
    return unified


def parse_cgroup(text: str, unified: bool, path: str = "/proc/self/cgroup") -> str:
    """The path of the memory cgroup in the text of /proc/PID/cgroup. Raises MalformedKernelFileError."""
    match = (_UNIFIED_LINE if unified else _MEMORY_LINE).search(text)
    if match is None:
        raise MalformedKernelFileError(path, 0, f"no line of {'cgroup v2' if unified else 'the memory controller'}")
    return match[1]


def ancestors(path: str) -> list[str]:
    """`path` and all that it lies in, from the inside. The last is the root: of a namespace it may have a limit."""
    parts = [part for part in path.split("/") if part]
    return ["/" + "/".join(parts[:count]) for count in range(len(parts), -1, -1)]


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """What a cgroup has, and may have, in bytes; None: no limit.

    The anonymous LRU lists have shared memory, too; `mapped_bytes` are what is mapped of files and of shared memory.
    `swap_room_bytes` is how much more of it may go to swap, for all that the cgroup's own
    limits say. The others count pages since the cgroup was made, None where the kernel does not say: those scanned and
    taken by reclaim, and those that came in, whatever they are.
    """

    limit_bytes: int | None
    usage_bytes: int
    inactive_anon_bytes: int
    active_anon_bytes: int
    inactive_file_bytes: int
    active_file_bytes: int
    mapped_bytes: int
    shmem_bytes: int
    slab_reclaimable_bytes: int
    swap_bytes: int
    swap_room_bytes: int | None
    scanned_pages: int | None = None
    stolen_pages: int | None = None
    charged_pages: int | None = None


class CgroupFiles:
    """The files of one cgroup. `unified` for cgroup v2. Raises CgroupGoneError where it is not there.

    The folder is held open, so that a cgroup that is removed is not taken for another one that has its path later.
    """

    def __init__(self, directory: Path, *, unified: bool) -> None:
        self.directory = directory
        self._unified = unified
        try:
            self._fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _error(str(directory), error) from error
        self.inode = os.fstat(self._fd).st_ino

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def open_events(self) -> int | None:
        """A descriptor that is POLLPRI when the limit was reached (v2's memory.events); None for v1."""
        if not self._unified:
            return None
        try:
            return os.open("memory.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise self._gone("memory.events", error) from error

    def limit_bytes(self) -> int | None:
        """The least of its limits of memory but 0, with which nothing lives; None without one.

        Raises CgroupGoneError, MalformedKernelFileError.
        """
        if not self._unified:
            return _or_none(self._number("memory.limit_in_bytes"))
        limits = [self._number(name) for name in ("memory.max", "memory.high")]
        return min((limit for limit in limits if limit), default=None)

    def usage_bytes(self) -> int:
        """How much it has. Raises CgroupGoneError, MalformedKernelFileError."""
        name = "memory.current" if self._unified else "memory.usage_in_bytes"
        usage = self._number(name)
        if usage is None:
            raise MalformedKernelFileError(self._path(name), 1, "expected a number")
        return usage

    def read(self) -> CgroupMemory:
        """All of it now. Raises CgroupGoneError, MalformedKernelFileError."""
        limit = self.limit_bytes()
        usage = self.usage_bytes()
        text = self._text("memory.stat")
        stat = parse_memory_stat(text, self._unified, self._path("memory.stat"))
        if self._unified:
            stat["swap"] = self._number("memory.swap.current") or 0
        return CgroupMemory(
            limit_bytes=limit,
            usage_bytes=usage,
            inactive_anon_bytes=stat["inactive_anon"],
            active_anon_bytes=stat["active_anon"],
            inactive_file_bytes=stat["inactive_file"],
            active_file_bytes=stat["active_file"],
            mapped_bytes=stat["mapped"],
            shmem_bytes=stat["shmem"],
            slab_reclaimable_bytes=stat.get("slab", 0),
            swap_bytes=stat["swap"],
            swap_room_bytes=self._swap_room(limit, usage, stat["swap"]),
            scanned_pages=stat.get("scanned"),
            stolen_pages=stat.get("stolen"),
            charged_pages=stat.get("charged"),
        )

    def _swap_room(self, limit: int | None, usage: int, swap: int) -> int | None:
        """How many bytes may yet be swapped out; None for any number."""
        if self._unified:
            most = self._number("memory.swap.max", absent=0)
            return None if most is None else max(0, most - swap)
        both = _or_none(self._number("memory.memsw.limit_in_bytes"))
        if both is None or limit is None:
            return None
        # Swapping makes room in memory, and not in the two together.
        return max(0, both - usage - swap - max(0, limit - usage))

    def _number(self, name: str, absent: int | None = None) -> int | None:
        """The number in a file, None for `max`; `absent` where there is no such file but others."""
        try:
            text = self._text(name).removesuffix("\n")
        except CgroupGoneError as error:
            if isinstance(error.__cause__, FileNotFoundError) and name not in _ALWAYS_THERE:
                return absent
            raise
        if text == "max":
            return None
        if not _DIGITS.fullmatch(text):
            raise MalformedKernelFileError(self._path(name), 1, f"expected a number, got {text[:80]!r}")
        return int(text)

    def _text(self, name: str) -> str:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                return str(os.read(fd, _MOST_TEXT_BYTES), "latin-1")
            finally:
                os.close(fd)
        except OSError as error:
            raise self._gone(name, error) from error

    def _gone(self, name: str, error: OSError) -> KernelFileGoneError:
        return _error(self._path(name), error)

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}"


def _error(path: str, error: OSError) -> KernelFileGoneError:
    kind = CgroupGoneError if error.errno in _GONE else KernelFileGoneError
    return kind(path, error.strerror or str(error))


_ALWAYS_THERE: Final = frozenset({"memory.current", "memory.usage_in_bytes", "memory.limit_in_bytes", "memory.max"})

_LRU: Final = ("inactive_anon", "active_anon", "inactive_file", "active_file")
_UNIFIED_STAT: Final = {
    **{name: name for name in _LRU},
    "mapped": "file_mapped",
    "shmem": "shmem",
    "slab": "slab_reclaimable",
    "scanned": "pgscan",
    "stolen": "pgsteal",
}
# Those of the cgroups below it are counted in, as they are in its usage.
_V1_STAT: Final = {
    **{name: f"total_{name}" for name in _LRU},
    "mapped": "total_mapped_file",
    "shmem": "total_shmem",
    "swap": "total_swap",
    "charged": "total_pgpgin",
}
_OPTIONAL: Final = frozenset({"mapped", "shmem", "slab", "swap"})
_COUNTERS: Final = frozenset({"scanned", "stolen", "charged"})

_UNLIMITED_FROM: Final = 1 << 62
"""What v1 says where there is no limit: the largest number of whole pages (PAGE_COUNTER_MAX)."""


def parse_memory_stat(text: str, unified: bool, path: str = "memory.stat") -> dict[str, int]:
    """What is needed of a memory.stat, by names of ours. Raises MalformedKernelFileError."""
    names = _UNIFIED_STAT if unified else _V1_STAT
    found: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        key, _, value = line.partition(" ")
        if key in names.values():
            if not _DIGITS.fullmatch(value):
                raise MalformedKernelFileError(path, number, f"expected a number, got {line[:80]!r}")
            found[key] = int(value)
    stat: dict[str, int] = {}
    for ours, theirs in names.items():
        if theirs in found:
            stat[ours] = found[theirs]
        elif ours in _OPTIONAL:
            stat[ours] = 0
        elif ours not in _COUNTERS:
            raise MalformedKernelFileError(path, 0, f"no {theirs} in it")
    return stat


def _or_none(limit_bytes: int | None) -> int | None:
    return None if limit_bytes is None or limit_bytes >= _UNLIMITED_FROM else limit_bytes


def read_cgroup(proc: Path, tid: int, *, unified: bool) -> str:
    """The path of the memory cgroup of thread `tid`.

    This takes locks of the cgroup file system, and none of the thread's own: it does not wait for what the thread does.
    Raises KernelFileGoneError where the thread is gone or not to be seen, MalformedKernelFileError.
    """
    path = f"{proc}/{tid}/cgroup"
    return parse_cgroup(read_short_kernel_text(path), unified=unified, path=path)
