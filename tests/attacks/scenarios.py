"""The attacks: each row stands for a kind. What is in braces in the arguments is filled in by the arena.

{device} {mount} {silent}   paths: the node, the control file system, a file on the attacker's own FUSE mount
{fd} {count} {victim}       the descriptor of that mount, the size of the attack, the set-uid copy of its program
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Users(Enum):
    """Who attacks: tests/attacks/programs/users.c."""

    NOBODY = "nobody"
    SUBS = "subs"
    USERNS = "userns"
    ROOT = "root"
    """Sets up what an attacker would have to wait for, and gives its victims the user they need."""

    @property
    def processes(self) -> int:
        """How many of the program there are."""
        return 8 if self in (Users.SUBS, Users.USERNS) else 1


@dataclass(frozen=True, slots=True)
class Scenario:
    """One attack. `count` is its size in the tests, `long_count` in `make attacks`."""

    name: str
    bounded: str
    """What is bounded, for the table."""
    program: str
    arguments: tuple[str, ...]
    users: Users = Users.NOBODY
    count: int = 0
    long_count: int = 0
    options: tuple[str, ...] = ()
    full_stderr: bool = False
    no_zoneinfo: bool = False
    """zoneinfo goes from the server's --proc once it is ready; what it has open stays."""
    opens: bool = False
    """Root and the honest user must be able to open the device."""
    gives_back: bool = False
    """Memory is measured once more when the attack is over."""
    critical: bool = False
    """Every zone is critical all along, so that whoever answers is told every 20 ms."""
    kills: bool = False
    """SIGKILL of the server under this attack is part of the tests; of `make attacks` it always is."""


def _silent(name: str, bounded: str, mode: str, *, kills: bool = False) -> Scenario:
    arguments = (mode, "{device}", "{silent}", "{fd}")
    return Scenario(name, bounded, "silent", arguments, kills=kills)


def _slow(
    name: str,
    mode: str,
    count: int,
    *,
    bounded: str = "turns of slow users",
    users: Users = Users.NOBODY,
    options: tuple[str, ...] = (),
) -> Scenario:
    arguments = (mode, "{device}", "{silent}", "{fd}", "{count}")
    return Scenario(name, bounded, "slow", arguments, users, count, options=options)


def _owners(
    name: str,
    bounded: str,
    mode: str,
    count: int = 0,
    *,
    options: tuple[str, ...] = (),
    critical: bool = False,
    kills: bool = False,
) -> Scenario:
    arguments = (mode, "{device}", "{count}")
    return Scenario(name, bounded, "owners", arguments, count=count, options=options, critical=critical, kills=kills)


def _files(
    name: str,
    bounded: str,
    mode: str,
    count: int = 0,
    *,
    path: str = "{device}",
    long_count: int = 0,
    users: Users = Users.NOBODY,
    opens: bool = False,
    critical: bool = False,
    kills: bool = False,
    gives_back: bool = False,
) -> Scenario:
    return Scenario(
        name,
        bounded,
        "files",
        (mode, path, "{count}"),
        users=users,
        count=count,
        long_count=long_count,
        opens=opens,
        critical=critical,
        kills=kills,
        gives_back=gives_back,
    )


_ZONEINFO: Final = "{mount}/zoneinfo"

