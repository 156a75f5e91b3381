"""The kernel's counters and switches, as the harness of real reclaim needs them."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = mmap.PAGESIZE
MIB = 1 << 20
GIB = 1 << 30

STATE_PATH = Path("/run/memnotify-real-reclaim.json")
VM = Path("/proc/sys/vm")
ZRAM_CONTROL = Path("/sys/class/zram-control")

MIN_FREE = "min_free_kbytes"
SCALE = "watermark_scale_factor"
BOOST = "watermark_boost_factor"
HUGE_PAGES = "nr_hugepages"
RESERVE_RATIO = "lowmem_reserve_ratio"
# Since 6.7 each CPU may keep pages of its own, free but not counted as such, up to its share of the low watermark
# (mm/page_alloc.c, zone_highsize()): gigabytes, where that is raised. With a fraction it is a part of the zone.
CPU_LISTS = "percpu_pagelist_high_fraction"
CPU_LISTS_FRACTION = 1000
# In this order they are put back: first what makes the kernel reclaim, then what only takes memory away.
SYSCTLS = (MIN_FREE, SCALE, BOOST, HUGE_PAGES, RESERVE_RATIO, CPU_LISTS)

# The kernel's largest watermark_scale_factor: low = min + 30 %, high = min + 60 % of the zone's managed pages.
EPISODE_SCALE = 3000
EPISODE_LOW_ABOVE_MIN = EPISODE_SCALE / 10_000
# Without a scale factor they are min, min * 5/4 and min * 3/2 (mm/page_alloc.c, __setup_per_zone_wmarks()).
PLAIN_HIGH_PER_MIN = 1.5

MADV_COLD = 20  # since 5.4: clears the referenced bits and moves to the inactive list
CHUNK_BYTES = 32 * MIB
QUIET_S = 0.15


class ReclaimError(Exception):
    """Real reclaim could not be set up, or did not happen as promised."""


@dataclass(frozen=True, slots=True)
class ZonePages:
    """One zone of /proc/zoneinfo, in pages; `reserve_pages` is the largest entry of its protection row."""

    node: int
    zone: str
    free_pages: int
    min_pages: int
    low_pages: int
    high_pages: int
    present_pages: int
    managed_pages: int
    reserve_pages: int
    active_anon_pages: int
    inactive_anon_pages: int
    active_file_pages: int
    inactive_file_pages: int

    @property
    def clear(self) -> bool:
        """The 2008 patch's condition for the end of pressure."""
        return self.free_pages > 2 * (self.high_pages + self.reserve_pages)


_ZONE_FIELDS = {
    "min": "min_pages",
    "low": "low_pages",
    "high": "high_pages",
    "present": "present_pages",
    "managed": "managed_pages",
    "nr_zone_active_anon": "active_anon_pages",
    "nr_zone_inactive_anon": "inactive_anon_pages",
    "nr_zone_active_file": "active_file_pages",
    "nr_zone_inactive_file": "inactive_file_pages",
}


def read_zones(text: str | None = None) -> list[ZonePages]:
    """The populated zones of /proc/zoneinfo (or of `text`)."""
    zones: list[ZonePages] = []
    values: dict[str, int] = {}
    node, name = -1, ""

    def finish() -> None:
        if values.get("managed_pages"):
            fields = (*_ZONE_FIELDS.values(), "free_pages", "reserve_pages")
            known = {key: values.get(key, 0) for key in fields}
            zones.append(ZonePages(node=node, zone=name, **known))

    for line in (Path("/proc/zoneinfo").read_text() if text is None else text).splitlines():
        words = line.split()
        if line.startswith("Node"):
            finish()
            values = {}
            node, name = int(words[1].rstrip(",")), words[-1]
        elif words[:2] == ["pages", "free"]:
            values["free_pages"] = int(words[2])
        elif words[:1] == ["protection:"]:
            values["reserve_pages"] = max(int(word) for word in line.split("(")[1].rstrip(")").split(","))
        elif len(words) == 2 and words[0] in _ZONE_FIELDS:
            values.setdefault(_ZONE_FIELDS[words[0]], int(words[1]))
    finish()
    return zones


def read_vmstat() -> dict[str, int]:
    """/proc/vmstat as name -> count since boot."""
    return {name: int(value) for name, value in map(str.split, Path("/proc/vmstat").read_text().splitlines())}


def pressed_zones(zones: list[ZonePages]) -> list[ZonePages]:
    """Zones that count: those with at least a tenth of their node's present pages."""
    return [
        zone
        for zone in zones
        if zone.present_pages * 10 >= sum(other.present_pages for other in zones if other.node == zone.node)
    ]


def read_sysctl(name: str) -> str:
    """The text of /proc/sys/vm/`name`, one space between several numbers."""
    return " ".join((VM / name).read_text().split())


def write_sysctl(name: str, value: int | str) -> None:
    """Set /proc/sys/vm/`name`."""
    (VM / name).write_text(str(value))


def kswapd_gave_up() -> bool:
    """Whether kswapd has given up on a node (16 rounds without one page) and will not wake for it."""
    return any(
        line.split()[1] != "0"
        for line in Path("/proc/zoneinfo").read_text().splitlines()
        if line.strip().startswith(("node_unreclaimable:", "all_unreclaimable:"))
    )


def revive_kswapd() -> None:
    """Make kswapd work again after it gave up, which any successful reclaim does (mm/vmscan.c, shrink_node()).

    A memory cgroup reads a small file and is then told to give the page cache back. ReclaimError if that fails.
    """
    for root, control, request in (
        (Path("/sys/fs/cgroup/memory"), "memory.force_empty", "0"),
        (Path("/sys/fs/cgroup"), "memory.reclaim", "8M"),
    ):
        group = root / f"memnotify-revive-{os.getpid()}"
        if not (root / "cgroup.procs").exists():
            continue
        group.mkdir()
        try:
            if not (group / control).exists():
                continue
            with tempfile.NamedTemporaryFile(prefix="memnotify-revive-") as file:
                file.truncate(16 * MIB)
                script = 'echo $$ > "$0"/cgroup.procs && exec cat "$1" > /dev/null'
                subprocess.run(["sh", "-c", script, str(group), file.name], check=True, timeout=20)
                with contextlib.suppress(OSError):  # EAGAIN: less than asked for
                    (group / control).write_text(request)
        finally:
            group.rmdir()
        if not kswapd_gave_up():
            return
    raise ReclaimError("kswapd has given up on a node and could not be revived")


def kswapd_pids() -> list[int]:
    """The kernel's kswapd threads, one per node."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().startswith("kswapd"):
                    found.append(int(entry.name))
    return found


def state_letter(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def meminfo_bytes(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise ReclaimError(f"/proc/meminfo has no {name}")


def available_bytes() -> int:
    return meminfo_bytes("MemAvailable")


def huge_page_bytes() -> int:
    return meminfo_bytes("Hugepagesize")
