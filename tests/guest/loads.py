"""Loads that want page cache, and of other memory no more than there is: nobody is to be told of them.

Each gets the place and the guest's memory in MiB, and ends when it has done its work.
"""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Final

from tests.guest.experiment import MIB, Place
from tests.guest.listeners import CGROUP_V1

STREAM_TIMES_MEMORY: Final = 3
_PAGE: Final = MIB // 64
_NAME_BYTES: Final = 600
"""What the kernel keeps of a name that does not exist, of 250 characters: dentry, and the name beside it."""
_INODE_BYTES: Final = 1300
"""And of an empty file of ext4."""


def stream(place: Place, memory_mib: int) -> None:
    """A file read through, three times the memory."""
    _read(place.disk, STREAM_TIMES_MEMORY * memory_mib)


def database(place: Place, memory_mib: int) -> None:
    """Pages read at random out of three times the memory, as many as fill it; four in five from a fifth of the file."""
    random = Random(1)
    pages = STREAM_TIMES_MEMORY * memory_mib * MIB // _PAGE
    with place.disk.open("rb", buffering=0) as file:
        for _ in range(memory_mib * MIB // _PAGE):
            page = random.randrange(pages // 5 if random.random() < 0.8 else pages)
            os.pread(file.fileno(), _PAGE, page * _PAGE)


def backup(place: Place, memory_mib: int) -> None:
    """A file written, half as large again as the memory, which makes dirty pages."""
    data = os.urandom(MIB)
    with place.disk.open("r+b", buffering=0) as file:
        for _ in range(memory_mib * 3 // 2):
            file.write(data)
        os.fsync(file.fileno())


def compile_job(place: Place, memory_mib: int) -> None:
    """A compiler run file by file, on a machine whose memory is full of page cache."""
    sources = _work(place, "src")
    _read(place.disk, memory_mib)
    compiler = ["gcc", f"-B{_work(place, 'toolchain')}/", "-O1", "-c"]
    for source in sorted(sources.glob("*.c")):
        subprocess.run([*compiler, source.name, "-o", f"{source.stem}.o"], cwd=sources, check=True)


def git_gc(place: Place, memory_mib: int) -> None:
    """A repository of more than half the memory packed anew: git maps the old pack and writes a new one."""
    subprocess.run(["git", "gc", "--quiet", "--prune=now"], cwd=_work(place, "repo"), check=True)


def mapped(place: Place, memory_mib: int) -> None:
    """Pages of a map read at random out of three times the memory, as many as fill it."""
    random = Random(2)
    size = STREAM_TIMES_MEMORY * memory_mib * MIB
    with place.disk.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as found:
        found.madvise(mmap.MADV_RANDOM)
        for _ in range(memory_mib * MIB // mmap.PAGESIZE):
            found[random.randrange(size // mmap.PAGESIZE) * mmap.PAGESIZE]


def lazily_freed(_place: Place, memory_mib: int) -> None:
    """A third of the memory written and given up by MADV_FREE, again and again, beside a file that is read."""
    data = os.urandom(MIB)
    with mmap.mmap(-1, memory_mib // 3 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for _ in range(4):
            for at in range(0, len(memory), MIB):
                memory[at : at + MIB] = data
            memory.madvise(mmap.MADV_FREE)
            _read(_place.disk, memory_mib)


def lookups(place: Place, memory_mib: int) -> None:
    """Names that do not exist, looked for until the kernel's cache of them would be larger than the memory."""
    folder = place.work or Path("/run/system")
    for number in range(memory_mib * MIB // _NAME_BYTES):
        os.path.lexists(f"{folder}/{number:0250}")


def inodes(place: Place, memory_mib: int) -> None:
    """Empty files made, a tenth of the memory for their inodes, and looked at three times."""
    folder = _work(place, "inodes")
    folder.mkdir()
    names = [folder / str(number) for number in range(memory_mib * MIB // 10 // _INODE_BYTES)]
    for name in names:
        name.touch()
    for _ in range(3):
        _read(place.disk, memory_mib)
        for name in names:
            name.stat()


def limited(place: Place, memory_mib: int) -> None:
    """A memory cgroup at its limit, an eighth of the memory: a file is read in it, and half of it is in use."""
    group = CGROUP_V1 / "limited"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(memory_mib // 8 * MIB))
    count = STREAM_TIMES_MEMORY * memory_mib
    script = f"echo $$ > {group}/cgroup.procs; exec {place.programs}/allocate mixed {memory_mib // 16} 4 {place.disk}"
    subprocess.run(["sh", "-c", script], check=True, stdout=subprocess.DEVNULL)
    script = f"echo $$ > {group}/cgroup.procs; exec dd if={place.disk} of=/dev/null bs=1M count={count} status=none"
    subprocess.run(["sh", "-c", script], check=True)
    group.rmdir()


def huge_pages(place: Place, memory_mib: int) -> None:
    """A quarter of the memory set aside as huge pages and given back, while the rest is page cache."""
    setting = Path("/proc/sys/vm/nr_hugepages")
    for _ in range(4):
        _read(place.disk, memory_mib)
        setting.write_text(str(memory_mib // 4 // 2))
        _read(place.disk, memory_mib // 4)
        setting.write_text("0")


def big_end(place: Place, memory_mib: int) -> None:
    """A program takes two fifths of the memory as fast as it can, and ends; three times.

    With much more, so little would be left, and go so fast, that programs are to be told.
    """
    for _ in range(3):
        _read(place.disk, memory_mib // 2)
        subprocess.run(
            [place.programs / "allocate", "cold", str(memory_mib * 2 // 5), "0"],
            check=True,
            stdout=subprocess.DEVNULL,
        )


CACHE_LOADS: Final[Mapping[str, Callable[[Place, int], None]]] = MappingProxyType(
    {
        "stream": stream,
        "database": database,
        "backup": backup,
        "compile": compile_job,
        "git gc": git_gc,
        "mapped": mapped,
        "madv free": lazily_freed,
        "lookups": lookups,
        "inodes": inodes,
        "cgroup limit": limited,
        "huge pages": huge_pages,
        "big end": big_end,
    }
)


def available_loads(place: Place) -> list[str]:
    """The loads for which this guest has what they need."""
    needs = {"compile": "gcc", "git gc": "git", "inodes": "sh"}
    found = [name for name in CACHE_LOADS if name not in needs or (place.work and shutil.which(needs[name]))]
    return [name for name in found if name != "cgroup limit" or (CGROUP_V1 / "memory.limit_in_bytes").exists()]


def _read(file: Path, mib: int) -> None:
    with file.open("rb", buffering=0) as opened:
        buffer = bytearray(MIB)
        for _ in range(mib):
            opened.readinto(buffer)


def _work(place: Place, name: str) -> Path:
    if place.work is None:
        raise ValueError(f"this guest was booted without the disk that {name} is on")
    return place.work / name
