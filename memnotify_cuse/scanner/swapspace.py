"""How much memory swapping can still win: free swap, less what the swapped pages cost in memory themselves.

A page that goes to a disk makes room for one page. A page that goes to zram, or into zswap's pool, makes room for what
compression saves; with data that does not compress, that is nothing, however much of the swap is free. Which it will be
nobody knows before it is done. So zram is not counted on until it has been seen to save something: when the kernel
finds that it does not, it is too late to tell anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.files import KernelFile, read_kernel_text
from memnotify_cuse.kernel.meminfo import Meminfo
from memnotify_cuse.kernel.swaps import Swap, ZramStat, parse_mm_stat, parse_swaps
from memnotify_cuse.scanner import choices
from memnotify_cuse.scanner.health import SWAPS, Health

UNKNOWN_COST: Final = 1.0
"""Memory for a page in zram, as a part of it, where that is not to be had: nothing was seen to be saved."""


def gain_kb(swaps: Sequence[tuple[Swap, float]]) -> int:
    """What is to be won, given each swap and the cost of a page in it."""
    return int(sum(max(0, swap.size_kb - swap.used_kb) * (1 - cost) for swap, cost in swaps))


def zram_cost(stat: ZramStat) -> float:
    """The memory that a page takes in a zram device, as a part of a page: 0 to 1."""
    prior_bytes = choices.ZRAM_PRIOR_KB * 1024
    return min(1.0, (stat.memory_bytes + prior_bytes) / (stat.stored_bytes + prior_bytes))


def zswap_cost(meminfo: Meminfo) -> float:
    """The same for swap behind zswap; 0 where nothing is in its pool."""
    if not meminfo.zswapped_kb or meminfo.zswap_kb is None:
        return 0.0
    return min(1.0, meminfo.zswap_kb / meminfo.zswapped_kb)


class SwapSpace:
    """Reads what `gain_kb` needs. Without <proc>/swaps, or while it fails, free swap counts as it is."""

    def __init__(self, proc: Path, health: Health | None = None, *, sys_root: Path = Path("/sys")) -> None:
        self._sys_root = sys_root
        self._health = health or Health()
        self._swaps: KernelFile | None = None
        try:
            self._swaps = KernelFile(proc / "swaps")
        except KernelFileError:
            return

    def gain_kb(self, meminfo: Meminfo) -> int:
        """KiB that programs could have if all free swap were used."""
        if not meminfo.swap_total_kb:
            return 0
        swaps = self._read()
        if swaps is None:
            swap = Swap("swap", meminfo.swap_total_kb, meminfo.swap_total_kb - meminfo.swap_free_kb)
            return gain_kb([(swap, zswap_cost(meminfo))])
        return gain_kb([(swap, self._cost(swap, meminfo)) for swap in swaps])

    def _read(self) -> tuple[Swap, ...] | None:
        """None where nothing says which swap there is; a container's /proc/swaps may be empty beside a swap."""
        if self._swaps is None:
            return None
        try:
            swaps = parse_swaps(self._swaps.read_text(), self._swaps.path)
        except KernelFileError as error:
            self._health.failed(SWAPS, error)
            return None
        self._health.worked(SWAPS)
        return swaps or None

    def _cost(self, swap: Swap, meminfo: Meminfo) -> float:
        if swap.zram is None:
            return zswap_cost(meminfo)
        path = self._sys_root / "block" / swap.zram / "mm_stat"
        try:
            return zram_cost(parse_mm_stat(read_kernel_text(path), str(path)))
        except KernelFileError:
            # Old kernels have no such file, and a device may go while it is looked at.
            return UNKNOWN_COST

    def close(self) -> None:
        if self._swaps is not None:
            self._swaps.close()
