"""What the scanner reads fails under a real server: it goes on, says so everywhere, and comes back."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from memnotify_cuse.kernel.tracefs import find_tracefs
from tests.support.mounted import FIXTURES, LIMIT_S, LONG_S, Machine, facts, opened, read_record, serving, wait_until
from tests.support.servedfile import ServedFile
from tests.support.server import Server, unmount

pytestmark = pytest.mark.mount

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file")
traced = pytest.mark.skipif(os.geteuid() != 0 or find_tracefs() is None, reason="tracefs needs root, and to be mounted")
ODD = FIXTURES / "odd"


def status(server: Server, *options: str) -> tuple[int, str]:
    """The exit code of `memnotify status`, and what it shows."""
    command = [sys.executable, "-m", "memnotify_cuse", "status", "--mount", str(server.mount), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def status_json(server: Server) -> tuple[int, dict[str, Any]]:
    code, shown = status(server, "--json")
    return code, json.loads(shown)


def is_told(server: Server, machine: Machine) -> bool:
    """Whether a shortage that begins now reaches a program."""
    with opened(server.device) as fd:
        machine.tighten()
        return read_record(fd).pressure == 1


class ServiceManager:
    """A socket like systemd's; `status` is what it was told last."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._status = ""

    @property
    def status(self) -> str:
        while True:
            try:
                said = self._socket.recv(65536).decode()
            except BlockingIOError:
                return self._status
            if said.startswith("STATUS="):
                self._status = said.removeprefix("STATUS=")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(open_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceManager]:
    path = open_directory / "notify"
    manager = ServiceManager(path)
    # As systemd's is.
    path.chmod(0o777)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    yield manager
    manager.close()


@contextmanager
def machine_served(directory: Path) -> Iterator[tuple[Machine, Server]]:
    """A machine whose files the server's user may look at, and a server of it."""
    machine = Machine(directory)
    machine.path.chmod(0o755)
    with Server(directory, *machine.options) as server:
        yield machine, server
        assert server.stop() == 0
        assert "Traceback" not in server.log


