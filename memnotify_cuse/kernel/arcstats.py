"""/proc/spl/kstat/zfs/arcstats: the size of ZFS's own page cache, the ARC.

    9 1 0x01 147 39984 1405644657 619562335795635
    name                            type data
    hits                            4    138399132
    c                               4    8589934592
    c_min                           4    2107832704
    size                            4    8345812312
    ...

OpenZFS source: module/zfs/arc.c, arc_stats. Sizes are in bytes. `size` is what the ARC holds, `c_min` what it is not
made to give up. No counter of the kernel's own has it, MemAvailable neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from memnotify_cuse.kernel.errors import MalformedKernelFileError

_LINE = re.compile(r"^(size|c_min) +[0-9]+ +([0-9]{1,20})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Arcstats:
    """What the ARC holds, and the least that it keeps."""

    size_bytes: int
    c_min_bytes: int

    @property
    def reclaimable_kb(self) -> int:
        """KiB that the ARC gives back when the kernel asks for memory."""
        return max(0, self.size_bytes - self.c_min_bytes) // 1024


def arcstats_path(proc: Path = Path("/proc")) -> Path:
    """Where the file is, while ZFS is loaded."""
    return proc / "spl" / "kstat" / "zfs" / "arcstats"


def parse_arcstats(text: str, path: str = "/proc/spl/kstat/zfs/arcstats") -> Arcstats:
    """Parse the text of arcstats. Raises MalformedKernelFileError where one of the two sizes is not there."""
    sizes = {name: int(value) for name, value in _LINE.findall(text)}
    for name in ("size", "c_min"):
        if name not in sizes:
            raise MalformedKernelFileError(path, 0, f"no line '{name} TYPE N'" if text else "empty")
    return Arcstats(sizes["size"], sizes["c_min"])
