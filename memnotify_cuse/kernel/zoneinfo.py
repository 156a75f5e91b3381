"""/proc/zoneinfo: watermarks, reserves and LRU sizes of every zone.

    Node 0, zone   Normal
      per-node stats
          nr_inactive_anon 1167
          nr_active_anon 382
          ...
      pages free     3840
            boost    0
            min      53
            low      66
            high     79
            promo    92
            spanned  4095
            present  3998
            managed  3840
            cma      0
            protection: (0, 3019, 4683, 4683, 4683)
          nr_free_pages 3840
          nr_zone_inactive_anon 0
          ...
      pagesets
        cpu: 0
                  count:    0
                  high:     14
                  batch:    1
      vm stats threshold: 4
      node_unreclaimable:  0
      start_pfn:           1

Kernel source: mm/vmstat.c, zoneinfo_show_print(). What differs between kernels:

- `boost` and `promo` are newer than `managed`; kernels before 3.9 have no `managed`.
- Since 4.8 the LRU lists belong to the node: "per-node stats" stands once per node, under its first populated
  zone, and the zone counters are called `nr_zone_*`. Before, they were `nr_*`, one set per zone.
- Until 4.10 the `protection:` line follows the counters instead of preceding them.
- From 4.14 to 4.19 the per-node stats end with a counter that has no name.
- An unpopulated zone ends after its `protection:` line; a node without memory has no per-node stats.
- The `high:` of a pageset is a limit of that per-CPU list, not the watermark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.files import read_kernel_text

_NUMBER = "([0-9]{1,20})"
_HEADER = re.compile(r"Node ([0-9]{1,9}), zone +([A-Za-z0-9_]{1,32})\n")
_WATERMARKS = re.compile(
    rf"  pages free +{_NUMBER}\n"
    rf"(?: +boost +{_NUMBER}\n)?"
    rf" +min +{_NUMBER}\n +low +{_NUMBER}\n +high +{_NUMBER}\n"
    # "promo" stands here since 6.1, "scanned" did before 4.10.
    rf"(?: +[a-z_]+ +[0-9]+\n)?"
    rf" +spanned +{_NUMBER}\n +present +{_NUMBER}\n"
    rf"(?: +managed +{_NUMBER}\n)?"
)
_PROTECTION = re.compile(r"protection: \(([0-9]{1,20}(?:, [0-9]{1,20})*)\)\n")
_ZONE_LRU = re.compile(
    rf"inactive_anon +{_NUMBER}\n +nr_(?:zone_)?active_anon +{_NUMBER}\n"
    rf" +nr_(?:zone_)?inactive_file +{_NUMBER}\n +nr_(?:zone_)?active_file +{_NUMBER}\n"
    rf" +nr_(?:zone_)?unevictable +{_NUMBER}\n"
)
_NODE_LRU = re.compile(
    rf"      nr_inactive_anon +{_NUMBER}\n      nr_active_anon +{_NUMBER}\n"
    rf"      nr_inactive_file +{_NUMBER}\n      nr_active_file +{_NUMBER}\n"
)
_NODE_COUNTER = {name: re.compile(rf"{name} +{_NUMBER}\n") for name in ("nr_mapped", "nr_shmem")}
_LISTS = ("inactive_anon", "active_anon", "inactive_file", "active_file")
_NODE_TITLE = "  per-node stats\n"
_ZONE_ID = re.compile(r"node(0|[1-9][0-9]{0,8})-([A-Za-z0-9_]{1,32})")
# What any line ahead of the pagesets may look like. Kernels 4.14 to 4.19 have a counter without a name.
_SOUND_LINE = re.compile(
    r"Node .*|  per-node stats|(?:  pages)?(?: +[^\s]+)? +[0-9]{1,20}|        protection: \([0-9, ]+\)"
)


@dataclass(frozen=True, slots=True, order=True)
class ZoneId:
    """A zone by node number and name; `str()` gives `node0-Normal`, `parse()` reads it back."""

    node: int
    name: str

    def __str__(self) -> str:
        return f"node{self.node}-{self.name}"

    @classmethod
    def parse(cls, text: str) -> ZoneId:
        """Read `node0-Normal`. Raises ValueError for anything that `str()` would not have written."""
        match = _ZONE_ID.fullmatch(text)
        if match is None:
            raise ValueError(f"not a zone: {text!r} (expected for example node0-Normal)")
        return cls(int(match[1]), match[2])


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone, in pages.

    `high_pages` contains the temporary boost. `managed_pages` and `boost_pages` are None on kernels that do
    not print them. The five LRU counters of an unpopulated zone (`present_pages` 0) are 0: the kernel leaves
    them out.
    """

    id: ZoneId
    free_pages: int
    boost_pages: int | None
    min_pages: int
    low_pages: int
    high_pages: int
    spanned_pages: int
    present_pages: int
    managed_pages: int | None
    protection_pages: tuple[int, ...]
    inactive_anon_pages: int
    active_anon_pages: int
    inactive_file_pages: int
    active_file_pages: int
    unevictable_pages: int

    @property
    def lowmem_reserve_pages(self) -> int:
        """The largest entry of the `protection:` row."""
        return max(self.protection_pages)

    @property
    def anon_pages(self) -> int:
        """Anonymous pages on both LRU lists."""
        return self.inactive_anon_pages + self.active_anon_pages

    @property
    def file_pages(self) -> int:
        """File pages on both LRU lists."""
        return self.inactive_file_pages + self.active_file_pages


