"""Suspend, by the kernel's own freezer test (pm_test): what programs that wait on the device do to it.

A program in poll, select or a blocked read keeps the machine awake, unless `memnotify_cuse.suspend` freezes it first.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.guest.experiment import READY_S, Log, Place, end
from tests.guest.scenarios import server

POWER: Final = Path("/sys/power")
DEVICE: Final = "/dev/mem_notify"
FREEZE_TIMEOUT_MS: Final = 4000
"""How long the kernel tries; 20 s unless it is told."""
KEEP_AWAKE: Final = ("poll", "select", "read", "shell")
HARMLESS: Final = ("epoll", "memnotify wait", "asyncio")
SHELL_LOOP: Final = 'while read -r record; do echo "0 told"; done < "$0"'
OF_EACH_KIND: Final = 5
SLEEPS: Final = 25
GROUPS: Final = ("root group", "group of its own", "version 1")


@pytest.fixture(params=["fuse", "cuse"], scope="module")
def node(request: pytest.FixtureRequest, place: Place) -> Iterator[str]:
    """Each kind of node, with its server."""
    with server(place.logs, "--node", request.param):
        yield request.param


@pytest.fixture(autouse=True, scope="module")
def _freezer_test(place: Place) -> Iterator[None]:
    """Suspend goes as far as freezing everything, and back."""
    if not (POWER / "pm_test").exists():
        pytest.skip("this kernel cannot test its freezer (CONFIG_PM_DEBUG)")
    (POWER / "pm_test").write_text("freezer")
    (POWER / "pm_freeze_timeout").write_text(str(FREEZE_TIMEOUT_MS))
    Path("/sys/module/suspend/parameters/pm_test_delay").write_text("0")
    yield
    (POWER / "pm_test").write_text("none")


def suspend() -> str | None:
    """Suspend and wake up again; what the kernel said against it, None if nothing."""
    subprocess.run(["dmesg", "-C"], check=True)
    try:
        (POWER / "state").write_text("mem")
    except OSError:
        return subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return None


def hook(word: str) -> None:
    subprocess.run([sys.executable, "-m", "memnotify_cuse.suspend", word], check=True)


@contextmanager
def program(place: Place, how: str) -> Iterator[tuple[subprocess.Popen[bytes], Log]]:
    """A program asleep in its wait on the device, and what it says."""
    command: dict[str, list[str]] = {
        "shell": ["sh", "-c", SHELL_LOOP, DEVICE],
        "memnotify wait": [sys.executable, "-m", "memnotify_cuse", "wait"],
        "asyncio": [sys.executable, "examples/asyncio_watch.py"],
    }
    log = Log(place.logs / f"await-{len(list(place.logs.iterdir()))}.log")
    # That of an earlier test may not be over.
    Path("/run/mem_notify/simulate").write_text("all 0")
    with log.path.open("wb") as output:
        process = subprocess.Popen(
            command.get(how, [str(place.programs / "await"), how, DEVICE]),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_asleep(process)
        yield process, log
    finally:
        end(process)


def wait_asleep(process: subprocess.Popen[bytes]) -> None:
    """Until the program sleeps in the system call by which it waits on the device, which it has open."""
    deadline = time.monotonic() + READY_S
    while True:
        assert process.poll() is None, "it ended"
        folder = Path(f"/proc/{process.pid}")
        with contextlib.suppress(OSError):
            opened = any(str(fd.readlink()) == DEVICE for fd in (folder / "fd").iterdir())
            where = (folder / "wchan").read_text()
            if opened and where in ("do_sys_poll", "do_select", "do_epoll_wait", "ep_poll", "request_wait_answer"):
                return
        assert time.monotonic() < deadline, "it does not wait on the device"
        time.sleep(0.05)


@contextmanager
def group(kind: str, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Have the program in a cgroup as programs are: the root, one of its own, or under version 1's freezer."""
    if kind == "root group":
        yield
        return
    folder = Path("/sys/fs/cgroup/program")
    tree = Path("/run/cgroup-v1-freezer")
    if kind == "version 1":
        tree.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "cgroup", "-o", "freezer", "cgroup", str(tree)], check=True)
        folder = tree / "program"
    folder.mkdir()
    (folder / "cgroup.procs").write_text(str(process.pid))
    try:
        yield
    finally:
        (folder.parent / "cgroup.procs").write_text(str(process.pid))
        folder.rmdir()
        if kind == "version 1":
            subprocess.run(["umount", str(tree)], check=True)


def simulate() -> None:
    subprocess.run([sys.executable, "-m", "memnotify_cuse", "simulate", "--for", "1"], check=True)


def wait_told(process: subprocess.Popen[bytes], log: Log) -> None:
    deadline = time.monotonic() + READY_S
    while not (log.lines("told") or "please free" in log.path.read_text() or "node=" in log.path.read_text()):
        assert not log.lines("error"), log.path.read_text()
        assert time.monotonic() < deadline, f"not told: {log.path.read_text()}"
        time.sleep(0.05)


@pytest.mark.parametrize("how", KEEP_AWAKE)
def test_a_program_that_asks_the_server_when_it_is_woken_keeps_the_machine_awake(
    place: Place, node: str, how: str
) -> None:
    """What the kernel does by itself. Should this fail one day, nothing has to be frozen any more."""
    with program(place, how) as (process, log):
        complaint = suspend()
        assert complaint is not None
        assert "1 tasks refusing to freeze" in complaint, complaint
        simulate()
        wait_told(process, log)


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("how", KEEP_AWAKE)
def test_frozen_before_it_lets_the_machine_sleep_and_is_told_afterwards(
    place: Place, node: str, how: str, kind: str
) -> None:
    with program(place, how) as (process, log), group(kind, process):
        before = Path(f"/proc/{process.pid}/cgroup").read_text()
        hook("freeze")
        try:
            complaint = suspend()
        finally:
            hook("thaw")
        assert complaint is None
        assert Path(f"/proc/{process.pid}/cgroup").read_text() == before
        simulate()
        wait_told(process, log)


@pytest.mark.parametrize("how", HARMLESS)
def test_a_program_in_epoll_lets_the_machine_sleep(place: Place, node: str, how: str) -> None:
    with program(place, how) as (process, log):
        assert suspend() is None
        simulate()
        wait_told(process, log)


def test_many_programs_of_all_kinds_again_and_again(place: Place, node: str) -> None:
    """No sleep fails, and no program gets an error in any."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(program(place, how)) for how in KEEP_AWAKE for _ in range(OF_EACH_KIND)]
        complaints = []
        for _ in range(SLEEPS):
            hook("freeze")
            try:
                complaints.append(suspend())
            finally:
                hook("thaw")
        assert complaints == [None] * SLEEPS
        assert [log.path.read_text() for process, log in running if process.poll() is not None] == []
        # One notification is for some of them only; this goes on until each has had its turn.
        Path("/run/mem_notify/simulate").write_text("all 600")
        for process, log in running:
            wait_told(process, log)
