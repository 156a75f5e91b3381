"""What is undone at the end: only what was made, whatever is there by now."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from memnotify_cuse.keeper.mount import PLACEHOLDER
from memnotify_cuse.keeper.undo import undo
from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.mountinfo import mount_at
from memnotify_cuse.kernel.tracefs import TraceInstance, find_tracefs
from tests.support.sigio import as_root


def unlink_line(path: Path) -> str:
    made = path.lstat()
    return f"unlink {made.st_dev} {made.st_ino} {path}"


class TestUnlink:
    def test_the_placeholder_that_was_made(self, tmp_path: Path) -> None:
        path = tmp_path / "a name with spaces"
        os.mknod(path, PLACEHOLDER)
        assert undo(unlink_line(path)) is None
        assert not path.exists()

    def test_not_a_file_that_was_put_in_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "device"
        os.mknod(path, PLACEHOLDER)
        line = unlink_line(path)
        path.rename(tmp_path / "kept, so that its inode is not free")
        os.mknod(path, PLACEHOLDER)
        assert undo(line) is None
        assert path.exists()

    def test_not_an_empty_file_that_has_got_its_inode(self, tmp_path: Path) -> None:
        path = tmp_path / "device"
        path.touch()
        assert undo(unlink_line(path)) is None
        assert path.exists()

    def test_not_through_a_symbolic_link(self, tmp_path: Path) -> None:
        path, other = tmp_path / "device", tmp_path / "other"
        os.mknod(path, PLACEHOLDER)
        line = unlink_line(path)
        path.rename(other)
        path.symlink_to(other)
        assert undo(line) is None
        assert other.exists()
        assert path.is_symlink()

    def test_one_that_is_gone(self, tmp_path: Path) -> None:
        path = tmp_path / "device"
        os.mknod(path, PLACEHOLDER)
        line = unlink_line(path)
        path.unlink()
        assert undo(line) is None

    @as_root
    def test_not_what_is_mounted_there(self, tmp_path: Path) -> None:
        path, other = tmp_path / "device", tmp_path / "other"
        os.mknod(path, PLACEHOLDER)
        os.mknod(other, PLACEHOLDER)
        line = unlink_line(path)
        libc.mount(str(other), str(path), None, libc.MS_BIND)
        try:
            assert undo(line) is None
            assert path.exists()
            assert other.exists()
        finally:
            assert undo(f"umount {path}") is None
        assert path.exists()


class TestRmdir:
    def test_the_folder_that_was_made(self, tmp_path: Path) -> None:
        path = tmp_path / "mount"
        path.mkdir()
        assert undo(f"rmdir {path}") is None
        assert not path.exists()

    def test_not_one_with_something_in_it(self, tmp_path: Path) -> None:
        path = tmp_path / "mount"
        path.mkdir()
        (path / "file").touch()
        assert undo(f"rmdir {path}") is None
        assert (path / "file").exists()

    def test_one_that_is_gone_and_one_that_is_a_file_by_now(self, tmp_path: Path) -> None:
        assert undo(f"rmdir {tmp_path / 'none'}") is None
        (tmp_path / "file").touch()
        assert undo(f"rmdir {tmp_path / 'file'}") is None
        assert (tmp_path / "file").exists()


@as_root
class TestUmount:
    def test_a_mount(self, tmp_path: Path) -> None:
        path = tmp_path / "a name with spaces"
        path.mkdir()
        libc.mount("none", str(path), "tmpfs", 0)
        assert mount_at(path) is not None
        assert undo(f"umount {path}") is None
        assert mount_at(path) is None

    def test_one_that_is_in_use(self, tmp_path: Path) -> None:
        """Whoever has a file open in it keeps nobody waiting."""
        libc.mount("none", str(tmp_path), "tmpfs", 0)
        with (tmp_path / "file").open("w"):
            assert undo(f"umount {tmp_path}") is None
        assert mount_at(tmp_path) is None

    def test_nothing_is_mounted_there(self, tmp_path: Path) -> None:
        assert undo(f"umount {tmp_path}") is None
        assert undo(f"umount {tmp_path / 'none'}") is None

    def test_what_cannot_be_unmounted_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is nothing here that root cannot unmount, and nothing else is to be tried."""

        def refuse(_path: str) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(libc, "unmount", refuse)
        assert undo(f"umount {tmp_path}") == f"{tmp_path}: cannot unmount: Operation not permitted"


@pytest.mark.skipif(os.geteuid() != 0 or find_tracefs() is None, reason="tracefs needs root, and to be mounted")
class TestInstance:
    @pytest.fixture
    def path(self) -> Path:
        tracefs = find_tracefs()
        assert tracefs is not None
        return tracefs / "instances" / f"memnotify-test-{os.getpid()}"

    def test_one_that_a_server_left(self, path: Path) -> None:
        path.mkdir()
        assert undo(f"instance {path}") is None
        assert not path.exists()

    def test_one_that_stays_in_use_is_named(self, path: Path) -> None:
        with TraceInstance.create(path.parent.parent, path.name):
            complaint = undo(f"instance {path}")
            assert complaint is not None
            assert complaint.startswith(f"{path}: the trace instance stays behind: ")

    def test_one_that_is_gone(self, path: Path) -> None:
        assert undo(f"instance {path}") is None


def test_what_is_not_known_is_not_done(tmp_path: Path) -> None:
    assert undo(f"rm {tmp_path}") is None
    assert tmp_path.exists()


class TestKprobe:
    """kprobe_events is a file here: the development machine's kernel has none; the guest's is in conformance."""

    def test_one_line_is_added(self, tmp_path: Path) -> None:
        events = tmp_path / "kprobe_events"
        events.write_text("p:kprobes/others do_exit\n")
        assert undo(f"kprobe memnotify_1/fcntl {events}") is None
        assert events.read_text() == "p:kprobes/others do_exit\n-:memnotify_1/fcntl\n"

    def test_one_that_is_gone(self, tmp_path: Path) -> None:
        assert undo(f"kprobe memnotify_1/fcntl {tmp_path / 'kprobe_events'}") is None

    def test_one_that_stays_is_said(self, tmp_path: Path) -> None:
        complaint = undo(f"kprobe memnotify_1/fcntl {tmp_path}")
        assert complaint == f"memnotify_1/fcntl: the kprobe event stays behind: {os.strerror(errno.EISDIR)}"
