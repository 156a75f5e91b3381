"""What pressure is about: a zone of the machine, or the limit of a memory cgroup.

A cgroup takes the way of a zone through board and device. Its name stands where a zone's does: in the log, in `status`,
and in records, as `zone=cgroup:/path` with `node=-1`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from memnotify_cuse.kernel.zoneinfo import ZoneId

CGROUP_NODE: Final = -1
"""In place of a node: that of no zone."""

MAX_NAME_CHARS: Final = 200
"""Of a cgroup in a record. Of a longer one the end is kept, which says more."""

_PREFIX: Final = "cgroup:"
_SAFE: Final = "/:@+,!~._-"
_CUT: Final = "..."


class CgroupId(ZoneId):
    """A memory cgroup, as a zone of no node. `path` is from the root of the hierarchy, as /proc/PID/cgroup has it.

    Of two cgroups with one path, the one that was there first and is gone and the one of now, `generation` differs.
    """

    __slots__ = ("_hash", "generation", "path")

    path: str
    generation: int
    _hash: int

    def __init__(self, path: str, generation: int = 0) -> None:
        object.__setattr__(self, "node", CGROUP_NODE)
        object.__setattr__(self, "name", cgroup_name(path))
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "generation", generation)
        object.__setattr__(self, "_hash", hash((path, generation)))

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CgroupId):
            return NotImplemented
        return (self.path, self.generation) == (other.path, other.generation)

    def __hash__(self) -> int:
        return self._hash


Scope = tuple[CgroupId, ...]
"""The cgroups with a limit that a program is in, from the inside."""


def cgroup_name(path: str) -> str:
    """The word for a cgroup in records. `path` has a character for each byte, as kernel files are read here."""
    quoted = quote(path.encode("latin-1", "replace"), safe=_SAFE)
    if len(_PREFIX) + len(quoted) <= MAX_NAME_CHARS:
        return _PREFIX + quoted
    kept = quoted[-(MAX_NAME_CHARS - len(_PREFIX) - len(_CUT)) :]
    # Not from within a %XX.
    for start in (1, 2):
        if quoted[-len(kept) - start] == "%":
            kept = kept[3 - start :]
            break
    return _PREFIX + _CUT + kept
