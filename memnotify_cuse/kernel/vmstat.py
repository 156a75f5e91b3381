"""/proc/vmstat: the reclaim counters of the whole machine.

    nr_free_pages 6035583
    ...
    pgsteal_kswapd 0
    pgscan_anon 0
    allocstall_dma 0
    allocstall_normal 0
    oom_kill 0

Kernel source: mm/vmstat.c, vmstat_text[] and vmstat_show(). What differs between kernels:

- `pgscan_anon`, `pgscan_file`, `pgsteal_anon`, `pgsteal_file`: since 5.8.
- `workingset_refault_anon` and `_file`: since 5.9. Before, there was one `workingset_refault`, and it counted
  refaults of file pages alone.
- `pgscan_kswapd`, `pgscan_direct`, `pgsteal_*`, `pgrefill`: one counter each since 4.8, before one per kind
  of zone (`pgscan_kswapd_normal`). `allocstall` is the other way round: per kind of zone since 4.10.
- `pgdemote_kswapd` and `pgdemote_direct`: since 5.15, `pgdemote_khugepaged` since 6.2, `pgdemote_proactive` since
  6.15. Until 6.7 what was demoted is counted in `pgsteal_*` as well.
- `oom_kill`: since 4.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.files import read_kernel_text

_ZONE_SUFFIXES = ("dma", "dma32", "normal", "high", "movable", "device")
_PER_ZONE_KEYS = {
    name: tuple(f"{name}_{suffix}" for suffix in _ZONE_SUFFIXES)
    for name in (
        "pgscan_kswapd",
        "pgscan_direct",
        "pgsteal_kswapd",
        "pgsteal_direct",
        "pgrefill",
        "allocstall",
    )
}
_PGDEMOTE = ("pgdemote_kswapd", "pgdemote_direct", "pgdemote_khugepaged", "pgdemote_proactive")
_LINE = re.compile(r"[^\s]+ [0-9]{1,20}")
_MAX_DIGITS = 20
_NEEDED = frozenset(
    {
        *("pgscan_anon", "pgscan_file", "pgscan_kswapd", "pgscan_direct", "pgscan_khugepaged"),
        *("pgsteal_anon", "pgsteal_file", "pgrefill", "pswpout"),
        *_PGDEMOTE,
        *(name for key in ("pgscan_kswapd", "pgscan_direct", "pgrefill") for name in _PER_ZONE_KEYS[key]),
    }
)
"""The counters that rules are made of: a malformed one is an error. Any of them may be absent."""


@dataclass(frozen=True, slots=True)
class Vmstat:
    """Counters since boot; None where this kernel does not have one.

    `pgscan_*`, `pgsteal_*`, `pgdeactivate`, `pgrefill`, `workingset_refault_*`, `pswpin`, `pswpout` count
    pages, as does `pgdemote`, of pages that were moved to a slower tier of memory; `allocstall` counts entries into
    direct reclaim, over all kinds of zones; `oom_kill` counts kills.
    `nr_free_pages` is the present number of free pages.
    """

    pgscan_anon: int | None
    pgscan_file: int | None
    pgsteal_anon: int | None
    pgsteal_file: int | None
    pgscan_kswapd: int | None
    pgscan_direct: int | None
    pgscan_khugepaged: int | None
    pgsteal_kswapd: int | None
    pgsteal_direct: int | None
    pgdeactivate: int | None
    pgrefill: int | None
    workingset_refault_anon: int | None
    workingset_refault_file: int | None
    pswpin: int | None
    pswpout: int | None
    allocstall: int | None
    oom_kill: int | None
    nr_free_pages: int | None
    pgdemote: int | None = None


def parse_vmstat(text: str, path: str = "/proc/vmstat") -> Vmstat:
    """Parse the text of /proc/vmstat. Raises MalformedKernelFileError.

    A line that is not one of a counter that some rule needs may look like anything.
    """
    tokens = text.split()
    values = tokens[1::2]
    digits = "".join(values)
    # One check of all values at once: a line with one word too few or too many puts a name in the place of
    # a value.
    sound = (
        len(tokens) == 2 * text.count("\n")
        and text.endswith("\n")
        and digits.isdigit()
        and digits.isascii()
        and max(map(len, values)) <= _MAX_DIGITS
    )
    counters = dict(zip(tokens[::2], values, strict=True)) if sound else _line_by_line(text, path)
    refault_file = _number(counters, "workingset_refault_file")
    if refault_file is None:
        refault_file = _number(counters, "workingset_refault")
    return Vmstat(
        pgscan_anon=_number(counters, "pgscan_anon"),
        pgscan_file=_number(counters, "pgscan_file"),
        pgsteal_anon=_number(counters, "pgsteal_anon"),
        pgsteal_file=_number(counters, "pgsteal_file"),
        pgscan_kswapd=_number_or_sum(counters, "pgscan_kswapd"),
        pgscan_direct=_number_or_sum(counters, "pgscan_direct"),
        pgscan_khugepaged=_number(counters, "pgscan_khugepaged"),
        pgsteal_kswapd=_number_or_sum(counters, "pgsteal_kswapd"),
        pgsteal_direct=_number_or_sum(counters, "pgsteal_direct"),
        pgdeactivate=_number(counters, "pgdeactivate"),
        pgrefill=_number_or_sum(counters, "pgrefill"),
        workingset_refault_anon=_number(counters, "workingset_refault_anon"),
        workingset_refault_file=refault_file,
        pswpin=_number(counters, "pswpin"),
        pswpout=_number(counters, "pswpout"),
        allocstall=_number_or_sum(counters, "allocstall"),
        oom_kill=_number(counters, "oom_kill"),
        nr_free_pages=_number(counters, "nr_free_pages"),
        pgdemote=_sum(counters, _PGDEMOTE),
    )


def read_vmstat(proc: Path = Path("/proc")) -> Vmstat:
    """Read and parse <proc>/vmstat. Raises KernelFileGoneError or MalformedKernelFileError."""
    file = proc / "vmstat"
    return parse_vmstat(read_kernel_text(file), str(file))


def _number(counters: Mapping[str, str], key: str) -> int | None:
    value = counters.get(key)
    return None if value is None else int(value)


def _number_or_sum(counters: Mapping[str, str], key: str) -> int | None:
    value = counters.get(key)
    if value is not None:
        return int(value)
    return _sum(counters, _PER_ZONE_KEYS[key])


def _sum(counters: Mapping[str, str], keys: tuple[str, ...]) -> int | None:
    """The sum of those counters that there are, None where there is none of them."""
    values = [int(counters[name]) for name in keys if name in counters]
    return sum(values) if values else None


def _line_by_line(text: str, path: str) -> dict[str, str]:
    counters: dict[str, str] = {}
    *lines, cut = text.split("\n")
    for number, line in enumerate(lines, start=1):
        name, _, value = line.partition(" ")
        if _LINE.fullmatch(line):
            counters[name] = value
        elif _first_word(line) in _NEEDED:
            raise MalformedKernelFileError(path, number, f"expected 'name value', got {line[:80]!r}")
    if _first_word(cut) in _NEEDED:
        raise MalformedKernelFileError(path, len(lines) + 1, "ends before the end of a line")
    if not _NEEDED.intersection(counters) and "nr_free_pages" not in counters:
        raise MalformedKernelFileError(path, 0, "no counter of reclaim in it" if text else "empty")
    return counters


def _first_word(line: str) -> str:
    words = line.split(maxsplit=1)
    return words[0] if words else ""
