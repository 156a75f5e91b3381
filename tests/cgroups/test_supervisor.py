"""Programs that watch over the limit of a cgroup from outside: `memnotify wait --cgroup`, and the client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memnotify_cuse.cgroupopen import CgroupError, join
from memnotify_cuse.client import DeviceNotFoundError, MemNotify
from memnotify_cuse.record import Record
from tests.support.cgroups import MIB, Cgroup
from tests.support.listeners import filled, listed, wait_for_listeners
from tests.support.mounted import LIMIT_S, NOBODY, wait_until
from tests.support.programs import Programs
from tests.support.server import Server

pytestmark = pytest.mark.mount

LIMIT = 64 * MIB
SHORT_MIB = 56


def wait_command(server: Server, cgroup: str) -> list[str]:
    device = str(server.device)
    return [sys.executable, "-m", "memnotify_cuse", "wait", "--device", device, "--cgroup", cgroup, "--timeout", "60"]


def processes_in(cgroup: Cgroup) -> str:
    return (cgroup.directory / "cgroup.procs").read_text()


def folders_in(cgroup: Cgroup) -> list[str]:
    return sorted(each.name for each in cgroup.directory.iterdir() if each.is_dir())


@pytest.mark.parametrize("by", ["path", "folder"])
def test_wait_is_told_of_another_cgroup_and_is_not_in_it(
    by: str, server: Server, cgroup: Cgroup, programs: Programs
) -> None:
    cgroup.limit(LIMIT)
    name = cgroup.path if by == "path" else str(cgroup.directory)
    with subprocess.Popen(wait_command(server, name), stdout=subprocess.PIPE) as waiting:
        wait_for_listeners(server, cgroup)
        wait_until(lambda: processes_in(cgroup) == "", "no process in the cgroup")
        with filled(programs, cgroup, SHORT_MIB):
            output, _ = waiting.communicate(timeout=LIMIT_S)
    assert waiting.returncode == 0
    assert Record.parse(output).zone == cgroup.zone


def test_a_cgroup_with_others_below_it_can_be_watched_and_is_left_as_it_was(
    server: Server, cgroup: Cgroup, programs: Programs
) -> None:
    """With cgroup v2 no process may join it."""
    cgroup.limit(LIMIT)
    inner = cgroup.child("inner")
    before = folders_in(cgroup)
    with subprocess.Popen(wait_command(server, cgroup.path), stdout=subprocess.PIPE) as waiting:
        wait_for_listeners(server, cgroup)
        wait_until(lambda: folders_in(cgroup) == before, "only the folders that were there before")
        with filled(programs, inner, SHORT_MIB):
            output, _ = waiting.communicate(timeout=LIMIT_S)
    assert Record.parse(output).zone == cgroup.zone


def test_a_cgroup_whose_name_is_not_ascii_can_be_watched(server: Server, cgroup: Cgroup) -> None:
    inner = cgroup.child(str(os.fsencode("grün"), "latin-1"))
    inner.limit(LIMIT)
    with MemNotify(server.device, cgroup=f"{cgroup.path}/grün"):
        wait_until(lambda: f"{cgroup.zone}/gr%C3%BCn" in listed(server), "the cgroup listed")


def test_what_is_wrong_is_said(server: Server, cgroup: Cgroup, tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match=r"there is no memory cgroup /nowhere/at/all"):
        MemNotify(server.device, cgroup="/nowhere/at/all")
    with pytest.raises(DeviceNotFoundError):
        MemNotify(tmp_path / "nothing", cgroup=cgroup.path)
    result = subprocess.run(wait_command(server, "/nowhere"), capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (2, "memnotify: there is no memory cgroup /nowhere\n")
    state = [*wait_command(server, cgroup.path), "--state"]
    result = subprocess.run(state, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (2, "memnotify: --state tells of zones alone: not with --cgroup\n")


def test_it_takes_the_right_to_move_processes_into_the_cgroup(server: Server, cgroup: Cgroup) -> None:
    cgroup.limit(LIMIT)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # What the user may not look at is no matter here.
            os.setresuid(NOBODY, NOBODY, NOBODY)
            join(cgroup.directory)
        except PermissionError:
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_status_shows_the_cgroups_that_programs_listen_in(server: Server, cgroup: Cgroup) -> None:
    cgroup.limit(LIMIT)
    with MemNotify(server.device, cgroup=cgroup.path):
        wait_for_listeners(server, cgroup)
        command = [sys.executable, "-m", "memnotify_cuse", "status", "--mount", str(server.mount)]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    row = next(line.split() for line in shown.splitlines() if line.startswith(cgroup.path))
    assert row[1:4] == ["no", "pressure", "64.0"]