TABLE: Final = (
    _files("no attack", "nothing: what the others are compared with", "idle", 0, kills=True),
    _silent("sigwait page", "time for each client", "sigwait", kills=True),
    _silent("exec", "time for each client", "exec"),
    _silent("dup2 loop", "time for each client", "swap", kills=True),
    _silent("cmdline page", "time for each client", "cmdline"),
    _silent("silent files between", "time for each client", "held"),
    _slow("slow exec", "exec", 60),
    _slow("slow exec, sub-uids", "exec", 8, users=Users.SUBS),
    _slow("slow exec, strict", "exec", 60, options=("--sigio", "strict")),
    _slow("slow dup2 loop", "swap", 200),
    _slow("slow dup2 loop, sub-uids", "swap", 40, users=Users.SUBS),
    _slow("slow epoll", "epoll", 200),
    _slow("slow epoll, sub-uids", "epoll", 20, users=Users.SUBS),
    _slow("wide tables", "wide", 20, bounded="a helper's turn"),
    _slow("wide tables, sub-uids", "wide", 10, bounded="a helper's turn", users=Users.SUBS),
    _slow("long fdinfo", "long", 20, bounded="a helper's turn"),
    _slow("long fdinfo, sub-uids", "long", 10, bounded="a helper's turn", users=Users.SUBS),
    Scenario(
        "set-uid race",
        "permission at the moment of sending",
        "race",
        ("uid", "{device}", "{count}", "{victim}"),
        count=800,
    ),
    Scenario("thread id race", "whom an id means", "race", ("tid", "{device}", "{count}"), Users.ROOT, count=400),
    _files("zoneinfo opens", "open text files", "hold", 20_000, path=_ZONEINFO, long_count=119_000, gives_back=True),
    _files("device opens", "open device files", "hold", 20_000, long_count=32_000, opens=True, gives_back=True),
    _files("statx threads", "requests of a user", "statx", 3_000, path=_ZONEINFO, opens=True),
    _files("statx threads, device", "requests of a user", "statx", 3_000, opens=True),
    _owners("group of 1,000", "members for each batch", "group", 1_000, kills=True),
    _owners("3,000 threads", "threads that are looked at", "threads", 3_000),
    _owners("in flight", "searches for a file", "sockets", 1_000),
    _owners("descriptor table", "searches in a process", "table", 15_000),
    _files("4,090 asleep", "turns of a user", "asleep", 4_090, kills=True),
    _files("50 idle", "guard time of a user", "idle", 50),
    _files("sub-uids", "open device files in all", "hold", 4_096, users=Users.SUBS, opens=True),
    _files("sub-uids, own namespace", "open files of the owner", "hold", 4_096, users=Users.USERNS, opens=True),
    _files("sub-uids asleep", "turns of users", "asleep", 400, users=Users.SUBS),
    _owners("O_ASYNC loop, strict", "events for each look", "async", options=("--sigio", "strict")),
    _owners("O_ASYNC loop", "nothing is asked", "async"),
    Scenario("stderr full", "log lines", "files", ("texts", _ZONEINFO, "0"), full_stderr=True, no_zoneinfo=True),
    Scenario("zoneinfo unreadable", "log lines", "files", ("texts", _ZONEINFO, "0"), no_zoneinfo=True),
    _files("open and close", "requests of a user", "opens"),
    _files("poll without end", "requests of a user", "ask"),
    _files("texts without end", "rendering", "texts", path=_ZONEINFO),
    _files("interrupted readers", "requests of a user", "interrupts", 2_000),
    _files("epoll ADD and DEL", "requests of a user", "epoll"),
    _files("passed around", "searches for a file", "passing"),
    _files("writes to simulate", "rights", "writes", path="{mount}/simulate"),
    _files("lookups", "requests of a user", "lookups", path="{mount}"),
    _files("byte readers", "held reads", "slow", 500),
    _files("poll of a millisecond", "requests of a user", "selects", 500),
    _owners("random owners", "owners that are looked at", "random"),
    _owners("forks", "owners that are looked at", "forks", kills=True),
    _owners("exec storm", "owners that are looked at", "exec"),
    _owners("stopped owners", "time for each client", "stopped", 300),
    _files("4,090 asleep, critical", "files that are looked at", "asleep", 4_090, critical=True),
    _files("sub-uids asleep, critical", "files that are looked at", "asleep", 400, users=Users.SUBS, critical=True),
    _owners("stopped owners, critical", "files that are looked at", "stopped", 300, critical=True),
    _files("open and close, critical", "requests of a user", "opens", critical=True),
)

LONG_ONLY: Final = frozenset(
    {
        "silent files between",
        "slow exec",
        "slow exec, sub-uids",
        "slow dup2 loop",
        "slow epoll",
        "slow epoll, sub-uids",
        "wide tables",
        "wide tables, sub-uids",
        "long fdinfo",
        "statx threads, device",
        "descriptor table",
        "sub-uids asleep",
        "O_ASYNC loop",
        "zoneinfo unreadable",
        "texts without end",
        "epoll ADD and DEL",
        "lookups",
        "byte readers",
        "poll of a millisecond",
        "random owners",
        "device opens",
        "sub-uids asleep, critical",
        "stopped owners, critical",
        "open and close, critical",
    }
)
"""Kin of other rows, for `make attacks` alone: the tests are to take three minutes."""

IN_TESTS: Final = tuple(scenario for scenario in TABLE if scenario.name not in LONG_ONLY)

KILLS_IN_TESTS: Final = tuple(scenario for scenario in TABLE if scenario.kills)
