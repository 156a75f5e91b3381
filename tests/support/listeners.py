"""Programs that listen in a memory cgroup of the tests' own, and what MOUNT/cgroups says of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from memnotify_cuse.record import Record
from tests.support.cgroups import Cgroup
from tests.support.mounted import open_files, wait_until
from tests.support.programs import Programs
from tests.support.server import Lines, Server

SLOW_MIB: Final = 16
SLOW_MIB_PER_S: Final = 8


def listed(server: Server) -> dict[str, dict[str, str]]:
    """The lines of MOUNT/cgroups, by the name of the cgroup."""
    lines = (server.mount / "cgroups").read_text().splitlines()
    each = [dict(word.split("=", 1) for word in line.split()) for line in lines]
    return {words["cgroup"]: words for words in each}


def wait_for_listeners(server: Server, cgroup: Cgroup, count: int = 1) -> None:
    """Return once the server knows of so many programs that listen in the cgroup or below it; 0: of the cgroup."""

    def known() -> int:
        return int(listed(server).get(cgroup.zone, {}).get("listeners", "0"))

    wait_until(lambda: known() == count, f"{count} listeners in {cgroup.zone}")


def wait_for_limit(server: Server, cgroup: Cgroup, size_bytes: int | None) -> None:
    """Return once the server knows that limit; None: that there is none."""
    wanted = None if size_bytes is None else str(size_bytes // 1024)
    wait_until(
        lambda: listed(server).get(cgroup.zone, {}).get("limit_kb") == wanted, f"{cgroup.zone} with limit_kb={wanted}"
    )


def raised(server: Server, cgroup: Cgroup) -> int:
    """How often the cgroup came under pressure."""
    return int(listed(server)[cgroup.zone]["raised"])


class Listener:
    """A program that prints the records it reads, of whatever they are."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def next(self) -> Record:
        return Record.parse(self._lines.next())

    def next_of(self, cgroup: Cgroup) -> Record:
        """The next one of `cgroup`."""
        while (record := self.next()).zone != cgroup.zone:
            pass
        return record

    def up_to_simulated(self) -> list[Record]:
        """Those before the next one that is simulated."""
        records = []
        while (record := self.next()).reason != "simulated":
            records.append(record)
        return records


@contextmanager
def listening(server: Server, cgroup: Cgroup) -> Iterator[Listener]:
    """`cat` of the device, in the cgroup; it has opened it when the block begins."""
    before = open_files(server)
    with cgroup.running("cat", server.device) as cat:
        wait_until(lambda: open_files(server) > before, "a listener")
        yield Listener(Lines(cat))


@contextmanager
def filled(programs: Programs, cgroup: Cgroup, size_mib: int) -> Iterator[None]:
    """A program in the cgroup that has so much memory, all of it in the block.

    The last part of it is taken so slowly that the server sees it go on, however busy the machine is.
    """
    slow_mib = min(size_mib, SLOW_MIB)
    with cgroup.running(programs("fill"), "cold", size_mib - slow_mib, slow_mib, SLOW_MIB_PER_S) as fill:
        lines = Lines(fill)
        assert lines.next() == "begun"
        assert lines.next() == "full"
        yield
