"""What one user asks of the control file system, however often, does not fail or starve another one. Needs root."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounted import LIMIT_S, NOBODY, calm_proc, complaints, facts, opened, serving, wait_until
from tests.support.server import Lines, Server

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs of two other users"),
]

HONEST = 1000

AS_USER = """
import ctypes, errno, os, sys, threading
os.setgroups([])
os.setgid({uid})
os.setuid({uid})
mount = {mount!r}
"""

HOLD_OPEN = """
fds = []
try:
    while len(fds) < {count}:
        fds.append(os.open(mount + "/{name}", os.O_RDONLY))
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
print(len(fds), flush=True)
sys.stdin.read()
"""

# AT_STATX_FORCE_SYNC has the kernel ask for attributes that it knows. STATX_BASIC_STATS is 0x7ff.
FLOOD = """
threading.stack_size(65536)
libc = ctypes.CDLL(None, use_errno=True)
def ask_attributes():
    buffer = ctypes.create_string_buffer(256)
    while True:
        libc.statx(-100, (mount + "/mem_notify").encode(), 0x2000, 0x7ff, buffer)
def read_text():
    while True:
        try:
            fd = os.open(mount + "/status", os.O_RDONLY)
        except OSError as error:
            continue
        try:
            os.read(fd, 4096)
        except OSError:
            pass
        os.close(fd)
started = 0
try:
    for _ in range({threads}):
        threading.Thread(target={what}, daemon=True).start()
        started += 1
except RuntimeError:
    pass
print(started, flush=True)
sys.stdin.read()
os._exit(0)
"""

HONEST_USES = """
import time
slowest = 0
for _ in range({times}):
    for use in (
        lambda: os.close(os.open(mount + "/mem_notify", os.O_RDONLY)),
        lambda: os.listdir(mount + "/zones"),
        lambda: open(mount + "/status").read(),
        lambda: os.stat(mount + "/none") if False else os.stat(mount + "/zoneinfo"),
    ):
        began = time.monotonic()
        use()
        slowest = max(slowest, time.monotonic() - began)
print(slowest, flush=True)
"""


@contextmanager
def program_of(uid: int, server: Server, code: str) -> Iterator[Lines]:
    """A Python program of that user, whose lines are given; it ends with the block."""
    code = AS_USER.format(uid=uid, mount=str(server.mount)) + code
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Lines(process)
    finally:
        process.kill()
        process.wait(LIMIT_S)
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        process.stdout.close()


def run_as(uid: int, server: Server, code: str) -> str:
    """What such a program printed; it must succeed."""
    code = AS_USER.format(uid=uid, mount=str(server.mount)) + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def resident_kb(server: Server) -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+([0-9]+) kB", text, re.MULTILINE)
    assert found
    return int(found[1])


@pytest.fixture
def server(open_directory: Path) -> Iterator[Server]:
    with serving(open_directory, "--proc", str(calm_proc(open_directory).path)) as running:
        yield running


@pytest.mark.parametrize("name", ["zoneinfo", "status", "server"])
def test_open_texts_cost_next_to_nothing_and_end_at_a_user_s_bound(name: str, server: Server) -> None:
    """A text for each would be 250 MB for 4,096 opens of a large machine's zoneinfo."""
    with opened(server.mount / name) as fd:
        assert os.read(fd, 10)
    before_kb = resident_kb(server)
    with program_of(NOBODY, server, HOLD_OPEN.format(count=6000, name=name)) as holder:
        assert holder.next() == "EMFILE"
        held = int(holder.next())
        assert 1000 < held <= 4096
        grown_kb = resident_kb(server) - before_kb
        assert grown_kb < 4096, f"{held} open files took {grown_kb} kB"
        assert run_as(HONEST, server, HOLD_OPEN.format(count=100, name=name).replace("sys.stdin.read()", "")) == "100\n"
        assert "status=0" in server.status()

    def opens_again() -> bool:
        text = run_as(NOBODY, server, HOLD_OPEN.format(count=100, name=name).replace("sys.stdin.read()", ""))
        return text == "100\n"

    wait_until(opens_again, "what the user held given back")


@pytest.mark.parametrize("what", ["ask_attributes", "read_text"])
def test_another_user_s_uses_go_on_while_thousands_of_threads_ask(what: str, server: Server) -> None:
    with program_of(NOBODY, server, FLOOD.format(threads=3000, what=what)) as flood:
        assert int(flood.next()) > 500
        slowest_s = float(run_as(HONEST, server, HONEST_USES.format(times=5)))
    assert slowest_s < LIMIT_S / 4
    assert not complaints(server)


def test_zoneinfo_that_cannot_be_read_is_one_line_however_often_it_is_opened(open_directory: Path) -> None:
    proc = calm_proc(open_directory)
    with Server(open_directory, "--proc", str(proc.path)) as server:
        (proc.path / "zoneinfo").rename(proc.path / "gone")
        tries = (
            "for _ in range(300):\n    try: os.open(mount + '/zoneinfo', 0)\n    except OSError as e: print(e.errno)\n"
        )
        assert set(run_as(NOBODY, server, tries).split()) == {str(errno.EIO)}
        (proc.path / "gone").rename(proc.path / "zoneinfo")
        assert "mem_notify_status" in (server.mount / "zoneinfo").read_text()
        assert server.stop() == 0
        lines = [line for line in complaints(server) if "zoneinfo cannot be shown" in line]
        assert len(lines) == 1
        assert "Traceback" not in server.log


def test_a_request_that_waits_its_turn_does_not_keep_its_program_alive(server: Server) -> None:
    """Three thousand of them, and SIGKILL: the kernel lets go of a program once each of its requests is answered."""
    with program_of(NOBODY, server, FLOOD.format(threads=3000, what="read_text")) as flood:
        flood.next()
    # It was waited for. The server is as before.
    assert facts(server)["open_files"] == "0"
    began = time.monotonic()
    assert server.status()
    assert time.monotonic() - began < LIMIT_S / 4
