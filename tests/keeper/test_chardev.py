"""The node of the character device. A folder stands in for the kernel's; the guest tier has the real one."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.keeper import chardev
from memnotify_cuse.keeper.chardev import CharacterDevice, cuse_problem, open_cuse
from memnotify_cuse.keeper.mount import PLACEHOLDER, MountError
from memnotify_cuse.keeper.undo import undo
from memnotify_cuse.kernel.statx import FileId

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a character device")


@pytest.fixture
def dev_node() -> Iterator[Path]:
    """A path where nodes can be made, as in a folder that is mounted with nodev they cannot."""
    node = Path(f"/dev/memnotify-test-{os.getpid()}")
    yield node
    node.unlink(missing_ok=True)


def test_a_path_outside_dev_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="needs a name directly under /dev"):
        open_cuse(tmp_path / "mem_notify")


def test_a_name_that_exists_is_refused_and_left_alone() -> None:
    with pytest.raises(MountError, match="/dev/null: exists already"):
        open_cuse(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_a_name_that_is_served_already_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chardev, "SYS_CUSE", tmp_path)
    (tmp_path / "mem_notify_test").mkdir()
    with pytest.raises(MountError, match="/dev/mem_notify_test: memnotify is already serving there"):
        open_cuse(Path("/dev/mem_notify_test"))


@as_root
def test_a_node_without_a_device_that_a_killed_server_left_is_removed(
    dev_node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chardev, "DEV_CUSE", "/dev/null")
    # Major 0 is nobody's.
    os.mknod(dev_node, stat.S_IFCHR | 0o444, os.makedev(0, 0))
    dev_node.chmod(0o444)
    os.close(open_cuse(dev_node))
    assert not dev_node.exists()


@as_root
def test_the_placeholder_that_a_killed_server_left_is_removed(dev_node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of one that served a file, or was killed before it mounted anything there."""
    monkeypatch.setattr(chardev, "DEV_CUSE", "/dev/null")
    os.mknod(dev_node, PLACEHOLDER)
    dev_node.chmod(0o444)
    os.close(open_cuse(dev_node))
    assert not os.path.lexists(dev_node)


@as_root
def test_an_empty_file_is_in_the_way(dev_node: Path) -> None:
    dev_node.touch()
    with pytest.raises(MountError, match=f"{dev_node}: exists already"):
        open_cuse(dev_node)
    assert dev_node.is_file()


def test_without_the_module_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chardev, "DEV_CUSE", str(tmp_path / "cuse"))
    with pytest.raises(MountError, match="modprobe cuse"):
        open_cuse(Path("/dev/mem_notify_test"))
    assert cuse_problem() is not None


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that the kernel makes for a device called `node`, at the latest when it has made it."""
    monkeypatch.setattr(chardev, "SYS_CUSE", tmp_path / "sys")
    folder = tmp_path / "sys/node"
    folder.mkdir(parents=True)
    return folder


def test_the_device_is_waited_for_and_its_node_opened_to_everybody(made: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"

    def make() -> None:
        node.touch(0o600)
        (made / "dev").write_text("239:7\n")

    kernel = threading.Timer(0.05, make)
    kernel.start()
    told: list[str] = []
    CharacterDevice(node).open_up(told.append)
    kernel.join()
    assert node.stat().st_mode & 0o7777 == 0o444
    # The kernel removes it with the connection.
    assert told == []


@as_root
def test_a_node_that_comes_while_one_is_made_is_the_kernel_s(
    made: Path, dev_node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """devtmpfs has it after /sys does."""
    made.rename(made.with_name(dev_node.name))
    (made.with_name(dev_node.name) / "dev").write_text("0:77\n")
    mknod = os.mknod

    def make_late(path: Path, mode: int, device: int) -> None:
        mknod(path, stat.S_IFCHR | 0o600, device)
        mknod(path, mode, device)

    monkeypatch.setattr(os, "mknod", make_late)
    told: list[str] = []
    CharacterDevice(dev_node).open_up(told.append)
    assert dev_node.lstat().st_mode == stat.S_IFCHR | 0o444
    assert told == [], "the kernel removes it with the connection"


def test_a_device_that_does_not_come_is_an_error(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chardev, "MADE_S", 0.02)
    with pytest.raises(MountError, match=r"node: the kernel did not make the device within 0\.02 s"):
        CharacterDevice(tmp_path / "node").open_up(lambda _line: None)


@as_root
def test_without_devtmpfs_the_node_is_made_and_to_be_removed(
    made: Path, dev_node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # devtmpfs knows of no such device either, since there is none.
    made.rename(made.with_name(dev_node.name))
    (made.with_name(dev_node.name) / "dev").write_text("0:77\n")
    told: list[str] = []
    device = CharacterDevice(dev_node)
    device.open_up(told.append)
    assert dev_node.lstat().st_mode == stat.S_IFCHR | 0o444
    assert device.file_id == FileId(True, 0, 77)
    (line,) = told
    assert line.startswith("unlink ")
    assert undo(line) is None
    assert not dev_node.exists()
