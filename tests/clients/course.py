"""What each program goes through: three notifications, a server that is killed, a fourth notification, the end.

Notifications are simulated. The pressure lasts until the program was told and HOLD_S more, so that one that is told
again and again shows it; then it ends, and the guard time passes. SPARE open files make the guard time long enough for
the same notification never to come twice.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.clients.build import Place
from tests.clients.program import Program, process_cpu_ns
from tests.clients.stack import Stack
from tests.support.mounted import LONG_S, calm_proc, facts, opened, watchers
from tests.support.server import Server
from tests.support.takeover import server_pid, wait_for_another

NOTIFICATIONS: Final = 3
SPARE: Final = 3
HOLD_S: Final = 0.15
GUARD_S: Final = 0.2
"""Per open file of a user: docs/semantics.md."""

MARGIN_S: Final = 0.1
START_LIMIT_S: Final = 30.0
TOLD_LIMIT_S: Final = 5.0
END_LIMIT_S: Final = 5.0
LONGEST: Final = 100
"""Characters of a complaint."""

SPINS: Final = 20
"""So many wake-ups after the end are a loop that does not see it."""


@dataclass(frozen=True, slots=True)
class Run:
    """What three notifications came to, for one program and one mode."""

    told: int
    wakes: int
    program_ns: int
    server_ns: int
    chances: int
    """How often it could be told: more than NOTIFICATIONS where pressure outlasted the guard time."""

    @property
    def wakes_each(self) -> float:
        """Wake-ups for each time that it could be told."""
        return self.wakes / self.chances


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one program. `noticed`: what it said while the server was replaced; it should be nothing."""

    reading: Run
    noticed: int
    told_after: bool
    end: str


class NotReadyError(Exception):
    """The program did not get as far as waiting for the device; the message is why."""


def new_server(directory: Path) -> Server:
    """One whose only pressure is simulated, and which tells all programs of each notification."""
    return Server(directory, "--no-herd-control", "--proc", str(calm_proc(directory).path))


def start(stack: Stack, command: Sequence[str], place: Place, server: Server, mode: str) -> Program:
    """Run a program of the list; `command` is what `command_of` made of it."""
    environment = {name: value.replace("NPM", str(place.npm)) for name, value in stack.environment.items()}
    device = str(server.device)
    words = [word.replace("DEVICE", device) for word in command]
    arguments = [] if stack.is_tool else [device, mode, *stack.arguments]
    return Program([*words, *arguments], is_tool=stack.is_tool, environment=environment)


@contextmanager
def spare_files(server: Server) -> Iterator[None]:
    """Open files that nobody waits on."""
    with ExitStack() as stack:
        for _ in range(SPARE):
            stack.enter_context(opened(server.device, os.O_NONBLOCK))
        yield


def wait_until_waiting(server: Server, programs: Sequence[Program]) -> None:
    """Return once all of them are asleep on the device."""

    def all_wait() -> bool:
        for program in programs:
            if program.has_ended:
                raise NotReadyError(_why_ended(program))
        return all(program.seen.ready for program in programs) and watchers(server) >= len(programs)

    if not _within(START_LIMIT_S, all_wait):
        raise NotReadyError("it does not wait for the device")


def notify_once(server: Server, programs: Sequence[Program]) -> tuple[list[bool], int]:
    """One notification; who was told of it, and how often each could be told in that time."""
    before = [program.seen.heard for program in programs]

    def told() -> list[bool]:
        return [program.seen.heard > was for program, was in zip(programs, before, strict=True)]

    guard_s = GUARD_S * int(facts(server)["open_files"])
    began_s = time.monotonic()
    server.simulate(seconds=LONG_S)
    _within(TOLD_LIMIT_S, lambda: all(told()))
    time.sleep(HOLD_S)
    server.simulate(seconds=0)
    chances = 1 + int((time.monotonic() - began_s) / guard_s)
    time.sleep(guard_s + MARGIN_S)
    return told(), chances


def notify_often(server: Server, programs: Sequence[Program]) -> list[Run]:
    """NOTIFICATIONS of them."""
    pid = server_pid(server)
    wakes = [program.seen.wakes for program in programs]
    cpu_ns = [program.cpu_ns() for program in programs]
    server_ns = process_cpu_ns(pid)
    told = [0] * len(programs)
    chances = 0
    for _ in range(NOTIFICATIONS):
        heard, more = notify_once(server, programs)
        told = [count + each for count, each in zip(told, heard, strict=True)]
        chances += more
    server_ns = process_cpu_ns(pid) - server_ns
    return [
        Run(count, program.seen.wakes - woken, program.cpu_ns() - ns, server_ns, chances)
        for program, count, woken, ns in zip(programs, told, wakes, cpu_ns, strict=True)
    ]


def nobody_waits(server: Server) -> int:
    """NOTIFICATIONS that no program waits for: what they cost the server, in nanoseconds."""
    pid = server_pid(server)
    began_ns = process_cpu_ns(pid)
    for _ in range(NOTIFICATIONS):
        notify_once(server, [])
    return process_cpu_ns(pid) - began_ns


def replace_server(server: Server, programs: Sequence[Program]) -> list[int]:
    """Kill the server under them; what each said meanwhile."""
    before = [program.seen.wakes for program in programs]
    pid = server_pid(server)
    os.kill(pid, signal.SIGKILL)
    wait_for_another(server, pid)
    _within(TOLD_LIMIT_S, lambda: watchers(server) >= len(programs))
    return [
        program.seen.wakes - was + (program.seen.end is not None) for program, was in zip(programs, before, strict=True)
    ]


def end_server(server: Server, programs: Sequence[Program]) -> list[str]:
    """SIGTERM; what each program saw of it."""
    before = [program.seen.wakes for program in programs]
    server.process.send_signal(signal.SIGTERM)
    _within(END_LIMIT_S, lambda: all(program.has_ended for program in programs))
    return [
        _what_it_saw(program, program.seen.wakes - was).replace(str(server.device), "DEVICE")[:LONGEST]
        for program, was in zip(programs, before, strict=True)
    ]


def take_all(server: Server, programs: Sequence[Program]) -> list[Outcome]:
    """All of it. The server has ended afterwards."""
    wait_until_waiting(server, programs)
    runs = notify_often(server, programs)
    noticed = replace_server(server, programs)
    told, _ = notify_once(server, programs)
    ends = end_server(server, programs)
    return [Outcome(*each) for each in zip(runs, noticed, told, ends, strict=True)]


def _what_it_saw(program: Program, wakes: int) -> str:
    seen = program.seen
    if seen.end is not None:
        return seen.end or "end"
    if program.has_ended:
        return _why_ended(program)
    if wakes > SPINS:
        return f"spins: {wakes} wake-ups in {END_LIMIT_S:.0f} s"
    return "nothing"


def _why_ended(program: Program) -> str:
    seen = program.seen
    if seen.end is not None:
        return seen.end
    said = program.complaint() or seen.odd or ""
    return f"exit {program.process.returncode}{': ' if said else ''}{said}"


def _within(limit_s: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
