"""What can be served, and ended again; what is found at the device's path, and what is done about it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.keeper import mount as mount_module
from memnotify_cuse.keeper.mount import (
    PLACEHOLDER,
    MountError,
    Occupant,
    check_paths,
    clear_placeholder,
    mount_control,
    occupant_of,
    remove_if_dead,
    show_device,
    why_not_at,
)
from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.mountinfo import mount_at
from tests.support.server import unmount
from tests.support.sigio import as_root

MOUNT = Path("/run/mem_notify")


@pytest.mark.parametrize(
    "device", ["/dev/mem_notify", "/run/mem_notify2", "/run/mem_notif", "/run/other", "/mem_notify", None]
)
def test_apart_from_each_other(device: str | None) -> None:
    check_paths(Path(device) if device is not None else None, MOUNT)


@pytest.mark.parametrize("device", ["/run/mem_notify", "/run/mem_notify/mem_notify", "/run/mem_notify/a/b"])
def test_a_device_in_what_is_mounted_over(device: str) -> None:
    with pytest.raises(MountError, match=f"^{device}: the device cannot be at or below {MOUNT}"):
        check_paths(Path(device), MOUNT)


@pytest.mark.parametrize("device", ["/run", "/"])
def test_a_mount_point_below_the_device(device: str) -> None:
    with pytest.raises(MountError, match=f"^{MOUNT}: the mount point cannot be at or below {device}"):
        check_paths(Path(device), MOUNT)


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[Path]:
    """A mount of ours whose server is gone."""
    path = tmp_path / "dead"
    control = mount_control(path, lambda _line: None)
    os.close(control.fd)
    os.close(control.lock)
    yield path
    unmount(path)


class TestOccupant:
    def test_nothing_and_files(self, tmp_path: Path) -> None:
        path = tmp_path / "node"
        assert occupant_of(path) is Occupant.NOTHING
        path.touch(0o444)
        assert occupant_of(path) is Occupant.EMPTY_FILE
        path.chmod(0o644)
        path.write_text("precious")
        assert occupant_of(path) is Occupant.OTHER_FILE
        path.unlink()
        path.symlink_to("nowhere")
        assert occupant_of(path) is Occupant.OTHER_FILE

    @pytest.mark.parametrize(("mode", "occupant"), [(0o444, Occupant.PLACEHOLDER), (0o755, Occupant.OTHER_FILE)])
    def test_a_socket_that_somebody_may_write_to_is_not_ours(
        self, mode: int, occupant: Occupant, tmp_path: Path
    ) -> None:
        path = tmp_path / "node"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            path.chmod(mode)
            assert occupant_of(path) is occupant
            assert (why_not_at(path) is None) == (occupant is Occupant.PLACEHOLDER)

    @as_root
    def test_another_user_s_socket_is_not_ours(self, tmp_path: Path) -> None:
        os.mknod(tmp_path / "node", PLACEHOLDER)
        os.chmod(tmp_path / "node", 0o444)
        os.chown(tmp_path / "node", 65534, 65534)
        assert occupant_of(tmp_path / "node") is Occupant.OTHER_FILE

    @as_root
    def test_mounts(self, tmp_path: Path) -> None:
        libc.mount("none", str(tmp_path), "tmpfs", 0)
        try:
            assert occupant_of(tmp_path) is Occupant.OTHER_MOUNT
            assert why_not_at(tmp_path) == f"{tmp_path}: something is mounted there already (tmpfs)"
        finally:
            libc.unmount(str(tmp_path))

    @as_root
    @pytest.mark.mount
    def test_a_dead_mount(self, dead: Path) -> None:
        assert occupant_of(dead) is Occupant.DEAD_MOUNT
        assert why_not_at(dead) is None


@as_root
class TestShowing:
    @pytest.mark.parametrize("mask", [0o022, 0o077, 0o777])
    def test_the_placeholder_is_known_again_whatever_the_umask(self, mask: int, tmp_path: Path) -> None:
        node, path = tmp_path / "mem_notify", tmp_path / "node"
        node.touch()
        before = os.umask(mask)
        try:
            show_device(path, node, lambda _line: None)
            assert os.umask(mask) == mask
        finally:
            os.umask(before)
        libc.unmount(str(path))
        assert occupant_of(path) is Occupant.PLACEHOLDER
        clear_placeholder(path)
        assert not os.path.lexists(path)

    def test_what_is_no_placeholder_is_not_cleared(self, tmp_path: Path) -> None:
        (tmp_path / "node").touch(0o444)
        clear_placeholder(tmp_path / "node")
        assert stat.S_ISREG((tmp_path / "node").lstat().st_mode)

    def test_a_placeholder_under_a_mount_of_another_is_left_alone(self, tmp_path: Path) -> None:
        node, path = tmp_path / "mem_notify", tmp_path / "node"
        os.mknod(node, PLACEHOLDER)
        node.chmod(0o444)
        path.touch()
        libc.mount(str(node), str(path), None, libc.MS_BIND)
        try:
            clear_placeholder(path)
            assert node.is_socket()
        finally:
            libc.unmount(str(path))


@as_root
@pytest.mark.mount
def test_a_dead_mount_that_stays_is_an_error(dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root of a container may have no right to unmount."""
    monkeypatch.setattr(mount_module, "unmount", lambda path: f"{path}: cannot unmount: Operation not permitted")
    with pytest.raises(MountError, match=r"that a killed server left behind: .* not permitted"):
        remove_if_dead(dead)
    assert mount_at(dead) is not None


@as_root
@pytest.mark.mount
def test_a_dead_mount_is_removed(dead: Path) -> None:
    assert remove_if_dead(dead)
    assert mount_at(dead) is None


def test_a_mount_point_that_is_made_is_closed_to_others(tmp_path: Path) -> None:
    """Three thousand threads that look into it once the mount is gone kept it from being removed for seconds."""
    point = tmp_path / "mount"
    assert mount_module.make_directory(point)
    assert point.stat().st_mode & 0o777 == 0o700
    point.chmod(0o755)
    assert not mount_module.make_directory(point)
    assert point.stat().st_mode & 0o777 == 0o755, "that of a directory that was there is its owner's"
