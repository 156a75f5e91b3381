"""What each process of the server may do, and holds, as the kernel tells it; `keeper.rights` has the table."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest

from memnotify_cuse.keeper import rights
from memnotify_cuse.keeper.rights import DESCRIPTORS, FORKER, HELPER, KEEPER
from memnotify_cuse.kernel.capabilities import Capability, mask_of, parse_capability_masks
from memnotify_cuse.kernel.fdinfo import fdinfo_has_inodes
from tests.fuzz.processes import family
from tests.support.mounted import Machine, facts, opened, serving, wait_until
from tests.support.server import Server

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's server has no rights to give up"),
]

NONE: frozenset[Capability] = frozenset()
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Processes:
    """The process ids of a server all of whose processes run. `helpers` are one or more."""

    keeper: int
    server: int
    forker: int
    helpers: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        return (self.keeper, self.server, self.forker, *self.helpers)


@contextmanager
def all_at_work(server: Server) -> Iterator[Processes]:
    """With a client that sets an owner, for whom helpers are needed."""

    def by_name() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for pid in family(server.process.pid)[1:]:
            # One that has just ended is none of them.
            with suppress(OSError):
                found.setdefault((PROC / str(pid) / "comm").read_text().strip(), []).append(pid)
        return found

    with opened(server.device) as fd:
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # Ignored by who does not ask for it.
        wait_until(lambda: int(facts(server)["helpers"]) > 0, "a helper")
        found: dict[str, list[int]] = {}

        def settled() -> bool:
            """What shows the device has ended, and each helper has its own name: it is born with the forker's."""
            nonlocal found
            found = by_name()
            counts = {name: len(pids) for name, pids in found.items()}
            return counts.pop("memnotify-sigio", 0) > 0 and counts == {"memnotify-serve": 1, "memnotify-helpe": 1}

        wait_until(settled, "one server, one forker and their helpers")
        # A helper gives up its rights after its start, before it looks at anything.
        at_work = [server.process.pid, *chain.from_iterable(found.values())]
        wait_until(lambda: all(map(no_new_privileges, at_work)), "all at work")
        helpers = found["memnotify-sigio"]
        wait_until(lambda: not any(map(may_lock_memory, helpers)), "each helper with its memory locked")
        (serve,), (forker,) = found["memnotify-serve"], found["memnotify-helpe"]
        yield Processes(server.process.pid, serve, forker, tuple(found["memnotify-sigio"]))


@pytest.fixture
def processes(server: Server) -> Iterator[Processes]:
    with all_at_work(server) as found:
        yield found


def statuses(pid: int) -> list[str]:
    """/proc/PID/status of each thread."""
    return [(task / "status").read_text() for task in (PROC / str(pid) / "task").iterdir()]


def field(name: str, status: str) -> list[str]:
    match = re.search(rf"^{name}:(.*)$", status, re.MULTILINE)
    assert match, f"no {name} in {status}"
    return match[1].split()


def no_new_privileges(pid: int) -> bool:
    return all(field("NoNewPrivs", status) == ["1"] for status in statuses(pid))


def may_lock_memory(pid: int) -> bool:
    return any(int(field("CapPrm", status)[0], 16) >> Capability.IPC_LOCK & 1 for status in statuses(pid))


def realtime_limit(pid: int) -> int:
    match = re.search(r"^Max realtime priority +([0-9]+) ", (PROC / str(pid) / "limits").read_text(), re.MULTILINE)
    assert match
    return int(match[1])


def kept_by_server(processes: Processes) -> frozenset[Capability]:
    """CAP_SYS_NICE, where the limit of real-time priority could not be raised."""
    return NONE if realtime_limit(processes.server) else frozenset({Capability.SYS_NICE})


def ours() -> int:
    """What this machine's root has to give, which in a container is not everything."""
    return parse_capability_masks((PROC / "self/status").read_text())["CapPrm"]


def check_masks(pid: int, may: frozenset[Capability], bound: frozenset[Capability] | None = None) -> None:
    """A process holds exactly the capabilities `may`, as far as there are any, and no program could have more than
    `bound`, if there were not no_new_privs: a child of the keeper's is bound as that is, since it cannot change that.
    """
    for status in statuses(pid):
        masks = parse_capability_masks(status)
        wanted = mask_of(may) & ours()
        assert (masks["CapEff"], masks["CapPrm"]) == (wanted, wanted), f"{pid}: {masks}"
        assert masks["CapInh"] == masks["CapAmb"] == 0
        if ours() >> Capability.SETPCAP & 1:
            assert masks["CapBnd"] == mask_of(bound or may) & ours(), f"{pid}: {masks}"


