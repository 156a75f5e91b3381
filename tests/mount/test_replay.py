"""A recording in place of the kernel: real programs are told, through a real mount, what was recorded."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from memnotify_cuse.kernel.zoneinfo import read_zoneinfo
from memnotify_cuse.record import Record
from memnotify_cuse.scanner.recordingfile import Recording, RecordingWriter
from tests.support.mounted import LIMIT_S, complaints, facts, notifications, opened, revents, wait_until
from tests.support.programs import compiler_problem
from tests.support.replay import TRACES, capture, play
from tests.support.server import Server
from tests.support.takeover import replace as replace_server
from tests.support.takeover import zone_line

pytestmark = pytest.mark.mount

EXAMPLES = Path(__file__).parents[2] / "examples"
CALM_NS = 5_000_000_000
"""How long before its episode a recording is at rest: enough for programs to start, however busy the machine."""

RAISED = "node=0 zone=Normal status=1 "


@pytest.fixture
def episode(tmp_path: Path) -> Path:
    """The capture of that name, after a time at rest."""
    recording = capture("episode")
    path = tmp_path / "episode.jsonl.gz"
    first, *others = recording.samples()
    with RecordingWriter(path, recording.header) as writer:
        for each in (replace(first, time_ns=first.time_ns - CALM_NS), *others):
            writer.write(each)
    return path


def told_once(server: Server, *argv: str | Path) -> subprocess.Popen[str]:
    """One of the examples, which ends after its first notification and prints the record."""
    return subprocess.Popen([*argv, server.device, "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_programs_are_told_what_was_recorded(tmp_path: Path, episode: Path) -> None:
    recorded = play(Recording(episode))
    shell: Sequence[str | Path] = ["sh", EXAMPLES / "watch.sh"]
    programs = [shell]
    if not compiler_problem():
        program = tmp_path / "epoll"
        subprocess.run(["cc", "-std=c11", "-o", program, EXAMPLES / "epoll.c"], check=True)
        programs.append([program])
    started_ns = time.monotonic_ns()
    with Server(tmp_path, "--replay", str(episode), "--no-herd-control") as server:
        assert facts(server)["wakeup"] == "replay"
        running = [told_once(server, *argv) for argv in programs]
        try:
            for process in running:
                out, err = process.communicate(timeout=LIMIT_S)
                assert process.returncode == 0, err
                record = Record.parse(out.splitlines()[0] + "\n")
                assert (record.node, record.zone, record.reason) == (0, "Normal", "anon_scan")
                assert started_ns + CALM_NS < record.time_ns < time.monotonic_ns()
        finally:
            for process in running:
                process.kill()
                process.wait(LIMIT_S)
        with opened(server.device) as fd:
            wait_until(lambda: "the recording has ended" in server.log, "the end of the recording")
            assert notifications(server) == len(recorded.notices)
            assert int(facts(server)["samples"]) == len(list(Recording(episode).samples()))
            assert revents(fd) == 0
        assert RAISED not in server.status()
        assert "zone=Normal status=0 " in server.status()
        said = complaints(server)
        assert len(said) == 2
        assert f"replaying {episode} (" in said[0]
        assert "the recording has ended, after " in said[1]
        assert server.stop() == 0


def test_a_server_that_takes_over_plays_on(tmp_path: Path, episode: Path) -> None:
    """It is killed during the recorded pressure: that goes on, and ends, as it was recorded."""
    recorded = play(Recording(episode))
    with Server(tmp_path, "--replay", str(episode), "--no-herd-control") as server, opened(server.device) as fd:
        assert revents(fd, LIMIT_S)
        assert RAISED in server.status()
        told, samples = notifications(server), int(facts(server)["samples"])
        replace_server(server)
        assert facts(server)["wakeup"] == "replay"
        assert notifications(server) >= told
        assert int(facts(server)["samples"]) >= samples
        wait_until(lambda: "the recording has ended" in server.log, "the end of the recording")
        assert server.log.count("replaying ") == 1
        assert int(facts(server)["samples"]) == len(list(Recording(episode).samples()))
        assert zone_line(server, "node0-Normal").items() >= {"status": "0", "raised": str(len(recorded.ends))}.items()
        replace_server(server)
        assert zone_line(server, "node0-Normal").items() >= {"status": "0", "raised": str(len(recorded.ends))}.items()
        assert server.stop() == 0


def test_zoneinfo_is_the_recorded_machines(tmp_path: Path) -> None:
    with Server(tmp_path, "--replay", str(TRACES / "fill.jsonl.gz")) as server:
        zoneinfo = read_zoneinfo(server.mount)
        first = next(capture("fill").samples())
        assert [zone.id for zone in zoneinfo.zones] == [zone.id for zone in first.zoneinfo.zones]
        assert zoneinfo.zones[0].protection_pages == first.zoneinfo.zones[0].protection_pages
        assert (server.mount / "zoneinfo").read_text().count("mem_notify_status: ") == len(zoneinfo.zones)


def test_it_can_be_stopped_before_its_end(tmp_path: Path) -> None:
    with Server(tmp_path, "--replay", str(TRACES / "stream-cold.jsonl.gz")) as server:
        assert server.stop() == 0
        assert "the recording has ended" not in server.log


def refused(tmp_path: Path, *options: str) -> str:
    """What a server says that does not start. In a process of its own, which becomes its keeper, with no rights."""
    argv = ["serve", *options, "--device", "", "--mount", str(tmp_path / "mount")]
    done = subprocess.run(
        [sys.executable, "-m", "memnotify_cuse", *argv], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 2
    assert not (tmp_path / "mount").exists()
    return done.stderr


def test_two_sources_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, "--replay", str(TRACES / "fill.jsonl.gz"), "--proc", "/proc")
    assert said.startswith("memnotify: --replay and --proc both say ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "reason"), [("absent", ": No such file or directory"), ("text", ": not a recording of memnotify")]
)
def test_what_cannot_be_replayed_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("#!/bin/sh\n")
    # The rest is what this machine does not permit.
    said = refused(tmp_path, "--replay", str(tmp_path / name)).splitlines()
    assert [line for line in said if "not permitted" not in line] == [f"memnotify: {tmp_path / name}{reason}"]
