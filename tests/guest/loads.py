"""Loads that want page cache, and of other memory no more than there is: nobody is to be told of them.

Each gets the place and the guest's memory in MiB, and ends when it has done its work.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Final

from tests.guest.experiment import MIB, Place

STREAM_TIMES_MEMORY: Final = 3
_PAGE: Final = MIB // 64


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


CACHE_LOADS: Final[Mapping[str, Callable[[Place, int], None]]] = MappingProxyType(
    {"stream": stream, "database": database, "backup": backup, "compile": compile_job, "git gc": git_gc}
)


def available_loads(place: Place) -> list[str]:
    """The loads for which this guest has what they need."""
    needs = {"compile": "gcc", "git gc": "git"}
    return [name for name in CACHE_LOADS if name not in needs or (place.work and shutil.which(needs[name]))]


def _read(file: Path, mib: int) -> None:
    with file.open("rb", buffering=0) as opened:
        buffer = bytearray(MIB)
        for _ in range(mib):
            opened.readinto(buffer)


def _work(place: Place, name: str) -> Path:
    if place.work is None:
        raise ValueError(f"this guest was booted without the disk that {name} is on")
    return place.work / name
