"""What stands in the files of the control file system: text made from the board, commands taken to it.

No I/O on a mount and no pyfuse3 here: `transport.controlfs` shows these files, tests read them directly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from memnotify_cuse.board import STATUS_IGNORED, Board, ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.kernel.zoneinfo import ZoneId, insert_status_lines
from memnotify_cuse.record import LEVEL_LOW, LEVELS, MAX_SIMULATION_S

FRESH_NS = 20_000_000
"""How long a text that has counters and clocks in it is shown as it is. A text per read would be work without end."""


class SimulateError(ValueError):
    """A line written to `simulate` that cannot be understood; the message says which part."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server says of itself in `server`: unchanging words, and those asked for at each read.

    `failing` has the sources that fail, each as words of its own line: `failing`, its name, comes first.
    """

    fixed: dict[str, str]
    changing: Callable[[], dict[str, str]]
    failing: Callable[[], list[dict[str, str]]] = list


class Control:
    """The texts of `status`, `server`, `cgroups` and `zoneinfo`, and the commands of `simulate`.

    `cgroups` gives the words of each cgroup that is looked at. `zoneinfo` gives the text of /proc/zoneinfo, to which
    the states are added; `version` gives something that is different after each scan, without it that text is taken
    anew after `FRESH_NS`. What a text was made from is told by its version: as long as that is equal, the text is as
    well.
    """

    def __init__(
        self,
        board: Board,
        device: Device,
        facts: ServerFacts,
        zoneinfo: Callable[[], str],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        version: Callable[[], object] | None = None,
        cgroups: Callable[[], list[dict[str, str]]] = list,
    ) -> None:
        self._cgroups = cgroups
        self._version = version or self._moment
        self._board = board
        self._device = device
        self._facts = facts
        self._zoneinfo = zoneinfo
        self._clock_ns = clock_ns
        self._started_ns = clock_ns()

    def zones(self) -> list[ZoneId]:
        """The zones that have a device of their own: every populated one."""
        return [state.zone for state in self._board.zones]

    def status(self) -> str:
        """One key=value line per populated zone."""
        return "".join(map(_status_line, self._board.zones))

    def status_version(self) -> object:
        return tuple(self._board.zones)

    def server(self) -> str:
        """One key=value line about the server, and one for each source that fails."""
        words = {
            **self._facts.fixed,
            **self._facts.changing(),
            "open_files": str(self._device.open_files),
            "watchers": str(self._device.watchers),
            "notifications": str(self._board.notifications),
            "uptime_s": f"{(self._clock_ns() - self._started_ns) / 1e9:.1f}",
        }
        return "".join(map(_line, [words, *self._facts.failing()]))

    def server_version(self) -> object:
        told = self._device.open_files, self._device.watchers, self._board.notifications
        return self._moment(), self._version(), told

    def cgroups(self) -> str:
        """One key=value line per cgroup that programs are told of."""
        return "".join(map(_line, self._cgroups()))

    def cgroups_version(self) -> object:
        return self._moment()

    def zoneinfo(self) -> str:
        """/proc/zoneinfo as the 2008 patch had it: with a mem_notify_status line for each zone."""
        status = {state.zone: state.status for state in self._board.zones}
        return insert_status_lines(self._zoneinfo(), status)

    def zoneinfo_version(self) -> object:
        return self._version(), tuple(state.status for state in self._board.zones)

    def simulate(self, line: str) -> None:
        """Carry out "all SECONDS [LEVEL]" or "nodeN-NAME SECONDS [LEVEL]"; else SimulateError or UnknownZoneError."""
        words = line.split()
        if len(words) not in (2, 3):
            raise SimulateError("expected: all SECONDS, or nodeN-NAME SECONDS, and a level if you like")
        try:
            zone = None if words[0] == "all" else ZoneId.parse(words[0])
        except ValueError:
            raise SimulateError(f"not a zone: {words[0]}") from None
        try:
            seconds = float(words[1])
        except ValueError:
            raise SimulateError(f"not a number of seconds: {words[1]}") from None
        if not 0 <= seconds <= MAX_SIMULATION_S:
            raise SimulateError(f"seconds must be between 0 and {MAX_SIMULATION_S:.0f}, not {words[1]}")
        level = words[2] if len(words) == 3 else LEVEL_LOW
        if level not in LEVELS:
            raise SimulateError(f"not one of the levels {', '.join(LEVELS)}: {level}")
        self._board.simulate(zone, int(seconds * 1e9), self._clock_ns(), level)

    def _moment(self) -> int:
        return self._clock_ns() // FRESH_NS


def _line(words: dict[str, str]) -> str:
    """Words in a line; a blank in a value is written as in /proc/mounts, so that each can be told from the next."""
    return " ".join(f"{key}={_escaped(value)}" for key, value in words.items()) + "\n"


def _escaped(value: str) -> str:
    return "\\040".join(value.replace("\\", "\\134").split())


def _status_line(state: ZoneState) -> str:
    clear_pages = "-" if state.status == STATUS_IGNORED else str(state.clear_pages)
    return (
        f"node={state.zone.node} zone={state.zone.name} status={state.status} free_pages={state.free_pages} "
        f"high_pages={state.high_pages} reserve_pages={state.reserve_pages} clear_pages={clear_pages} "
        f"raised={state.raised} reason={state.reason or 'none'} time_ns={state.time_ns} "
        f"level={state.level if state.under_pressure else '-'}\n"
    )
