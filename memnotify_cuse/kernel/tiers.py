"""Tiers of memory: which nodes the kernel demotes pages from, when it would else swap them out or drop them.

    /sys/kernel/mm/numa/demotion_enabled                          true
    /sys/devices/virtual/memory_tiering/memory_tier4/nodelist     0
    /sys/devices/virtual/memory_tiering/memory_tier22/nodelist    1

Kernel source: mm/memory-tiers.c; Documentation/ABI/testing/sysfs-kernel-mm-numa and sysfs-kernel-mm-memory-tiers. The
switch exists since 5.15, the tiers are shown since 6.1. A smaller number is a faster tier. The kernel demotes from each
tier but the slowest.
"""

from __future__ import annotations

import re
from pathlib import Path

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.files import KernelFile, read_kernel_text

_TIER = re.compile(r"memory_tier([0-9]{1,9})")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_MOST_NODES = 4096


def parse_demotion_enabled(text: str, path: str = "/sys/kernel/mm/numa/demotion_enabled") -> bool:
    """Whether the switch is on: `true`, or `1`. Raises MalformedKernelFileError."""
    word = text.strip()
    if word not in ("true", "false", "1", "0"):
        raise MalformedKernelFileError(path, 1, f"expected true or false, got {text[:40]!r}")
    return word in ("true", "1")


def parse_nodelist(text: str, path: str) -> frozenset[int]:
    """Read `0,2-3`. Raises MalformedKernelFileError."""
    nodes: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        match = _RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else -1
        if not 0 <= last - first < _MOST_NODES:
            raise MalformedKernelFileError(path, 1, f"expected a list of nodes like 0,2-3, got {text[:40]!r}")
        nodes.update(range(first, last + 1))
    return frozenset(nodes)


class MemoryTiers:
    """The switch, kept open, since it can be turned at any time, and the tiers, read while it is on."""

    def __init__(self, sys_root: Path = Path("/sys")) -> None:
        self._tiers = sys_root / "devices" / "virtual" / "memory_tiering"
        self._switch: KernelFile | None = None
        try:
            self._switch = KernelFile(sys_root / "kernel" / "mm" / "numa" / "demotion_enabled")
        except KernelFileGoneError:
            return

    def demoting(self) -> frozenset[int] | None:
        """The nodes that pages are demoted from; None where the kernel does not say. Raises KernelFileError."""
        if self._switch is None:
            return None
        if not parse_demotion_enabled(self._switch.read_text(), self._switch.path):
            return frozenset()
        try:
            names = {int(match[1]): each for each in self._tiers.iterdir() if (match := _TIER.fullmatch(each.name))}
        except OSError:
            return None
        tiers = [parse_nodelist(read_kernel_text(path / "nodelist"), str(path)) for _, path in sorted(names.items())]
        return frozenset().union(*[tier for tier in tiers if tier][:-1])

    def close(self) -> None:
        """Close the switch; closing it twice does nothing."""
        if self._switch is not None:
            self._switch.close()