@dataclass(frozen=True, slots=True)
class Node:
    """The per-node counters, in pages; None where the kernel does not print them (before 4.8; no memory).

    `mapped_pages` are those of files and of shared memory that some program has mapped, `shmem_pages` all of shared
    memory and tmpfs, mapped or not; shared memory is on the anonymous lists.
    """

    node: int
    inactive_anon_pages: int | None
    active_anon_pages: int | None
    inactive_file_pages: int | None
    active_file_pages: int | None
    mapped_pages: int | None
    shmem_pages: int | None = None


@dataclass(frozen=True, slots=True)
class Zoneinfo:
    """All zones in the kernel's order, and one `Node` for every node that has a zone here."""

    zones: tuple[Zone, ...]
    nodes: tuple[Node, ...]


def parse_zoneinfo(text: str, path: str = "/proc/zoneinfo") -> Zoneinfo:
    """Parse the text of /proc/zoneinfo. Raises MalformedKernelFileError; the pagesets are not looked at."""
    zones: list[Zone] = []
    nodes: dict[int, Node] = {}
    seen: set[ZoneId] = set()
    if not text.endswith("\n"):
        raise MalformedKernelFileError(path, text.count("\n") + 1 if text else 0, "ends before the end of a line")
    for start, end in _sections(text):
        header = _HEADER.match(text, start, end)
        if header is None:
            _fail(text, path, start, "expected 'Node N, zone NAME'")
        zone_id = ZoneId(int(header[1]), header[2])
        if zone_id in seen:
            _fail(text, path, start, f"a second {zone_id}")
        seen.add(zone_id)
        pages_start = text.find("  pages free", header.end(), end)
        if pages_start < 0:
            _fail(text, path, start, f"{zone_id} has no 'pages free'")
        if pages_start > header.end():
            if zone_id.node in nodes and nodes[zone_id.node].inactive_anon_pages is not None:
                _fail(text, path, header.end(), f"a second set of per-node stats for node {zone_id.node}")
            nodes[zone_id.node] = _parse_node(text, path, zone_id.node, header.end(), pages_start)
        elif zone_id.node not in nodes:
            nodes[zone_id.node] = Node(zone_id.node, None, None, None, None, None)
        zones.append(_parse_zone(text, path, zone_id, pages_start, end))
    return Zoneinfo(tuple(zones), tuple(nodes.values()))


def read_zoneinfo(proc: Path = Path("/proc")) -> Zoneinfo:
    """Read and parse <proc>/zoneinfo. Raises KernelFileGoneError or MalformedKernelFileError."""
    file = proc / "zoneinfo"
    return parse_zoneinfo(read_kernel_text(file), str(file))


def insert_status_lines(text: str, status: Mapping[ZoneId, int]) -> str:
    """Return `text` (a whole /proc/zoneinfo) with a status line after each zone's `protection:` line.

    The added line is `  mem_notify_status: N`. A zone that `status` does not name gets no line. Everything
    else stays as it is, byte for byte; a section that is not a zone is left alone, nothing is raised.
    """
    pieces: list[str] = []
    copied = 0
    for start, end in _sections(text):
        header = _HEADER.match(text, start, end)
        value = None if header is None else status.get(ZoneId(int(header[1]), header[2]))
        position = text.find("protection:", start, end)
        if value is None or position < 0:
            continue
        line_end = text.find("\n", position, end)
        line_end = end if line_end < 0 else line_end + 1
        pieces += (text[copied:line_end], f"  mem_notify_status: {value}\n")
        copied = line_end
    pieces.append(text[copied:])
    return "".join(pieces)


