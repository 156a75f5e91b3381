"""/proc/meminfo: totals of memory and swap.

    MemTotal:       24684096 kB
    MemFree:        24142332 kB
    MemAvailable:   24355620 kB
    ...
    HugePages_Total:       0

Kernel source: fs/proc/meminfo.c, meminfo_proc_show(). "kB" means 1024 bytes. `MemAvailable` exists since
3.14, `Zswap` and `Zswapped` since 5.19 where zswap is built in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.files import read_kernel_text

# Names hold parentheses ("Active(anon)"); the counts of huge pages have no unit.
_LINE = re.compile(r"([^\s:]+): +([0-9]{1,20}) kB")
_NAME = re.compile(r"[^\s:]+")
_NEEDED = frozenset({"MemTotal", "MemFree", "SwapTotal", "SwapFree"})


@dataclass(frozen=True, slots=True)
class Meminfo:
    """Sizes in kB of 1024 bytes; None where this kernel does not print one, or not as a size."""

    total_kb: int
    free_kb: int
    available_kb: int | None
    swap_total_kb: int
    swap_free_kb: int
    swap_cached_kb: int | None
    mapped_kb: int | None
    shmem_kb: int | None
    zswap_kb: int | None
    zswapped_kb: int | None


def parse_meminfo(text: str, path: str = "/proc/meminfo") -> Meminfo:
    """Parse the text of /proc/meminfo. Raises MalformedKernelFileError.

    Only the four lines of total and free memory and swap must be there and sound. Vendors add lines of many shapes.
    """
    sizes_kb: dict[str, int] = {}
    *lines, cut = text.split("\n")
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is not None:
            sizes_kb[match[1]] = int(match[2])
        elif _name(line) in _NEEDED:
            raise MalformedKernelFileError(path, number, f"expected 'Name: N kB', got {line[:80]!r}")
    if _name(cut) in _NEEDED:
        raise MalformedKernelFileError(path, len(lines) + 1, "ends before the end of a line")
    try:
        return Meminfo(
            total_kb=sizes_kb["MemTotal"],
            free_kb=sizes_kb["MemFree"],
            available_kb=sizes_kb.get("MemAvailable"),
            swap_total_kb=sizes_kb["SwapTotal"],
            swap_free_kb=sizes_kb["SwapFree"],
            swap_cached_kb=sizes_kb.get("SwapCached"),
            mapped_kb=sizes_kb.get("Mapped"),
            shmem_kb=sizes_kb.get("Shmem"),
            zswap_kb=sizes_kb.get("Zswap"),
            zswapped_kb=sizes_kb.get("Zswapped"),
        )
    except KeyError as error:
        raise MalformedKernelFileError(path, 0, f"no line '{error.args[0]}: N kB'" if text else "empty") from error


def _name(line: str) -> str:
    """The name that a line begins with, whatever follows it."""
    match = _NAME.match(line)
    return match[0] if match else ""


def read_meminfo(proc: Path = Path("/proc")) -> Meminfo:
    """Read and parse <proc>/meminfo. Raises KernelFileGoneError or MalformedKernelFileError."""
    file = proc / "meminfo"
    return parse_meminfo(read_kernel_text(file), str(file))
