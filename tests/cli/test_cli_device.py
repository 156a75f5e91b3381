"""``wait``, ``simulate``, ``status`` and ``doctor`` on a real, mounted server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from memnotify_cuse.cli import checks_serving
from memnotify_cuse.cli.host import Host
from memnotify_cuse.cli.main import main
from memnotify_cuse.record import Record
from tests.support.mounted import Blocking, calm_proc, facts, state_of, wait_for_watchers, wait_until
from tests.support.server import Lines, Server

pytestmark = pytest.mark.mount

LIMIT_S = 60.0
NOBODY = 65534
MEMNOTIFY = [sys.executable, "-m", "memnotify_cuse"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_wait_prints_the_record(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.simulate(seconds=LIMIT_S)
    assert main(["wait", "--device", str(server.device), "--timeout", str(LIMIT_S)]) == 0
    assert Record.parse(capsys.readouterr().out).reason == "simulated"


def test_wait_times_out(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wait", "--device", str(server.device), "--timeout", "0.05"]) == 1
    assert capsys.readouterr() == ("", "")


def test_wait_for_the_next_change_prints_the_end_of_pressure(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.simulate(seconds=LIMIT_S)
    argv = ["wait", "--state", "--device", str(server.mount / "state"), "--timeout", str(LIMIT_S)]
    waiting = Blocking(lambda: main(argv))
    wait_for_watchers(server, 1)
    server.simulate(seconds=0)
    assert waiting.result() == 0
    records = list(map(Record.parse, capsys.readouterr().out.splitlines()))
    assert {each.zone for each in records} <= {zone.split("-")[1] for zone in server.zones}
    assert {(each.pressure, each.reason) for each in records} == {(0, "ended")}


def test_wait_on_a_killed_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(tmp_path) as server:
        serving_pid = int(facts(server)["server_pid"])
        server.process.kill()
        server.process.wait(LIMIT_S)
        # What answers ends with its keeper, a moment later.
        wait_until(lambda: state_of(serving_pid) in ("", "Z", "X"), "the end of the server")
        assert main(["wait", "--device", str(server.device)]) == 2
        assert main(["status", "--mount", str(server.mount)]) == 2
        assert main(["simulate", "--mount", str(server.mount)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("is gone: start it again" in line for line in lines)


@pytest.mark.parametrize(
    ("command", "option"),
    [("cat", None), ("wait", "--device")],
)
def test_ctrl_c_ends_a_blocked_reader(command: str, option: str | None, server: Server) -> None:
    argv = ["cat", str(server.device)] if option is None else [*MEMNOTIFY, command, option, str(server.device)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # It reads once it is one of the server's watchers.
        while not _open_files(server):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT_S)
    assert (out, err) == (b"", b"")
    assert process.returncode in (130, -signal.SIGINT)


def _open_files(server: Server) -> int:
    words = (server.mount / "server").read_text().split()
    return int(next(word for word in words if word.startswith("open_files=")).partition("=")[2])


def test_simulate_reaches_a_program(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*MEMNOTIFY, "wait", "--device", str(server.device), "--timeout", str(LIMIT_S)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        lines = Lines(process, limit_s=LIMIT_S)
        assert main(["simulate", "--mount", str(server.mount), "--for", str(LIMIT_S)]) == 0
        assert Record.parse(lines.next()).reason == "simulated"
    assert process.returncode == 0
    assert capsys.readouterr().out == "simulating pressure on all zones for 60 s\n"


def test_simulate_one_zone(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    zone = server.zones[0]
    argv = ["simulate", "--mount", str(server.mount), "--zone", zone, "--for", str(LIMIT_S)]
    assert main(argv) == 0
    assert main(["wait", "--device", str(server.mount / "zones" / zone), "--timeout", str(LIMIT_S)]) == 0
    record = Record.parse(capsys.readouterr().out.splitlines()[-1])
    assert f"node{record.node}-{record.zone}" == zone


def test_simulate_a_level(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["simulate", "--mount", str(server.mount), "--level", "critical", "--for", str(LIMIT_S)]
    assert main(argv) == 0
    assert main(["wait", "--device", str(server.mount / "levels" / "critical"), "--timeout", str(LIMIT_S)]) == 0
    assert Record.parse(capsys.readouterr().out.splitlines()[-1]).level == "critical"


def test_simulate_a_zone_that_does_not_exist_lists_those_that_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A server of our own: it logs the refusal, which the fixture would take for a complaint.
    with Server(tmp_path) as server:
        assert main(["simulate", "--mount", str(server.mount), "--zone", "node9-Nowhere"]) == 2
        err = capsys.readouterr().err
        assert err.startswith("memnotify: there is no zone node9-Nowhere to simulate; there are: ")
        assert all(zone in err for zone in server.zones)
        assert err.count("\n") == 1


@as_root
def test_simulate_without_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        # pytest's tmp_path lies in a folder that is closed to others; this is to meet the file itself.
        Path(directory).chmod(0o755)
        with Server(Path(directory)) as server:
            argv = ["simulate", "--mount", str(server.mount)]
            assert main(argv) == 0
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
            try:
                code = main(argv)
            finally:
                os.seteuid(0)
                os.setegid(0)
    assert code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"memnotify: no permission to simulate on {server.mount}: ")
    assert err.count("\n") == 1


def test_status_shows_every_zone(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--mount", str(server.mount)]) == 0
    out = capsys.readouterr().out
    assert f"pid {server.process.pid}" in out
    assert all(zone in out for zone in server.zones)
    assert "memory: " in out


def test_status_as_json_follows_a_simulation(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    zone = server.zones[0]
    server.simulate(zone, LIMIT_S)
    assert main(["status", "--mount", str(server.mount), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    states = {f"node{each['node']}-{each['zone']}": each for each in shown["zones"]}
    assert states[zone]["status"] == 1
    assert states[zone]["reason"] == "simulated"
    assert all(states[other]["status"] == 0 for other in server.zones[1:])
    assert shown["server"]["pid"] == server.process.pid
    assert shown["memory"]["total_bytes"] > 0


@as_root
def test_status_names_the_process_that_takes_signals_and_the_one_that_answers(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--mount", str(server.mount), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["server"]
    assert said["pid"] == server.process.pid
    parent = Path(f"/proc/{said['server_pid']}/status").read_text()
    assert f"\nPPid:\t{said['pid']}\n" in parent
    assert said["realtime"] == 0
    assert main(["status", "--mount", str(server.mount)]) == 0
    assert f", server pid {said['server_pid']}, restarts 0, " in capsys.readouterr().out


def test_doctor_sees_the_device_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "mem_notify"
    monkeypatch.setattr(checks_serving, "DEFAULT_DEVICE", str(node))
    assert "is free" in checks_serving.device(Host()).found
    with Server(tmp_path, node=node) as server:
        finding = checks_serving.device(Host())
        assert finding.level == "ok"
        assert "is served" in finding.found
        server_pid = int(facts(server)["server_pid"])
        server.process.kill()
        server.process.wait(LIMIT_S)
        # The kernel kills it after its keeper.
        wait_until(lambda: state_of(server_pid) in ("", "Z", "X"), "the end of the server")
        assert "left from a server that was killed" in checks_serving.device(Host()).found


def test_a_simulation_that_the_server_would_refuse_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(tmp_path, "--proc", str(calm_proc(tmp_path).path)) as server:
        mount = ["--mount", str(server.mount)]
        assert main(["simulate", *mount, "--zone", "node0-DMA"]) == 2
    err = capsys.readouterr().err
    assert "there is no zone node0-DMA to simulate; there are: " in err
    assert "node0-DMA," not in err
    assert main(["simulate", *mount, "--for", "1e9"]) == 2
    assert "more than 86400 s" in capsys.readouterr().err


def test_a_device_that_tells_of_the_end_is_not_taken_for_one_that_tells_of_pressure(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wait", "--device", str(server.mount / "state"), "--timeout", "5"]) == 2
    assert "use --state" in capsys.readouterr().err
