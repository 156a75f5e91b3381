"""Every example, compiled and run as its first lines say, on a real, mounted device."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memnotify_cuse.record import Record
from tests.support.server import Lines, Server

LIMIT_S = 60.0
EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_file())
INTERPRETERS = {".py": sys.executable, ".sh": "sh", ".pl": "perl", ".js": "node"}
COMPILE_LINE = re.compile(r"Compile: +cc (.+)")
SMALLEST_BUFFER_BYTES = 4096
FLAGS = {"-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"}

# Node.js cannot have a handler while a thread of its own is blocked in read(); watch.js says so.
ENDS_BY_DEFAULT_ACTION = {"watch.js"}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """The name of each example."""
    return str(request.param)


@pytest.fixture
def command(name: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """How to run the example, without its arguments; compiled as it says itself."""
    path = EXAMPLES / name
    if path.suffix == ".c":
        if shutil.which("cc") is None:
            pytest.skip("no C compiler")
        line = COMPILE_LINE.search(path.read_text())
        assert line, f"{name} does not say how to compile it"
        folder = tmp_path_factory.mktemp("compiled")
        shutil.copy(path, folder)
        subprocess.run(["cc", *line[1].split()], cwd=folder, check=True)
        return [str(folder / path.stem)]
    interpreter = INTERPRETERS[path.suffix]
    if shutil.which(interpreter) is None:
        pytest.skip(f"no {interpreter}")
    return [interpreter, str(path)]


@contextmanager
def started(command: list[str], server: Server, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the example, and wait until it says that it watches the device."""
    with subprocess.Popen(
        [*command, str(server.device), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline().decode()
            assert first.startswith(f"watching {server.device}"), first
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def assert_notification(line: str) -> None:
    """A line for a person, or the record itself, or both."""
    found = re.search(r"node=\d+ zone=.*", line)
    if found:
        assert Record.parse(found[0]).reason == "simulated"
    else:
        assert re.fullmatch(r"node\d+-\w+: please free \d+ KiB", line)


def test_the_first_lines_say_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    head = "\n".join(text.splitlines()[:16])
    assert "Run: " in head
    assert "[DEVICE [COUNT]]" in head
    assert "/dev/mem_notify" in head
    if name.endswith(".c"):
        line = COMPILE_LINE.search(head)
        assert line
        assert set(line[1].split()) >= FLAGS


@pytest.mark.mount
def test_it_prints_a_line_for_each_notification_and_ends_after_count(command: list[str], server: Server) -> None:
    with started(command, server, "2") as process:
        server.simulate(seconds=LIMIT_S)
        out, err = process.communicate(timeout=LIMIT_S)
    lines = out.decode().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert_notification(line)
    assert err == b""
    assert process.returncode == 0


@pytest.mark.mount
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_lines_are_flushed_and_a_signal_ends_it(
    name: str, command: list[str], number: signal.Signals, server: Server
) -> None:
    with started(command, server) as process:
        server.simulate(seconds=LIMIT_S)
        # Comes although the program goes on. A full buffer would come too, in the end, but it is long.
        assert process.stdout is not None
        out = b""
        while b"\n" not in out:
            assert select.select([process.stdout], [], [], LIMIT_S)[0], "no line"
            data = os.read(process.stdout.fileno(), 65536)
            assert data, "the program ended"
            out += data
        assert len(out) < SMALLEST_BUFFER_BYTES
        assert_notification(out.decode().splitlines()[0])
        # Ended, so that the program is waiting when the signal comes.
        server.simulate(seconds=0)
        process.send_signal(number)
        assert process.wait(LIMIT_S) == (-number if name in ENDS_BY_DEFAULT_ACTION else 0)
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.mount
def test_a_killed_server_ends_it_with_an_error(command: list[str], tmp_path: Path) -> None:
    with Server(tmp_path) as server, started(command, server) as process:
        server.process.kill()
        _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode > 0
        assert str(server.device) in err.decode()


def test_a_missing_device_is_one_error(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, timeout=LIMIT_S, check=False)
    assert done.returncode > 0
    assert str(tmp_path / "none") in done.stderr.decode()
    assert done.stdout == b""


@pytest.mark.mount
def test_the_cache_says_how_much_it_freed(server: Server, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    program = tmp_path / "poll_cache"
    subprocess.run(["cc", "-O2", "-o", program, EXAMPLES / "poll_cache.c"], check=True)
    with started([str(program)], server) as process:
        before_kb = _resident_kb(process.pid)
        server.simulate(seconds=LIMIT_S)
        line = Lines(process, limit_s=LIMIT_S).next()
        server.simulate(seconds=0)
        said = re.match(r"freed (\d+) KiB, kept (\d+) KiB: (.+)", line)
        assert said
        freed_kb, kept_kb = int(said[1]), int(said[2])
        target_kb = Record.parse(said[3]).reclaim_target_kb
        assert freed_kb + kept_kb == 64 * 1024
        assert freed_kb >= min(max(target_kb, 1), 64 * 1024)
        assert _resident_kb(process.pid) < before_kb
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0


def _resident_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
