"""Mounts that are taken away while a server runs. A tmpfs stands in for the control file system where that will do."""

from __future__ import annotations

import os
import select
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from memnotify_cuse.keeper.mount import is_placeholder, mount_control, show_device
from memnotify_cuse.keeper.undo import undo as undo_line
from memnotify_cuse.keeper.watch import MountWatch, watch_line
from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.mountid import mount_seen_at
from memnotify_cuse.kernel.mountinfo import mount_at, read_mountinfo
from tests.support.mounted import LIMIT_S, wait_until
from tests.support.sigio import as_root

pytestmark = [as_root, pytest.mark.mount]


class Stage:
    """A mount with a device, which is shown at a path of its own, and a watch over both."""

    def __init__(self, directory: Path, connection: int | None = None) -> None:
        self.mount = directory / "mount"
        self.device = directory / "dev" / "node"
        self.device.parent.mkdir()
        self.noted: list[str] = []
        self.said: list[str] = []
        self._connection = connection
        self._watch: MountWatch | None = None

    def serve(self) -> None:
        self.mount.mkdir()
        libc.mount("none", str(self.mount), "tmpfs", 0)
        (self.mount / "mem_notify").write_text("the device")
        show_device(self.device, self.mount / "mem_notify", self.noted.append)

    @property
    def watch(self) -> MountWatch:
        if self._watch is None:
            major, minor, _ = mount_seen_at(str(self.mount))
            device = str(self.device) if os.path.lexists(self.device) else ""
            line = watch_line(major, minor, str(self.mount), device)
            self._watch = MountWatch(line, self.said.append, self.noted.append, self._connection)
            self._watch.check()
        return self._watch

    def turn_until(self, happened: Callable[[], bool], what: str) -> None:
        """What the keeper does: check when there is something to check."""

        def turn() -> bool:
            poll = select.poll()
            poll.register(self.watch.fileno(), select.POLLIN)
            if poll.poll(10):
                self.watch.check()
            return happened()

        wait_until(turn, what)

    def is_shown(self) -> bool:
        try:
            return self.device.read_text() == "the device"
        except OSError:
            return False

    def has_said(self, count: int) -> bool:
        return len(self.said) == count

    def end(self) -> None:
        if self._watch is not None:
            self._watch.close()
        for line in reversed(self.noted):
            undo_line(line)


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Path]:
    """A folder whose mounts can be moved, which those of a shared mount cannot."""
    libc.mount("none", str(tmp_path), "tmpfs", 0)
    try:
        subprocess.run(["mount", "--make-private", tmp_path], check=True)
        yield tmp_path
    finally:
        for mount in reversed(read_mountinfo()):
            if Path(mount.mount_point).is_relative_to(tmp_path):
                libc.unmount(mount.mount_point)


@pytest.fixture
def stage(private: Path) -> Iterator[Stage]:
    stage = Stage(private)
    stage.serve()
    assert stage.watch is not None
    yield stage
    stage.end()


def test_a_device_that_is_unmounted_is_shown_again_and_that_is_said_once(stage: Stage) -> None:
    libc.unmount(str(stage.device))
    stage.turn_until(stage.is_shown, "the device")
    stage.turn_until(lambda: bool(stage.said), "a line")
    assert stage.said == [f"WARNING: {stage.device}: the mount was taken away; it has been made again"]
    stage.end()
    assert not stage.device.exists()


def test_it_is_shown_again_each_time(stage: Stage) -> None:
    for count in range(1, 4):
        libc.unmount(str(stage.device))
        stage.turn_until(partial(stage.has_said, count), f"line {count}")
        assert stage.is_shown()


def test_a_placeholder_that_is_removed_is_made_again_and_removed_at_the_end(stage: Stage) -> None:
    """Another mount namespace can remove it under the mount, which the kernel then takes away."""
    subprocess.run(["unshare", "-m", "sh", "-c", 'umount -l "$0"; rm "$0"', stage.device], check=True)
    stage.turn_until(lambda: bool(stage.said) and stage.is_shown(), "the device")
    stage.end()
    assert not os.path.lexists(stage.device)


def test_a_device_that_is_moved_is_shown_again_and_taken_away_from_there(stage: Stage, private: Path) -> None:
    elsewhere = private / "elsewhere"
    elsewhere.touch()
    subprocess.run(["mount", "--move", stage.device, elsewhere], check=True)
    assert is_placeholder(stage.device.lstat())
    stage.turn_until(lambda: bool(stage.said), "a line")
    assert stage.is_shown()
    assert mount_at(elsewhere) is None


