r"""/proc/swaps and zram's mm_stat: which swap there is, and what a page in it costs in memory.

    Filename				Type		Size		Used		Priority
    /dev/zram0                              partition	262140		1536		100
    /var/swap\040file                       file		1048572		0		-2

Kernel source: mm/swapfile.c, swap_show(); sizes are in KiB. Blank, tab, newline and backslash in a name are written as
octal escapes; all other bytes are as the file system has them.

/sys/block/zramN/mm_stat is one line: orig_data_size compr_data_size mem_used_total …, in bytes
(drivers/block/zram/zram_drv.c, mm_stat_show(); Documentation/admin-guide/blockdev/zram.rst).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memnotify_cuse.kernel.errors import MalformedKernelFileError

_TITLE = re.compile(r"Filename\s+Type\s+Size\s+Used\s+Priority\n")
# Not \S: read as latin-1, the UTF-8 of "à" has U+00A0, and that of "Å" U+0085, which Python takes for a line end.
_LINE = re.compile(r"([^ \t]+)\s+([a-z]+)\s+([0-9]{1,20})\s+([0-9]{1,20})\s+(-?[0-9]{1,6})")
_ZRAM = re.compile(r"/dev/(zram[0-9]{1,6})")
_MM_STAT = re.compile(r"\s*([0-9]{1,20})\s+[0-9]{1,20}\s+([0-9]{1,20})\s[0-9\s-]*")


@dataclass(frozen=True, slots=True)
class Swap:
    """One swap device or file; sizes in KiB. `name` is as the kernel writes it."""

    name: str
    size_kb: int
    used_kb: int

    @property
    def zram(self) -> str | None:
        """`zram0` for /dev/zram0, None for swap that is not compressed memory."""
        match = _ZRAM.fullmatch(self.name)
        return match[1] if match else None


@dataclass(frozen=True, slots=True)
class ZramStat:
    """What was written to a zram device, and the memory that it takes, in bytes."""

    stored_bytes: int
    memory_bytes: int


def parse_swaps(text: str, path: str = "/proc/swaps") -> tuple[Swap, ...]:
    """Parse the text of /proc/swaps, which some containers have empty. Raises MalformedKernelFileError."""
    if not text:
        return ()
    title = _TITLE.match(text)
    if title is None:
        raise MalformedKernelFileError(path, 1, "expected the title 'Filename Type Size Used Priority'")
    found = []
    for number, line in enumerate(_lines(text[title.end() :]), start=2):
        match = _LINE.fullmatch(line.rstrip(" \t"))
        if match is None:
            raise MalformedKernelFileError(path, number, f"expected 'name type size used priority', got {line[:80]!r}")
        found.append(Swap(match[1], int(match[3]), int(match[4])))
    return tuple(found)


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def parse_mm_stat(text: str, path: str = "/sys/block/zram0/mm_stat") -> ZramStat:
    """Parse the text of a zram device's mm_stat. Raises MalformedKernelFileError."""
    match = _MM_STAT.fullmatch(text)
    if match is None:
        raise MalformedKernelFileError(path, 1, f"expected at least three numbers, got {text[:80]!r}")
    return ZramStat(int(match[1]), int(match[2]))
