"""What may not be done to the files of the mount, and what it answers. One server serves all of these tests."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    NOBODY,
    calm_proc,
    complaints,
    error_of,
    facts,
    notifications,
    open_files,
    opened,
    read_record,
    revents,
    serving,
    wait_until,
)
from tests.support.server import Server

pytestmark = pytest.mark.mount

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

# The mount's folders are closed to all but root before the server is asked.
REFUSED_BY_THE_SERVER = {errno.EPERM} if os.geteuid() == 0 else {errno.EPERM, errno.EACCES}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("wrong-use")
    with serving(directory, "--proc", str(calm_proc(directory).path)) as running:
        yield running


@pytest.fixture(autouse=True)
def goes_on(server: Server) -> Iterator[None]:
    """After each of these, nobody has been told of anything and the server serves."""
    told = notifications(server)
    yield
    assert notifications(server) == told
    wait_until(lambda: open_files(server) == 0, "all files closed")
    with opened(server.device) as fd:
        assert revents(fd) == 0
    assert server.status().count("status=0") == len(server.zones)


def error_of_open(path: Path, flags: int) -> str:
    """The name of the error that open(2) ends with, "" if it succeeds."""
    return error_of(lambda: os.close(os.open(path, flags)))


@pytest.mark.parametrize("name", ["zones/node0-Normal", "status", "server", "zoneinfo"])
@pytest.mark.parametrize(
    "flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND]
)
def test_what_is_to_be_read_cannot_be_opened_for_writing(name: str, flags: int, server: Server) -> None:
    assert error_of_open(server.mount / name, flags) == "EACCES"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_simulate_cannot_be_read(flags: int, server: Server) -> None:
    assert error_of_open(server.mount / "simulate", flags) == "EACCES"


@pytest.mark.parametrize("name", ["zones/node0-Normal", "status"])
def test_what_is_to_be_read_cannot_be_truncated(name: str, server: Server) -> None:
    assert error_of(lambda: os.truncate(server.mount / name, 0)) == "EACCES"


def test_nothing_can_be_made(server: Server, tmp_path: Path) -> None:
    new = server.mount / "new"
    zone = server.mount / "zones" / "node7-Normal"
    assert error_of_open(new, os.O_CREAT | os.O_WRONLY) == "EACCES"
    assert error_of_open(zone, os.O_CREAT | os.O_RDONLY) == "EACCES"
    assert error_of(lambda: os.mkdir(new)) == "EACCES"
    assert error_of(lambda: os.mkfifo(new)) == "EACCES"
    assert error_of(lambda: os.symlink("status", new)) == "EACCES"
    assert error_of(lambda: os.link(server.device, new)) == "EACCES"
    assert error_of(lambda: os.link(server.device, tmp_path / "new")) == "EXDEV"
    assert error_of(lambda: os.stat(new)) == "ENOENT"


def test_nothing_can_be_removed_renamed_or_changed(server: Server, tmp_path: Path) -> None:
    device = server.device
    acts: list[Callable[[], object]] = [
        lambda: os.unlink(device),
        lambda: os.rmdir(server.mount / "zones"),
        lambda: os.rename(device, server.mount / "new"),
        lambda: os.rename(server.mount / "status", device),
        lambda: os.chmod(device, 0o666),
        lambda: os.chown(device, NOBODY, NOBODY),
        lambda: os.utime(device, (0, 0)),
    ]
    for act in acts:
        assert error_of(act) in {errno.errorcode[code] for code in REFUSED_BY_THE_SERVER}
    assert error_of(lambda: os.rename(device, tmp_path / "new")) == "EXDEV"
    assert device.stat().st_mode & 0o777 == 0o444


def test_names_that_are_not_there(server: Server) -> None:
    assert error_of(lambda: os.stat(server.mount / "zones" / "node0-Movable")) == "ENOENT"
    assert error_of(lambda: os.stat(server.mount / ("x" * 255))) == "ENOENT"
    # Longer than NAME_MAX: kernels differ in whether they ask the server.
    assert error_of(lambda: os.stat(server.mount / ("x" * 256))) in ("ENAMETOOLONG", "ENOENT")
    assert error_of(lambda: os.stat(server.device / "x")) == "ENOTDIR"
    assert error_of(lambda: os.listdir(server.device)) == "ENOTDIR"
    assert (server.mount / "zones" / ".." / "status").exists()


@pytest.mark.parametrize(
    "text",
    [
        b"\n",
        b" ",
        b"\0",
        b"all",
        b"all \n",
        b"all -1",
        b"all nan",
        b"all inf",
        b"all 1e99",
        b"all one",
        b"all 1 2",
        b"ALL 1",
        b"all 1\nall 1\n",
        b"node9-Nope 1",
        b"node0-DMA 1",
        b"node0-Normal",
        b"node0-Normal\0 1",
        b"Normal 1",
        b"node-1-Normal 1",
        b"node00-Normal 1",
        b"../status 1",
        b"all \xd9\xa1",
        bytes(range(256)),
        b"all " + b"9" * 4000,
        b"x" * 4096,
        b"x" * 5000,
        b"x" * 60_000,
        b"x" * (1 << 20),
        b"all 1" + b" " * (1 << 20),
    ],
    ids=lambda text: repr(text[:12]) + (f"*{len(text)}" if len(text) > 12 else ""),
)
def test_junk_written_to_simulate_is_einval(text: bytes, junk_server: Server) -> None:
    fd = os.open(junk_server.mount / "simulate", os.O_WRONLY)
    try:
        assert error_of(lambda: os.write(fd, text)) == "EINVAL"
    finally:
        os.close(fd)
    assert facts(junk_server)["notifications"] == "0"


@pytest.fixture(scope="module")
def junk_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that complains about simulations, and goes on."""
    directory = tmp_path_factory.mktemp("junk")
    with Server(directory, "--proc", str(calm_proc(directory).path)) as running:
        yield running
        running.simulate(seconds=LONG_S)
        with opened(running.device) as fd:
            assert read_record(fd).reason == "simulated"
        said = complaints(running)
        assert all("simulate: " in line for line in said), said


