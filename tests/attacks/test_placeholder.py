"""What is at --device before the server starts: only what it made itself is removed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.limits import LIMIT_S
from tests.attacks.target import Target
from tests.support.mounted import NOBODY

pytestmark = pytest.mark.mount


def an_empty_file(path: Path) -> None:
    path.touch()
    os.chown(path, NOBODY, NOBODY)


def a_file(path: Path) -> None:
    path.write_text("precious")
    os.chown(path, NOBODY, NOBODY)


def a_link_to_an_empty_file(path: Path) -> None:
    path.with_name("precious").touch()
    path.symlink_to(path.with_name("precious"))


def a_fifo(path: Path) -> None:
    os.mkfifo(path)
    os.chown(path, NOBODY, NOBODY)


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [an_empty_file, a_file, a_link_to_an_empty_file, a_fifo, a_folder])
def test_what_was_at_the_device_s_path_is_there_afterwards(make: Callable[[Path], None], directory: Path) -> None:
    """Whether the server refuses it, or shows the device over it for as long as it runs."""
    node = directory / "node"
    make(node)
    before = node.lstat()
    try:
        with Target(directory) as target:
            assert target.terminate() is not None
    except AssertionError as error:
        # It may refuse; then in one line.
        if "ended with 2: " not in str(error):
            raise
    after = node.lstat()
    assert (after.st_ino, after.st_mode, after.st_uid, after.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_uid,
        before.st_size,
    )
    assert make is not a_link_to_an_empty_file or (directory / "precious").is_file()


@pytest.mark.parametrize("name", ["mem_notify", "status", "zones/other", "new"])
def test_a_device_inside_the_mount_is_refused(name: str, directory: Path) -> None:
    """It could not be ended: the server would wait for itself."""
    mount = directory / "mount"
    command = [sys.executable, "-m", "memnotify_cuse", "serve", "--mount", str(mount), "--device", str(mount / name)]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = server.communicate(timeout=LIMIT_S)
    finally:
        _release(server, mount)
    assert server.returncode == 2
    assert len(errors.splitlines()) == 1, errors


def _release(server: subprocess.Popen[str], mount: Path) -> None:
    from tests.attacks.processes import abort, mounts_at
    from tests.support.server import unmount

    for connection in mounts_at(mount):
        abort(connection)
    if server.poll() is None:
        server.kill()
        server.wait(LIMIT_S)
    while mounts_at(mount):
        unmount(mount)