def test_what_somebody_else_has_bound_from_ours_stays(stage: Stage, private: Path) -> None:
    """A container's device, for one."""
    container = private / "container"
    container.touch()
    libc.mount(str(stage.device), str(container), None, libc.MS_BIND)
    libc.unmount(str(stage.device))
    stage.turn_until(lambda: bool(stage.said), "a line")
    assert container.read_text() == "the device"


def test_a_device_under_another_mount_is_shown_on_top_of_it(stage: Stage) -> None:
    libc.mount("none", str(stage.device.parent), "tmpfs", 0)
    stage.turn_until(lambda: bool(stage.said), "a line")
    assert stage.is_shown()


def test_a_file_in_its_place_stays_and_the_device_comes_back_once_it_is_gone(stage: Stage) -> None:
    libc.unmount(str(stage.device))
    stage.device.unlink()
    stage.device.write_text("precious")
    stage.turn_until(lambda: bool(stage.said), "a line")
    assert stage.device.read_text() == "precious"
    assert stage.said == [
        "ERROR: the mount was taken away, and cannot be made again yet: "
        f"{stage.device}: exists and is not a placeholder of ours"
    ]
    stage.device.unlink()
    stage.turn_until(stage.is_shown, "the device")
    stage.turn_until(lambda: len(stage.said) == 2, "a line")


def test_a_mount_that_is_moved_is_where_it_was_again(stage: Stage, private: Path) -> None:
    elsewhere = private / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["mount", "--move", stage.mount, elsewhere], check=True)
    stage.turn_until(lambda: bool(stage.said), "a line")
    assert (stage.mount / "mem_notify").read_text() == "the device"
    assert mount_at(elsewhere) is None
    assert stage.watch.lost is None


def test_a_mount_that_is_unmounted_is_an_error_that_is_said_once(stage: Stage) -> None:
    libc.unmount(str(stage.mount))
    stage.turn_until(lambda: bool(stage.said), "a line")
    why = f"{stage.mount}: the control file system was unmounted; restart the server to have it again"
    assert stage.watch.lost == why
    libc.unmount(str(stage.device))
    stage.turn_until(lambda: True, "a turn")
    assert stage.said == [f"ERROR: {why}"]


def test_with_the_connection_a_mount_in_use_is_mounted_again(private: Path) -> None:
    """The very same file system: nobody answers here, so another one would not know its own root."""
    noted: list[str] = []
    control = mount_control(private / "mount", noted.append)
    stage = Stage(private, control.fd)
    stage.noted = noted
    before = mount_seen_at(str(stage.mount))
    assert stage.watch is not None
    in_use = os.open(stage.mount, os.O_PATH)
    try:
        libc.unmount(str(stage.mount))
        assert mount_at(stage.mount) is None
        stage.turn_until(lambda: bool(stage.said), "a line")
        assert stage.said == [f"WARNING: {stage.mount}: the mount was taken away; it has been made again"]
        again = mount_seen_at(str(stage.mount))
        assert again[:2] == before[:2]
        assert again[2] != before[2]
    finally:
        os.close(in_use)
        os.close(control.fd)
        os.close(control.lock)
        stage.end()
    assert not stage.mount.exists()


def test_other_mounts_are_none_of_its_business(stage: Stage, private: Path) -> None:
    other = private / "other"
    other.mkdir()
    libc.mount("none", str(other), "tmpfs", 0)
    libc.unmount(str(other))
    poll = select.poll()
    poll.register(stage.watch.fileno(), select.POLLIN)
    assert poll.poll(LIMIT_S * 1000)
    stage.watch.check()
    assert not poll.poll(0)
    assert stage.said == []


def test_the_end_waits_for_what_is_being_made_and_takes_note_of_it(stage: Stage) -> None:
    libc.unmount(str(stage.device))
    stage.device.unlink()
    stage.watch.check()
    stage.end()
    assert not os.path.lexists(stage.device)


def test_the_device_s_path_cannot_be_opened_while_nothing_is_mounted_there(stage: Stage) -> None:
    stage.watch.close()
    libc.unmount(str(stage.device))
    assert stat.S_ISSOCK(stage.device.lstat().st_mode)
    with pytest.raises(OSError, match="No such device or address"):
        os.open(stage.device, os.O_RDONLY)
    stage._watch = None


IMPORTED = """
import sys
import memnotify_cuse.keeper.keeper
before = set(sys.modules)
import memnotify_cuse.keeper.watch
print(*sorted(set(sys.modules) - before))
"""


def test_it_costs_the_keeper_no_library() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"memnotify_cuse.keeper.watch", "memnotify_cuse.kernel.mountid"}
