"""The text files of the mount."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import memnotify_cuse
from tests.support.mounted import (
    LONG_S,
    Machine,
    calm_proc,
    facts,
    open_files,
    opened,
    read_record,
    serving,
    wait_until,
    watchers,
)
from tests.support.server import Server

pytestmark = pytest.mark.mount

NAMES = ["status", "server", "zoneinfo"]
STATUS_KEYS = (
    *("node", "zone", "status", "free_pages", "high_pages", "reserve_pages"),
    *("clear_pages", "raised", "reason", "time_ns", "level"),
)


def cat(path: Path) -> str:
    return subprocess.run(["cat", path], capture_output=True, check=True, text=True).stdout


def in_pieces(size: int) -> Callable[[Path], str]:
    def read(path: Path) -> str:
        text = b""
        with opened(path) as fd:
            while piece := os.read(fd, size):
                assert len(piece) <= size
                text += piece
        return text.decode()

    return read


def status_of(server: Server) -> dict[str, dict[str, str]]:
    """The words of `status`, by zone."""
    lines = [dict(word.split("=") for word in line.split()) for line in server.status().splitlines()]
    return {f"node{line['node']}-{line['zone']}": line for line in lines}


def test_the_mount_has_these_files(server: Server) -> None:
    assert sorted(os.listdir(server.mount)) == [
        *("cgroups", "levels", "mem_notify", "server", "simulate"),
        *("state", "status", "zoneinfo", "zones"),
    ]
    modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in server.mount.iterdir()}
    assert modes == {
        **dict.fromkeys(["mem_notify", "server", "state", "status", "zoneinfo"], "0o444"),
        "simulate": "0o200",
        "cgroups": "0o400",
        **dict.fromkeys(["levels", "zones"], "0o555"),
    }
    assert server.mount.stat().st_mode & 0o7777 == 0o555


@pytest.mark.parametrize("name", NAMES)
def test_a_text_reads_the_same_in_whatever_pieces(name: str, server: Server) -> None:
    def steady(text: str) -> str:
        assert text.endswith("\n")
        return re.sub(r"(uptime_s|samples)=[0-9.]+", "", text)

    whole = steady((server.mount / name).read_text())
    for read in (in_pieces(1), in_pieces(7), in_pieces(1 << 17), cat):
        assert steady(read(server.mount / name)) == whole


def test_a_text_is_that_of_the_moment_of_its_opening(server: Server) -> None:
    with (server.mount / "status").open() as file:
        server.simulate(seconds=LONG_S)
        assert "status=1" not in file.read()
    assert "status=1" in server.status()


def test_a_text_can_be_sought_in(server: Server) -> None:
    with opened(server.mount / "zoneinfo") as fd:
        text = os.read(fd, 1 << 17)
        assert os.pread(fd, 4, 0) == b"Node"
        assert os.pread(fd, 10, len(text)) == b""
        assert os.pread(fd, 10, 1 << 40) == b""


def test_status_has_a_line_for_each_populated_zone(server: Server) -> None:
    for line in server.status().splitlines():
        assert tuple(word.split("=")[0] for word in line.split()) == STATUS_KEYS
    states = status_of(server)
    assert {zone: state["status"] for zone, state in states.items()} == {
        "node0-DMA": "-1",
        "node0-DMA32": "0",
        "node0-Normal": "0",
        "node1-Normal": "0",
    }
    assert states["node0-DMA"]["clear_pages"] == "-"
    assert states["node0-DMA32"]["clear_pages"] == str(2 * (8263 + 1982))
    assert states["node1-Normal"]["free_pages"] == "762548"


def test_status_follows_a_simulation(server: Server) -> None:
    zone, other, *_ = server.zones
    server.simulate(zone, LONG_S)
    states = status_of(server)
    assert (states[zone]["status"], states[zone]["reason"], states[zone]["raised"]) == ("1", "simulated", "1")
    assert (states[other]["status"], states[other]["raised"]) == ("0", "0")
    assert states["node0-DMA"]["status"] == "-1"
    server.simulate(zone, 0)
    assert status_of(server)[zone]["status"] == "0"
    server.simulate(seconds=LONG_S)
    states = status_of(server)
    assert {each: state["status"] for each, state in states.items() if each != "node0-DMA"} == dict.fromkeys(
        server.zones, "1"
    )
    assert states["node0-DMA"]["status"] == "-1"


def test_a_simulation_ends_by_itself(server: Server) -> None:
    server.simulate(seconds=0.1)
    wait_until(lambda: "status=1" not in server.status(), "the simulation over")
    assert set(server.zones) == {"node0-DMA32", "node0-Normal", "node1-Normal"}


def test_status_follows_the_machine(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with serving(tmp_path, *machine.options) as server:
        machine.tighten()
        wait_until(lambda: status_of(server)[machine.ZONE]["status"] == "1", "pressure")
        assert status_of(server)[machine.ZONE]["reason"] == "file_exhausted"
        machine.make_room()
        wait_until(lambda: status_of(server)[machine.ZONE]["status"] == "0", "no pressure")


def test_zoneinfo_is_the_kernel_s_with_a_status_line_for_each_zone(server: Server) -> None:
    """The unpopulated zones have none: they have no status."""
    server.simulate("node1-Normal", LONG_S)
    shown = (server.mount / "zoneinfo").read_text()
    added = [line for line in shown.splitlines() if "mem_notify_status" in line]
    assert added == [f"  mem_notify_status: {status}" for status in (-1, 0, 0, 1)]
    without = "".join(line for line in shown.splitlines(keepends=True) if "mem_notify_status" not in line)
    assert without == (server.mount.parent / "proc" / "zoneinfo").read_text()
    for section in re.split(r"^(?=Node )", shown, flags=re.MULTILINE)[1:]:
        has_line = "mem_notify_status" in section
        assert has_line == ("present  0\n" not in section)
        if has_line:
            assert re.search(r"protection: \(.*\)\n  mem_notify_status: ", section)


def test_server_says_who_serves_and_counts(server: Server) -> None:
    said = facts(server)
    assert said["pid"] == str(server.process.pid)
    assert said["version"] == memnotify_cuse.__version__
    assert said["node"] == "none"
    assert (said["open_files"], said["watchers"], said["notifications"]) == ("0", "0", "0")
    with opened(server.device) as fd:
        assert (open_files(server), watchers(server)) == (1, 0)
        server.simulate(seconds=LONG_S)
        read_record(fd)
        assert int(facts(server)["notifications"]) >= 1
    assert float(facts(server)["uptime_s"]) >= float(said["uptime_s"])


def test_the_file_system_can_be_asked_about(server: Server) -> None:
    assert os.statvfs(server.mount).f_namemax == 255
    assert "fuse.memnotify" in Path("/proc/self/mounts").read_text()


def test_a_zoneinfo_that_went_away_is_shown_as_it_was_read_last(tmp_path: Path) -> None:
    """The server opens its files once, before it gives up its rights, and the text is what the scanner has read."""
    proc = calm_proc(tmp_path)
    with serving(tmp_path, "--proc", str(proc.path)) as server:
        before = (server.mount / "zoneinfo").read_text()
        assert "mem_notify_status: 0" in before
        (proc.path / "zoneinfo").rename(proc.path / "gone")
        assert (server.mount / "zoneinfo").read_text() == before
        server.simulate(seconds=LONG_S)
        with opened(server.device) as fd:
            assert read_record(fd).pressure == 1
        assert "mem_notify_status: 1" in (server.mount / "zoneinfo").read_text()


def test_a_malformed_kernel_file_is_logged_once_and_tried_again(tmp_path: Path) -> None:
    proc = calm_proc(tmp_path)
    file = proc.path / "zoneinfo"
    with Server(tmp_path, "--proc", str(proc.path)) as server:
        sound = file.read_bytes()
        with file.open("r+b") as writing:
            writing.write(sound.replace(b"pages free", b"pages ????"))
        wait_until(lambda: "cannot scan" in server.log, "a complaint")
        samples = int(facts(server)["samples"])
        assert server.zones == ["node0-DMA32", "node0-Normal", "node1-Normal"]
        with file.open("r+b") as writing:
            writing.write(sound)
        wait_until(lambda: int(facts(server)["samples"]) > samples, "scanning again")
        assert server.stop() == 0
        assert server.log.count("cannot scan") == 1
