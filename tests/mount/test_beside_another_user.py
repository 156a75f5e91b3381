"""What one user asks of the control file system, however often, does not fail or starve another one. Needs root."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support.mounted import LIMIT_S, NOBODY, calm_proc, facts, opened, serving, wait_until
from tests.support.programs import Programs
from tests.support.server import Lines, Server

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs of two other users"),
]

HONEST = 1000
THREADS = 3000

AS_USER = """
import errno, os, sys
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

HONEST_USES = """
import time
slowest = 0
for _ in range({times}):
    for use in (
        lambda: os.close(os.open(mount + "/mem_notify", os.O_RDONLY)),
        lambda: os.listdir(mount + "/zones"),
        lambda: open(mount + "/status").read(),
        lambda: os.stat(mount + "/zoneinfo"),
    ):
        began = time.monotonic()
        use()
        slowest = max(slowest, time.monotonic() - began)
print(slowest, flush=True)
"""


@contextmanager
def running(command: Sequence[str | Path]) -> Iterator[Lines]:
    """A program, whose lines are given; it ends with the block."""
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


def program_of(uid: int, server: Server, code: str) -> AbstractContextManager[Lines]:
    """A Python program of that user."""
    return running([sys.executable, "-c", AS_USER.format(uid=uid, mount=str(server.mount)) + code])


@contextmanager
def flood(programs: Programs, file: Path, what: str) -> Iterator[None]:
    """Thousands of threads of another user, which ask without end."""
    with running([programs("flood"), str(NOBODY), file, what, str(THREADS)]) as lines:
        assert int(lines.next()) > THREADS / 6
        yield


def run_as(uid: int, server: Server, code: str) -> str:
    """What such a program printed; it must succeed."""
    code = AS_USER.format(uid=uid, mount=str(server.mount)) + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def resident_kb(server: Server) -> int:
    """Of the process that answers."""
    text = Path(f"/proc/{facts(server)['server_pid']}/status").read_text()
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


@pytest.mark.parametrize("what", ["attributes", "text"])
def test_another_user_s_uses_go_on_while_thousands_of_threads_ask(
    what: str, server: Server, programs: Programs
) -> None:
    with flood(programs, server.mount / "status", what):
        slowest_s = float(run_as(HONEST, server, HONEST_USES.format(times=3)))
    print(f"slowest of the other user's uses: {slowest_s:.3f} s")


def test_however_often_a_user_opens_zoneinfo_the_kernel_s_is_read_no_more_often(open_directory: Path) -> None:
    """What is shown is what the scanner has read, so that nobody can have it fail, and the log filled."""
    proc = calm_proc(open_directory)
    with serving(open_directory, "--proc", str(proc.path)) as server:
        (proc.path / "zoneinfo").rename(proc.path / "gone")
        reads = "for _ in range(300):\n    print('mem_notify_status' in open(mount + '/zoneinfo').read())\n"
        assert run_as(NOBODY, server, reads).split() == ["True"] * 300


def test_programs_whose_requests_wait_for_their_turn_can_be_killed(server: Server, programs: Programs) -> None:
    """The kernel lets go of a program once each of its requests is answered."""
    with flood(programs, server.mount / "status", "text"):
        pass
    # It was killed and waited for.
    wait_until(lambda: facts(server)["open_files"] == "0", "all forgotten")
    assert "status=0" in server.status()
