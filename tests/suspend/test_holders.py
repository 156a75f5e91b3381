"""Which processes have the device open, with a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memnotify_cuse.kernel.statx import FileId
from memnotify_cuse.suspend.holders import find_holders, served_devices
from tests.support.server import Server

OPEN = "import sys, time\nfile = open(sys.argv[1])\nprint(flush=True)\ntime.sleep(1000)"


def opened(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", OPEN, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    return process


def holders() -> set[int]:
    return {process.pid for process in find_holders().holders}


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="looking at other processes' files takes root")
@pytest.mark.parametrize("path", ["device", "status", "zone"])
def test_a_program_that_has_a_file_of_the_server_open_is_found_until_it_closes_it(server: Server, path: str) -> None:
    places = {
        "device": server.device,
        "status": server.mount / "status",
        "zone": server.mount / "zones" / server.zones[0],
    }
    with opened(places[path]) as process:
        try:
            assert process.pid in holders()
        finally:
            process.kill()
    assert process.pid not in holders()


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="looking at other processes' files takes root")
def test_the_server_is_found_and_is_no_holder_itself(server: Server) -> None:
    found = find_holders()
    assert found.servers
    assert not {process.pid for process in found.servers} & {process.pid for process in found.holders}


def test_other_programs_are_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with opened(tmp_path / "file") as process:
        try:
            assert process.pid not in holders()
        finally:
            process.kill()


def test_mounts_and_character_devices_are_told_by_their_numbers(tmp_path: Path) -> None:
    proc, cuse = tmp_path / "proc", tmp_path / "cuse"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "mountinfo").write_bytes(
        b"36 35 0:51 / /run/mem_notify rw,nosuid - fuse.memnotify memnotify rw\n"
        b"37 35 0:52 / /mnt/fuse.memnotify\xff rw - fuse.sshfs host: rw\n"
        b"38 35 0:53 / /dev rw - devtmpfs devtmpfs rw\n"
    )
    for name in ("mem_notify", "dsp"):
        (cuse / name).mkdir(parents=True)
        (cuse / name / "dev").write_text("237:0\n" if name == "mem_notify" else "14:3\n")
    assert served_devices(proc, cuse) == {FileId(False, 0, 51), FileId(True, 237, 0)}