def test_a_zoneinfo_that_fails_is_said_everywhere_and_over_when_it_is_back(
    open_directory: Path, manager: ServiceManager
) -> None:
    """It comes back as another file."""
    with machine_served(open_directory) as (machine, server):
        assert status(server)[0] == 0
        wait_until(lambda: manager.status.startswith("ok; woken by "), "a good status")
        file, sound = machine.path / "zoneinfo", (machine.path / "zoneinfo").read_bytes()
        os.truncate(file, len(sound) // 2)
        wait_until(lambda: facts(server)["health"] == "failing", "the failure in the file server")
        code, shown = status_json(server)
        assert code == 1
        assert [each["failing"] for each in shown["failing"]] == ["zoneinfo"]
        assert str(file) in shown["failing"][0]["reason"]
        code, text = status(server)
        assert code == 1
        assert "FAILING: zoneinfo for " in text
        wait_until(lambda: manager.status.startswith("failing: zoneinfo ("), "the failure in STATUS=")
        back = file.with_name("back")
        back.write_bytes(sound)
        back.rename(file)
        wait_until(lambda: facts(server)["health"] == "ok", "all well again")
        wait_until(lambda: manager.status.startswith("ok; woken by "), "a good status")
        assert status(server)[0] == 0
        assert is_told(server, machine)
        assert server.log.count("cannot scan: ") == 1
        assert server.log.count("scanning again, after ") == 1


def test_a_file_that_vanishes_is_read_on_and_missed(open_directory: Path) -> None:
    with machine_served(open_directory) as (machine, server):
        file, sound = machine.path / "zoneinfo", (machine.path / "zoneinfo").read_bytes()
        moved = file.rename(machine.path / "moved")
        wait_until(lambda: facts(server)["health"] == "degraded", "the failure in the file server")
        assert f"reason={file}:\\040No\\040such\\040file" in (server.mount / "server").read_text()
        moved.unlink()
        file.write_bytes(sound)
        wait_until(lambda: facts(server)["health"] == "ok", "all well again")
        assert is_told(server, machine)


@pytest.mark.parametrize("name", ["vmstat", "meminfo"])
def test_without_another_file_programs_are_told_all_the_same(name: str, open_directory: Path) -> None:
    with machine_served(open_directory) as (machine, server):
        file, sound = machine.path / name, (machine.path / name).read_bytes()
        os.truncate(file, 0)
        wait_until(lambda: facts(server)["health"] == "degraded", "the failure in the file server")
        assert f"failing={name} " in (server.mount / "server").read_text()
        assert status(server)[0] == 1
        assert is_told(server, machine)
        file.write_bytes(sound)
        machine.make_room()
        wait_until(lambda: facts(server)["health"] == "ok", "all well again")
        assert server.log.count(f"WARNING: {name}: ") == 2


@as_root
@pytest.mark.parametrize("name", ["zoneinfo", "meminfo"])
def test_a_file_whose_server_is_restarted_is_opened_anew(name: str, open_directory: Path) -> None:
    """As lxcfs, which shows programs a /proc of their own."""
    machine = Machine(open_directory)
    machine.path.chmod(0o755)
    text = (machine.path / name).read_bytes()
    with ServedFile(machine.path / name, text) as file, Server(open_directory, *machine.options) as server:
        assert facts(server)["health"] == "ok"
        file.end()
        wait_until(lambda: facts(server)["health"] != "ok", "the end of the file's server")
        samples = int(facts(server)["samples"])
        file.begin_with(text)
        wait_until(lambda: facts(server)["health"] == "ok", "all well again")
        wait_until(lambda: int(facts(server)["samples"]) > samples, "samples")
        file.text = text.replace(b"SwapTotal", b"SwapTotel").replace(b"pages free", b"pages fear")
        wait_until(lambda: facts(server)["health"] != "ok", "the new file read")
        assert server.stop() == 0


def test_a_line_that_nobody_needs_is_no_failure(tmp_path: Path) -> None:
    """At the start, and when it appears later."""
    machine = Machine(tmp_path)
    (machine.path / "meminfo").write_bytes((ODD / "meminfo_foreign_table").read_bytes())
    (machine.path / "swaps").write_bytes((ODD / "swaps_byte_85").read_bytes())
    with serving(tmp_path, *machine.options) as server:
        for case in sorted(ODD.iterdir()):
            (machine.path / case.name.partition("_")[0]).write_bytes(case.read_bytes())
            samples = int(facts(server)["samples"])
            wait_until(lambda before=samples: int(facts(server)["samples"]) > before + 1, "samples")  # type: ignore[misc]
            assert facts(server)["health"] == "ok"


@traced
@pytest.mark.parametrize("switch", ["tracing_on", "events/enable"])
def test_a_trace_that_another_tool_switches_off_is_switched_on_again(
    switch: str, tmp_path: Path, manager: ServiceManager
) -> None:
    with Server(tmp_path, "--log-level", "info") as server:
        if facts(server)["wakeup"] != "tracefs":
            pytest.skip("memory was too short for a trace instance")
        tracefs = find_tracefs()
        assert tracefs is not None
        file = tracefs / "instances" / f"memnotify-{server.process.pid}" / switch
        file.write_text("0")
        wait_until(lambda: facts(server)["health"] == "degraded", "the failure in the file server")
        assert "failing=trace " in (server.mount / "server").read_text()
        assert status(server)[0] == 1
        wait_until(lambda: facts(server)["health"] == "ok", "all well again")
        assert facts(server)["wakeup"] == "tracefs"
        assert file.read_text().strip() in ("1", "X")
        assert (file.parents[switch.count("/")] / "set_event").read_text().count("vmscan:") == 4
        assert status(server)[0] == 0
        assert server.log.count("switched off from outside") == 2
        assert server.log.count("trace: works again") == 1
        assert server.stop() == 0


BROKEN_TRACE = """
import os, sys
from memnotify_cuse.cli.entry import main
from memnotify_cuse.kernel import tracefs
from memnotify_cuse.kernel.errors import KernelFileGoneError

read, flag, instances = tracefs.TracePipe.read, sys.argv.pop(1), []

def read_unless_broken(pipe):
    if pipe not in instances:
        instances.append(pipe)
    if os.path.exists(flag) and pipe is instances[0]:
        raise KernelFileGoneError(str(pipe.path / "trace_pipe"), "cannot be read: No such device")
    return read(pipe)

tracefs.TracePipe.read = read_unless_broken
sys.exit(main())
"""
"""A server whose first trace cannot be read while there is a certain file."""


@traced
def test_a_trace_that_cannot_be_read_any_more_is_replaced_by_a_new_one(open_directory: Path) -> None:
    """The keeper makes it: the server has no right to."""
    flag, log, mount = open_directory / "flag", open_directory / "log", open_directory / "mount"
    command = [sys.executable, "-c", BROKEN_TRACE, str(flag), "serve", "--device", "", "--mount", str(mount)]
    with log.open("w") as stderr, subprocess.Popen(command, stderr=stderr, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: "ready: " in log.read_text() or process.poll() is not None, "a server")
            wait_until(lambda: "samples=" in (mount / "server").read_text(), "an answer")
            if "wakeup=tracefs" not in (mount / "server").read_text():
                pytest.skip("memory was too short for a trace instance")
            tracefs = find_tracefs()
            assert tracefs is not None
            instance = tracefs / "instances" / f"memnotify-{process.pid}"
            first = instance.stat().st_ino
            flag.touch()
            wait_until(lambda: "health=degraded" in (mount / "server").read_text(), "the failure in the file server")
            wait_until(lambda: "wakeup=tracefs" in (mount / "server").read_text(), "another trace")
            wait_until(lambda: "health=ok" in (mount / "server").read_text(), "all well again")
            assert instance.stat().st_ino != first
            assert (instance / "set_event").read_text().count("vmscan:") == 4
            process.terminate()
            assert process.wait(LIMIT_S) == 0
            assert not instance.exists()
            assert log.read_text().count("No such device") == 2
        finally:
            process.kill()
            process.wait(LIMIT_S)
            unmount(mount)


def test_the_log_says_who_is_under_pressure_and_how_many_were_told(tmp_path: Path) -> None:
    """At the level that it has by default."""
    machine = Machine(tmp_path)
    with Server(tmp_path, *machine.options) as server:
        assert is_told(server, machine)
        wait_until(lambda: "told 1 program: 1 woken, 0 signalled, by 1 notification\n" in server.log, "the count")
        machine.make_room()
        wait_until(lambda: f"INFO: {machine.ZONE}: clear after " in server.log, "the end")
        raised = next(line for line in server.log.splitlines() if "under pressure" in line)
        assert raised.startswith(f"memnotify: INFO: {machine.ZONE}: under pressure (file_exhausted), level ")
        assert " MiB free, " in raised
        assert raised.endswith(" MiB to be freed")
        assert server.stop() == 0


@as_root
def test_status_without_a_meminfo_shows_what_the_server_says(server: Server) -> None:
    """/proc mounted with subset=pid has processes alone."""
    script = f"mount -t proc -o subset=pid proc /proc && exec {sys.executable} -m memnotify_cuse"
    command = ["unshare", "-m", "sh", "-c"]
    shown = subprocess.run(
        [*command, f"{script} status --mount {server.mount}"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert "Traceback" not in shown.stderr
    assert shown.returncode == 0
    assert "node1-Normal" in shown.stdout
    assert "memory: unknown: /proc/meminfo: No such file or directory" in shown.stdout
    told = subprocess.run([*command, f"{script} doctor"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (told.returncode, told.stderr) == (1, "")
    assert "the server cannot run here; see: zoneinfo, vmstat, meminfo" in told.stdout


def test_a_simulation_that_flaps_is_not_logged_change_by_change(server: Server) -> None:
    def flap() -> bool:
        for _ in range(100):
            server.simulate(seconds=0.002)
        return "changes before were not logged" in server.log

    wait_until(flap, "the sum of what was left out")
    server.simulate(seconds=LONG_S)
    zone = server.zones[0]
    wait_until(
        lambda: "under pressure" in [line for line in server.log.splitlines() if f"INFO: {zone}: " in line][-1],
        "what it came to",
    )
    lines = server.log.count("INFO")
    changes = sum(map(int, re.findall(r"\(([0-9]+) changes before were not logged", server.log)))
    assert lines < 100 + changes
