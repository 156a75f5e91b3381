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
_NODE_COUNTER = {name: re.compile(rf"{name} +{_NUMBER}\n") for name in ("nr_mapped", "nr_shmem", "nr_slab_reclaimable")}
_DIGITS = re.compile(_NUMBER)
_LISTS = ("inactive_anon", "active_anon", "inactive_file", "active_file")
_NODE_TITLE = "  per-node stats\n"
_ZONE_ID = re.compile(r"node(0|[1-9][0-9]{0,8})-([A-Za-z0-9_]{1,32})")


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

    `high_pages` contains the temporary boost. What no rule needs is None where the kernel does not print it, or not as
    a number. The five LRU counters of an unpopulated zone (`present_pages` 0) are 0: the kernel leaves them out.
    """

    id: ZoneId
    free_pages: int
    boost_pages: int | None
    min_pages: int | None
    low_pages: int | None
    high_pages: int
    spanned_pages: int | None
    present_pages: int
    managed_pages: int | None
    protection_pages: tuple[int, ...]
    inactive_anon_pages: int
    active_anon_pages: int
    inactive_file_pages: int
    active_file_pages: int
    unevictable_pages: int | None

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
    """The per-node counters, in pages; None where the kernel does not print them (before 4.8; no memory), or not as
    numbers: they only refine what the zones say.

    `mapped_pages` are those of files and of shared memory that some program has mapped, `shmem_pages` all of shared
    memory and tmpfs, mapped or not; shared memory is on the anonymous lists. `slab_reclaimable_pages` are the kernel's
    own caches, mostly of directory entries and inodes (by node since 4.13).
    """

    node: int
    inactive_anon_pages: int | None
    active_anon_pages: int | None
    inactive_file_pages: int | None
    active_file_pages: int | None
    mapped_pages: int | None
    shmem_pages: int | None = None
    slab_reclaimable_pages: int | None = None


@dataclass(frozen=True, slots=True)
class Zoneinfo:
    """All zones in the kernel's order, and one `Node` for every node that has a zone here."""

    zones: tuple[Zone, ...]
    nodes: tuple[Node, ...]


def parse_zoneinfo(text: str, path: str = "/proc/zoneinfo") -> Zoneinfo:
    """Parse the text of /proc/zoneinfo. Raises MalformedKernelFileError.

    The usual text is matched as a whole, which is fast. Where that does not do, what is needed is looked for line by
    line, and all other lines may look like anything.
    """
    zones: list[Zone] = []
    nodes: dict[int, Node] = {}
    seen: set[ZoneId] = set()
    if not text.endswith("\n"):
        raise MalformedKernelFileError(path, text.count("\n") + 1 if text else 0, "ends before the end of a line")
    for start, end in _sections(text):
        header = _HEADER.match(text, start, end)
        if header is None:
            if not text.startswith("Node", start) and text.find("  pages free", start, end) < 0:
                continue
            _fail(text, path, start, "expected 'Node N, zone NAME'")
        zone_id = ZoneId(int(header[1]), header[2])
        if zone_id in seen:
            _fail(text, path, start, f"a second {zone_id}")
        seen.add(zone_id)
        pages_start = text.find("  pages free", header.end(), end)
        if pages_start < 0:
            _fail(text, path, start, f"{zone_id} has no 'pages free'")
        node = nodes.get(zone_id.node)
        if node is None or (node.inactive_anon_pages is None and node.mapped_pages is None):
            nodes[zone_id.node] = _parse_node(text, zone_id.node, header.end(), pages_start)
        zones.append(_parse_zone(text, path, zone_id, pages_start, end))
    if not zones:
        raise MalformedKernelFileError(path, 0, "no zone in it")
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
    nodes = {node.node: node for node in info.nodes}
    lines: list[str] = []
    for zone in info.zones:
        lines.append(f"Node {zone.id.node}, zone {zone.id.name:>8}")
        if zone.present_pages and zone.id.node in nodes:
            node = nodes.pop(zone.id.node)
            counters = {
                name: getattr(node, f"{name}_pages") for name in (*_LISTS, "mapped", "shmem", "slab_reclaimable")
            }
            printed = [f"      nr_{name:<9} {pages}" for name, pages in counters.items() if pages is not None]
            lines += ["  per-node stats", *printed] if printed else []
        lines.append(f"  pages free     {zone.free_pages}")
        for name in ("boost", "min", "low", "high", "spanned", "present", "managed"):
            pages = getattr(zone, f"{name}_pages")
            lines += [] if pages is None else [f"        {name:<8} {pages}"]
        lines.append(f"        protection: ({', '.join(map(str, zone.protection_pages))})")
        if zone.present_pages:
            for name in (*_LISTS, "unevictable"):
                pages = getattr(zone, f"{name}_pages")
                lines += [] if pages is None else [f"      nr_zone_{name} {pages}"]
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


