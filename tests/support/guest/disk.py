"""The disks of a guest: an ext4 image with Python and this project, and an empty one to read from.

The guest shares the host's files over 9p, where every open() is a round trip and nothing is cached: importing the
server takes four times as long from there as from a disk, and program text would not be page cache as it is elsewhere.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

LABEL = "memnotify"
SWAP_LABEL = "memnotify-swap"
PROJECT = Path(__file__).parents[3]
PARTS = ("memnotify_cuse", "tests", "benchmarks", "examples", "pyproject.toml")
STREAM_BYTES = 4 << 30
_SPARE = 16
"""Megabytes in the image beside its files."""

# What neither the server nor the tests in a guest import.
_STDLIB_WITHOUT = (
    "test",
    "idlelib",
    "ensurepip",
    "lib2to3",
    "tkinter",
    "turtledemo",
    "site-packages",
    "config-*",
    "*.a",
)
_VENV_WITHOUT = (
    *("pip", "mypy*", "*__mypyc*", "ruff*", "virtme*", "setuptools", "hypothesis", "pkg_resources", "ast_serialize"),
    *(
        "matplotlib*",
        "mpl_toolkits",
        "numpy*",
        "PIL",
        "pillow*",
        "fontTools",
        "fonttools*",
        "kiwisolver*",
        "contourpy*",
    ),
)


def make_system_disk(directory: Path, programs: Path) -> Path:
    """An image of Python, its packages, this project and the compiled `programs`, each under its own path."""
    stage, image = directory / "stage", directory / "system.img"
    shutil.rmtree(stage, ignore_errors=True)
    for source, without in _trees(programs):
        target = stage / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*without))
        else:
            shutil.copy2(source, target)
    used = int(subprocess.run(["du", "-sm", stage], capture_output=True, text=True, check=True).stdout.split()[0])
    image.unlink(missing_ok=True)
    command = ["/sbin/mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-O", "^has_journal", "-d", str(stage), str(image)]
    subprocess.run([*command, f"{used * 5 // 4 + _SPARE}M"], check=True, capture_output=True)
    shutil.rmtree(stage)
    return image


def bound_paths(programs: Path) -> list[Path]:
    """What the guest takes from the image in place of the host's files."""
    return [source for source, _ in _trees(programs)]


def make_stream_disk(directory: Path) -> Path:
    """A disk of nothing, larger than any guest's memory."""
    image = directory / "stream.img"
    with image.open("wb") as file:
        file.truncate(STREAM_BYTES)
    return image


def make_swap_disk(directory: Path, mib: int) -> Path:
    """A disk to swap to."""
    image = directory / "swap.img"
    with image.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["/sbin/mkswap", "-q", "-L", SWAP_LABEL, str(image)], check=True, capture_output=True)
    return image


def _trees(programs: Path) -> list[tuple[Path, tuple[str, ...]]]:
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    packages = Path(sysconfig.get_paths()["purelib"])
    found: list[tuple[Path, tuple[str, ...]]] = [(stdlib, _STDLIB_WITHOUT), (packages, _VENV_WITHOUT)]
    found += [(PROJECT / part, ("traces",)) for part in PARTS]
    found.append((programs, ()))
    library = Path(sys.base_prefix) / "lib" / str(sysconfig.get_config_var("LDLIBRARY"))
    if library.is_file() and not library.resolve().is_relative_to("/usr"):
        found.append((library.resolve(), ()))
    return found