def format_zoneinfo(info: Zoneinfo) -> str:
    """The text of a /proc/zoneinfo that says what `info` does, and no more. `parse_zoneinfo` reads it back."""
    nodes = {node.node: node for node in info.nodes if node.inactive_anon_pages is not None}
    lines: list[str] = []
    for zone in info.zones:
        lines.append(f"Node {zone.id.node}, zone {zone.id.name:>8}")
        if zone.present_pages and zone.id.node in nodes:
            node = nodes.pop(zone.id.node)
            lines.append("  per-node stats")
            lines += [f"      nr_{name} {getattr(node, f'{name}_pages')}" for name in _LISTS]
            for name in ("mapped", "shmem"):
                pages = getattr(node, f"{name}_pages")
                lines += [] if pages is None else [f"      nr_{name:<9} {pages}"]
        lines.append(f"  pages free     {zone.free_pages}")
        for name in ("boost", "min", "low", "high", "spanned", "present", "managed"):
            pages = getattr(zone, f"{name}_pages")
            lines += [] if pages is None else [f"        {name:<8} {pages}"]
        lines.append(f"        protection: ({', '.join(map(str, zone.protection_pages))})")
        if zone.present_pages:
            lines += [f"      nr_zone_{name} {getattr(zone, f'{name}_pages')}" for name in (*_LISTS, "unevictable")]
    return "".join(f"{line}\n" for line in lines)


def _sections(text: str) -> Iterator[tuple[int, int]]:
    """The (start, end) of each zone, its lines up to the next 'Node' line."""
    start = 0
    # The needle ends in a letter that the pagesets hardly contain: find() skips over them several
    # characters at a time, which it cannot do for a needle that ends in a blank.
    while (newline := text.find("\nNode", start)) >= 0:
        yield start, newline + 1
        start = newline + 1
    yield start, len(text)


def _parse_node(text: str, path: str, node: int, start: int, end: int) -> Node:
    if not text.startswith(_NODE_TITLE, start):
        _fail(text, path, start, "expected '  per-node stats' or '  pages free'")
    lru = _NODE_LRU.match(text, start + len(_NODE_TITLE), end)
    if lru is None:
        _fail_in_section(text, path, start, end, f"the LRU sizes of node {node} are not as expected")
    inactive_anon, active_anon, inactive_file, active_file = map(int, lru.groups())
    mapped, shmem = (_node_counter(text, path, node, name, start, end) for name in _NODE_COUNTER)
    return Node(node, inactive_anon, active_anon, inactive_file, active_file, mapped, shmem)


def _node_counter(text: str, path: str, node: int, name: str, start: int, end: int) -> int | None:
    at = text.find(f"{name} ", start, end)
    if at < 0:
        return None
    match = _NODE_COUNTER[name].match(text, at, end)
    if match is None:
        _fail_in_section(text, path, start, end, f"the LRU sizes of node {node} are not as expected")
    return int(match[1])


def _parse_zone(text: str, path: str, zone_id: ZoneId, start: int, end: int) -> Zone:
    watermarks = _WATERMARKS.match(text, start, end)
    if watermarks is None:
        _fail_in_section(text, path, start, end, f"the watermarks of {zone_id} are not as expected")
    protection_at = text.find("protection:", watermarks.end(), end)
    protection = _PROTECTION.match(text, protection_at, end) if protection_at >= 0 else None
    if protection is None:
        _fail_in_section(text, path, start, end, f"the 'protection:' row of {zone_id} is not as expected")
    free, boost, minimum, low, high, spanned, present, managed = watermarks.groups()
    present_pages = int(present)
    lru_at = text.find("inactive_anon", watermarks.end(), end)
    lru = _ZONE_LRU.match(text, lru_at, end) if lru_at >= 0 else None
    if lru is None and (present_pages > 0 or lru_at >= 0):
        _fail_in_section(text, path, start, end, f"the LRU sizes of {zone_id} are not as expected")
    return Zone(
        zone_id,
        int(free),
        None if boost is None else int(boost),
        int(minimum),
        int(low),
        int(high),
        int(spanned),
        present_pages,
        None if managed is None else int(managed),
        tuple(map(int, protection[1].split(", "))),
        *((0, 0, 0, 0, 0) if lru is None else map(int, lru.groups())),
    )


def _fail_in_section(text: str, path: str, start: int, end: int, reason: str) -> NoReturn:
    position = start
    for line in text[start:end].splitlines(keepends=True):
        if line == "  pagesets\n":
            break
        if not _SOUND_LINE.fullmatch(line, 0, len(line) - 1):
            _fail(text, path, position, f"{reason}: {line[:80].rstrip()!r}")
        position += len(line)
    _fail(text, path, start, reason)


def _fail(text: str, path: str, position: int, reason: str) -> NoReturn:
    raise MalformedKernelFileError(path, text.count("\n", 0, position) + 1, reason)