@pytest.mark.parametrize("text", [b"all \x1b[31m", b"x" * 4000 + b" 1", b"all " + b"9" * 4000])
def test_junk_written_to_simulate_leaves_one_short_printable_line_in_the_log(text: bytes, junk_server: Server) -> None:
    before = len(complaints(junk_server))
    fd = os.open(junk_server.mount / "simulate", os.O_WRONLY)
    try:
        assert error_of(lambda: os.write(fd, text)) == "EINVAL"
    finally:
        os.close(fd)
    (line,) = complaints(junk_server)[before:]
    assert line.isprintable()
    assert len(line) < 200


def test_an_empty_write_to_simulate_does_nothing(server: Server) -> None:
    fd = os.open(server.mount / "simulate", os.O_WRONLY)
    try:
        assert os.write(fd, b"") == 0
    finally:
        os.close(fd)


def test_the_shell_can_write_to_simulate(server: Server) -> None:
    """`>` truncates first, `>>` appends."""
    script = 'echo all 0 > "$1/simulate" && echo all 0 >> "$1/simulate"'
    done = subprocess.run(["sh", "-c", script, "sh", str(server.mount)], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


SIMULATE_AS_NOBODY = """
import os, sys
os.setgroups([])
os.setgid({nobody})
os.setuid({nobody})
print(open(sys.argv[1] + "/status").read().count("status="))
try:
    open(sys.argv[1] + "/simulate", "w")
except PermissionError:
    print("refused")
"""


@as_root
def test_another_user_can_read_everything_and_not_simulate(open_directory: Path) -> None:
    with serving(open_directory, "--proc", str(calm_proc(open_directory).path)) as server:
        code = SIMULATE_AS_NOBODY.format(nobody=NOBODY)
        done = subprocess.run([sys.executable, "-c", code, server.mount], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("4\nrefused\n", 0), done.stderr


@pytest.mark.parametrize("mount", ["", "full"])
def test_no_mount_hides_files_that_are_there(mount: str, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "precious").touch()
    command = [sys.executable, "-m", "memnotify_cuse", "serve", "--device", "", "--mount", mount]
    ended = subprocess.run(command, cwd=tmp_path if mount else folder, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 2
    # Other tests, at the same time, leave trace instances behind that the next start removes.
    lines = [line for line in ended.stderr.splitlines() if "removed the trace instance" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("memnotify: ")
    assert list(folder.iterdir()) == [folder / "precious"]
