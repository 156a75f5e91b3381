"""The tree of the control file system: every name, inode and mode, in one table. No I/O and no pyfuse3.

mem_notify           the device, any zone              0444
zones/nodeN-NAME     the device of one zone            0444
levels/LEVEL         the device from that level up     0444
state                the device that tells the end too 0444
status               one key=value line per zone       0444
server               one key=value line                0444
zoneinfo             /proc/zoneinfo and the status     0444
cgroups              one key=value line per cgroup     0400
simulate             takes commands                    0200
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from memnotify_cuse.device.topics import Special, Topic
from memnotify_cuse.kernel.zoneinfo import ZoneId

ROOT: Final = 1
DEVICE: Final = 2
ZONES: Final = 3
STATUS: Final = 4
SERVER: Final = 5
ZONEINFO: Final = 6
SIMULATE: Final = 7
STATE: Final = 8
LEVELS: Final = 9
MEDIUM: Final = 10
CRITICAL: Final = 11
CGROUPS: Final = 12
FIRST_ZONE: Final = 16

ATTR_TIMEOUT_S: Final = 60
BLOCK_BYTES: Final = 4096


class TreeError(Exception):
    """There is no such entry; `errno` is what the program gets."""

    def __init__(self, code: int) -> None:
        super().__init__(os.strerror(code))
        self.errno = code


@dataclass(frozen=True, slots=True)
class Node:
    """An entry of the tree. `mode` is that of stat(2), file type included."""

    inode: int
    mode: int

    @property
    def links(self) -> int:
        return 2 if stat.S_ISDIR(self.mode) else 1


_DIRECTORY: Final = stat.S_IFDIR | 0o555
_READABLE: Final = stat.S_IFREG | 0o444

_FIXED: Final = {
    b"mem_notify": (DEVICE, _READABLE),
    b"state": (STATE, _READABLE),
    b"zones": (ZONES, _DIRECTORY),
    b"levels": (LEVELS, _DIRECTORY),
    b"status": (STATUS, _READABLE),
    b"server": (SERVER, _READABLE),
    b"zoneinfo": (ZONEINFO, _READABLE),
    b"cgroups": (CGROUPS, stat.S_IFREG | 0o400),
    b"simulate": (SIMULATE, stat.S_IFREG | 0o200),
}
"""Name, kind and mode. A kind is an inode less the first one of the tree."""

_LEVELS: Final = {
    Special.MEDIUM.value.encode(): (MEDIUM, _READABLE),
    Special.CRITICAL.value.encode(): (CRITICAL, _READABLE),
}
_TOPICS: Final[dict[int, Topic]] = {
    DEVICE: None,
    STATE: Special.STATE,
    MEDIUM: Special.MEDIUM,
    CRITICAL: Special.CRITICAL,
}
"""What the device files are about that are always there."""


class Tree:
    """The entries there are now. `zones` gives the zones that have a device; a zone keeps its inode.

    All inodes but the root's are above `first_inode`, by which a descriptor of ours can be told from others without
    asking the file system (`fasync.look`).

    `device_inodes` maps the inode of each device file to what it is about. Everything belongs to
    `owner` (user and group, this process's unless given) and dates from `born_ns`. `on_zone` is told of each zone that
    is given an inode.
    """

    def __init__(
        self,
        zones: Callable[[], Iterable[ZoneId]],
        owner: tuple[int, int] | None = None,
        first_inode: int = 0,
        on_zone: Callable[[ZoneId], None] = lambda _zone: None,
    ) -> None:
        self._zones = zones
        self._first_inode = first_inode
        self.owner = owner or (os.geteuid(), os.getegid())
        self.born_ns = time.time_ns()
        self.device_inodes = {first_inode + kind: topic for kind, topic in _TOPICS.items()}
        self._fixed = {name: Node(first_inode + kind, mode) for name, (kind, mode) in _FIXED.items()}
        self._levels = {name: Node(first_inode + kind, mode) for name, (kind, mode) in _LEVELS.items()}
        fixed = (Node(ROOT, _DIRECTORY), *self._fixed.values(), *self._levels.values())
        self._nodes = {node.inode: node for node in fixed}
        self._zone_nodes: dict[ZoneId, Node] = {}
        self._on_zone = on_zone

    def restore(self, zones: Iterable[ZoneId]) -> None:
        """Give the zones that had inodes before the same ones: they come in the order of these."""
        on_zone, self._on_zone = self._on_zone, lambda _zone: None
        for zone in zones:
            self._zone_node(zone)
        self._on_zone = on_zone

    def kind(self, inode: int) -> int:
        """Which of the fixed entries an inode is: `ROOT`, `STATUS` and so on."""
        return inode if inode == ROOT else inode - self._first_inode

    def node(self, inode: int) -> Node:
        """The entry of an inode, or `TreeError` (ENOENT)."""
        try:
            return self._nodes[inode]
        except KeyError:
            raise TreeError(errno.ENOENT) from None

    def children(self, inode: int) -> dict[bytes, Node]:
        """The entries of a directory by name, or `TreeError` (ENOTDIR)."""
        kind = self.kind(inode)
        if kind == ROOT:
            return self._fixed
        if kind == LEVELS:
            return self._levels
        if kind == ZONES:
            return {str(zone).encode(): self._zone_node(zone) for zone in self._zones()}
        raise TreeError(errno.ENOTDIR)

    def lookup(self, parent: int, name: bytes) -> Node:
        """The entry `name` of a directory, or `TreeError` (ENOENT, ENOTDIR)."""
        if name == b".":
            return self.node(parent)
        if name == b"..":
            return self.node(ROOT)
        try:
            return self.children(parent)[name]
        except KeyError:
            raise TreeError(errno.ENOENT) from None

    def _zone_node(self, zone: ZoneId) -> Node:
        node = self._zone_nodes.get(zone)
        if node is None:
            node = Node(self._first_inode + FIRST_ZONE + len(self._zone_nodes), _READABLE)
            self._zone_nodes[zone] = self._nodes[node.inode] = node
            self.device_inodes[node.inode] = zone
            self._on_zone(zone)
        return node
