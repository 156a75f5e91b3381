"""Programs are told of the cgroups that they are in, and of no other; only root sees which there are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.cgroups import MIB, Cgroup
from tests.support.listeners import filled, listed, listening, wait_for_listeners
from tests.support.mounted import LIMIT_S, NOBODY, open_files, serving, wait_until
from tests.support.programs import Programs
from tests.support.server import Lines, Server

pytestmark = pytest.mark.mount

LIMIT = 64 * MIB
SHORT_MIB = 60


def test_a_program_in_another_cgroup_is_not_told(
    server: Server, cgroup: Cgroup, other: Cgroup, programs: Programs
) -> None:
    cgroup.limit(LIMIT)
    other.limit(LIMIT)
    with listening(server, cgroup) as inside, listening(server, other) as outside:
        wait_for_listeners(server, other)
        with filled(programs, cgroup, SHORT_MIB):
            inside.next_of(cgroup)
            server.simulate(seconds=LIMIT_S)
            said = outside.up_to_simulated()
    assert not [record for record in said if record.zone.startswith("cgroup:")]


def test_a_program_outside_is_told_of_no_cgroup(server: Server, cgroup: Cgroup, programs: Programs) -> None:
    cgroup.limit(LIMIT)
    with (
        listening(server, cgroup) as inside,
        subprocess.Popen(["cat", server.device], stdout=subprocess.PIPE) as outside,
    ):
        try:
            wait_until(lambda: open_files(server) == 2, "both listen")
            with filled(programs, cgroup, SHORT_MIB):
                inside.next_of(cgroup)
                server.simulate(seconds=LIMIT_S)
                lines = Lines(outside)
                while "reason=simulated" not in (line := lines.next()):
                    assert cgroup.zone not in line
        finally:
            outside.kill()


def test_a_program_of_a_zone_s_device_is_told_of_no_cgroup(server: Server, cgroup: Cgroup, programs: Programs) -> None:
    cgroup.limit(LIMIT)
    device = server.mount / "zones" / server.zones[-1]
    with (
        listening(server, cgroup) as inside,
        cgroup.running("cat", device) as of_zone,
    ):
        wait_until(lambda: open_files(server) == 2, "both listen")
        with filled(programs, cgroup, SHORT_MIB):
            inside.next_of(cgroup)
            server.simulate(seconds=LIMIT_S)
            lines = Lines(of_zone)
            while "reason=simulated" not in (line := lines.next()):
                assert cgroup.zone not in line


@pytest.mark.usefixtures("fuse_for_all")
def test_an_ordinary_user_sees_no_cgroup(open_directory: Path, cgroup: Cgroup, programs: Programs) -> None:
    cgroup.limit(LIMIT)
    name = cgroup.path.rpartition("/")[2]
    with (
        serving(open_directory) as server,
        listening(server, cgroup) as listener,
        filled(programs, cgroup, SHORT_MIB),
    ):
        listener.next_of(cgroup)
        assert name in (server.mount / "cgroups").read_text()
        assert as_nobody("cat", server.mount / "cgroups") == (1, "")
        for file in ("status", "server", "zoneinfo"):
            code, text = as_nobody("cat", server.mount / file)
            assert code == 0
            assert text
            assert name not in text


@pytest.mark.usefixtures("fuse_for_all")
def test_an_ordinary_user_is_told_of_its_own_cgroup(open_directory: Path, cgroup: Cgroup, programs: Programs) -> None:
    cgroup.limit(LIMIT)
    with serving(open_directory) as server:
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "cat", str(server.device)]
        with cgroup.running(*command) as cat:
            wait_for_listeners(server, cgroup)
            with filled(programs, cgroup, SHORT_MIB):
                assert f"zone={cgroup.zone} " in Lines(cat).next()


def as_nobody(*command: str | Path) -> tuple[int, str]:
    """The exit code and the output of a command of an ordinary user."""
    done = subprocess.run(
        command,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
        cwd=os.sep,
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout


def test_the_list_of_cgroups_is_root_s(server: Server, cgroup: Cgroup) -> None:
    cgroup.limit(LIMIT)
    with listening(server, cgroup):
        wait_for_listeners(server, cgroup)
        words = listed(server)[cgroup.zone]
    assert int(words.pop("usage_kb")) < LIMIT // 1024
    assert words == {
        "cgroup": cgroup.zone,
        "status": "0",
        "limit_kb": str(LIMIT // 1024),
        "listeners": "1",
        "raised": "0",
        "level": "-",
    }
    assert (server.mount / "cgroups").stat().st_mode & 0o777 == 0o400