def _parse_node(text: str, node: int, start: int, end: int) -> Node:
    if start == end:
        return Node(node, None, None, None, None, None)
    lru = _NODE_LRU.match(text, start + len(_NODE_TITLE), end)
    if lru is not None and text.startswith(_NODE_TITLE, start):
        sizes: list[int | None] = [int(size) for size in lru.groups()]
    else:
        lines = _Lines(text, start, end)
        sizes = [lines.optional(f"nr_{name}") for name in _LISTS]
    inactive_anon, active_anon, inactive_file, active_file = sizes
    mapped, shmem, slab = (_node_counter(text, name, start, end) for name in _NODE_COUNTER)
    return Node(node, inactive_anon, active_anon, inactive_file, active_file, mapped, shmem, slab)


def _node_counter(text: str, name: str, start: int, end: int) -> int | None:
    at = text.find(f"{name} ", start, end)
    match = _NODE_COUNTER[name].match(text, at, end) if at >= 0 else None
    return int(match[1]) if match else None


def _parse_zone(text: str, path: str, zone_id: ZoneId, start: int, end: int) -> Zone:
    watermarks = _WATERMARKS.match(text, start, end)
    protection_at = text.find("protection:", start, end)
    protection = _PROTECTION.match(text, protection_at, end) if protection_at >= 0 else None
    if protection is None:
        _fail(text, path, max(start, protection_at), f"the 'protection:' row of {zone_id} is not as expected")
    reserves = tuple(map(int, protection[1].split(", ")))
    lru_at = text.find("inactive_anon", start, end)
    lru = _ZONE_LRU.match(text, lru_at, end) if lru_at >= 0 else None
    if watermarks is None or (lru is None and (lru_at >= 0 or int(watermarks[7]) > 0)):
        return _parse_unusual_zone(text, path, zone_id, reserves, start, end)
    free, boost, minimum, low, high, spanned, present, managed = watermarks.groups()
    return Zone(
        zone_id,
        int(free),
        None if boost is None else int(boost),
        int(minimum),
        int(low),
        int(high),
        int(spanned),
        int(present),
        None if managed is None else int(managed),
        reserves,
        *((0, 0, 0, 0, 0) if lru is None else map(int, lru.groups())),
    )


def _parse_unusual_zone(
    text: str, path: str, zone_id: ZoneId, protection_pages: tuple[int, ...], start: int, end: int
) -> Zone:
    lines = _Lines(text, start, end)

    def needed(*names: str) -> int:
        for name in names:
            if name in lines:
                value = lines.optional(name)
                if value is None:
                    position, line = lines.line(name)
                    _fail(text, path, position, f"expected '{name} N' of {zone_id}, got {line[:80].rstrip()!r}")
                return value
        _fail(text, path, start, f"{zone_id} has no '{names[0]}'")

    free, high, present = needed("free"), needed("high"), needed("present")
    lists = [0, 0, 0, 0]
    unevictable: int | None = 0
    if present:
        lists = [needed(f"nr_zone_{name}", f"nr_{name}") for name in _LISTS]
        unevictable = lines.optional("nr_zone_unevictable", "nr_unevictable")
    inactive_anon, active_anon, inactive_file, active_file = lists
    return Zone(
        id=zone_id,
        free_pages=free,
        boost_pages=lines.optional("boost"),
        min_pages=lines.optional("min"),
        low_pages=lines.optional("low"),
        high_pages=high,
        spanned_pages=lines.optional("spanned"),
        present_pages=present,
        managed_pages=lines.optional("managed"),
        protection_pages=protection_pages,
        inactive_anon_pages=inactive_anon,
        active_anon_pages=active_anon,
        inactive_file_pages=inactive_file,
        active_file_pages=active_file,
        unevictable_pages=unevictable,
    )


class _Lines:
    """The lines of a part of the text by their names, up to the pagesets; of two with one name, the first."""

    def __init__(self, text: str, start: int, end: int) -> None:
        self._lines: dict[str, tuple[int, str, str]] = {}
        for line in text[start:end].split("\n"):
            if line == "  pagesets":
                break
            words = line.removeprefix("  pages").split(maxsplit=1)
            if words:
                self._lines.setdefault(words[0], (start, line, words[1].rstrip() if len(words) > 1 else ""))
            start += len(line) + 1

    def __contains__(self, name: str) -> bool:
        return name in self._lines

    def line(self, name: str) -> tuple[int, str]:
        """Where the line begins, and the line."""
        return self._lines[name][:2]

    def optional(self, *names: str) -> int | None:
        """The number of the first of these names that there is; None if it is none."""
        for name in names:
            if name in self._lines:
                match = _DIGITS.fullmatch(self._lines[name][2])
                return int(match[1]) if match else None
        return None


def _fail(text: str, path: str, position: int, reason: str) -> NoReturn:
    raise MalformedKernelFileError(path, text.count("\n", 0, position) + 1, reason)