def test_the_keeper_holds_what_the_table_says(processes: Processes) -> None:
    check_masks(processes.keeper, KEEPER | kept_by_server(processes))


def test_the_server_holds_nothing_but_the_right_to_be_prompt_where_no_limit_gives_it(processes: Processes) -> None:
    check_masks(processes.server, kept_by_server(processes))


def test_the_parent_of_helpers_holds_theirs_and_the_right_to_lock_memory(processes: Processes) -> None:
    more = NONE if fdinfo_has_inodes() else rights.BY_DEVICE
    check_masks(processes.forker, FORKER | more, KEEPER | kept_by_server(processes))


def test_a_helper_holds_the_rights_to_look_and_to_signal_and_no_others(processes: Processes) -> None:
    more = NONE if fdinfo_has_inodes() else rights.BY_DEVICE
    for pid in processes.helpers:
        check_masks(pid, HELPER | more, KEEPER | kept_by_server(processes))


def test_the_table_says_what_is_held() -> None:
    held = {
        "keeper": (set(KEEPER), set(NONE)),
        "server": (set(NONE), {Capability.SYS_NICE}),
        "helper": (set(HELPER), set(rights.BY_DEVICE)),
    }
    said: dict[str, tuple[set[Capability], set[Capability]]] = {}
    name = ""
    for line in (rights.__doc__ or "").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 3 or cells[0] in ("process", "---"):
            continue
        name = cells[0] or name
        # "only ..." is what is not always so.
        where = said.setdefault(name, (set(), set()))[cells[2].startswith("only ")]
        where |= {Capability[word] for word in re.findall(r"[A-Z_]{4,}", cells[1])}
    assert {process: said[process] for process in held} == held
    assert said["parent of helpers"][0] == FORKER - HELPER
    assert set(said) == {*held, "parent of helpers"}


def test_only_the_keeper_is_root(processes: Processes) -> None:
    for status in statuses(processes.keeper):
        assert set(field("Uid", status)) == {"0"}
    users = set()
    for pid in processes.all[1:]:
        for status in statuses(pid):
            users |= {*field("Uid", status)} | {*field("Gid", status)}
            assert field("Groups", status) == []
    (user,) = users
    assert user != "0"


def test_no_process_can_get_more_by_starting_a_program(processes: Processes) -> None:
    assert [pid for pid in processes.all if not no_new_privileges(pid)] == []


def test_only_the_server_and_its_keeper_hold_a_connection_to_the_kernel(processes: Processes) -> None:
    """Any other could be held up by a client: then the connection would not end, and all would wait for an answer."""
    held = {pid: [os.readlink(fd) for fd in (PROC / str(pid) / "fd").iterdir()] for pid in processes.all}
    connected = {
        pid for pid, files in held.items() if any(file.startswith(("/dev/fuse", "/dev/cuse")) for file in files)
    }
    assert connected == {processes.keeper, processes.server}


def test_what_talks_to_everybody_is_not_in_the_memory_of_those_with_rights(processes: Processes) -> None:
    assert "pyfuse3" in (PROC / str(processes.server) / "maps").read_text()
    for pid in (processes.keeper, processes.forker, *processes.helpers):
        assert "pyfuse3" not in (PROC / str(pid) / "maps").read_text()


def test_no_client_can_use_up_the_server_s_descriptors(processes: Processes) -> None:
    for pid in processes.all:
        match = re.search(
            r"^Max open files +([0-9]+) +([0-9]+) ", (PROC / str(pid) / "limits").read_text(), re.MULTILINE
        )
        assert match
        assert int(match[1]) == min(int(match[2]), max(DESCRIPTORS, int(match[1])))


def is_real_time(pid: int) -> bool:
    return os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR)


def test_real_time_priority_is_held_under_pressure_and_not_at_rest(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with serving(tmp_path, *machine.options) as server, all_at_work(server) as processes:
        if "real-time priority" in server.log:
            pytest.skip("real-time priority is not permitted here")

        def holds(held: bool) -> bool:
            return facts(server)["realtime"] == str(int(held)) and is_real_time(processes.server) == held

        wait_until(lambda: holds(False), "an ordinary process at rest")
        machine.tighten()
        wait_until(lambda: "status=1" in server.status(), "pressure")
        wait_until(lambda: holds(True), "real-time priority under pressure")
        # Those that touch clients never have it.
        assert not any(map(is_real_time, (processes.keeper, processes.forker, *processes.helpers)))
        machine.make_room()
        wait_until(lambda: holds(False), "an ordinary process again")
        assert "status=1" not in server.status()
