"""Reading kernel files whole and repeatedly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memnotify_cuse.keeper.children import fork
from memnotify_cuse.kernel import files
from memnotify_cuse.kernel.capabilities import become_user
from memnotify_cuse.kernel.errors import KernelFileGoneError
from memnotify_cuse.kernel.files import KernelFile, read_kernel_text
from tests.support.servedfile import ServedFile


@pytest.mark.parametrize("name", ["zoneinfo", "vmstat", "meminfo", "pressure/memory"])
def test_a_proc_file_is_whole_every_time(name: str) -> None:
    path = Path("/proc") / name
    if not path.exists():
        pytest.skip(f"this kernel has no {path}")
    with KernelFile(path) as file:
        texts = [file.read_text() for _ in range(3)]
    reference = path.read_text()
    for text in texts:
        assert text.endswith("\n")
        assert text.count("\n") == reference.count("\n")
        assert [line.split()[0] for line in text.splitlines()] == [line.split()[0] for line in reference.splitlines()]


def test_more_than_the_first_buffer_then_less(tmp_path: Path) -> None:
    path = tmp_path / "file"
    long = "".join(f"line {n}\n" for n in range(20_000))
    path.write_text(long)
    with KernelFile(path) as file:
        assert file.read_text() == long
        path.write_text("short\n")
        assert file.read_text() == "short\n"
        path.write_text("")
        assert file.read_text() == ""


@pytest.mark.parametrize("size", [16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 32 * 1024])
def test_around_the_size_of_the_buffer(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert read_kernel_text(path) == "x" * size


def test_every_byte_is_one_character(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)))
    assert read_kernel_text(path) == "".join(map(chr, range(256)))


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(KernelFileGoneError, match="ENOENT") as caught:
        KernelFile(tmp_path / "none")
    assert caught.value.path == str(tmp_path / "none")
    with KernelFile(tmp_path) as folder, pytest.raises(KernelFileGoneError, match="EISDIR"):
        folder.read_text()


def test_closing_twice_and_reading_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    descriptors = len(os.listdir("/proc/self/fd"))
    file = KernelFile(path)
    file.close()
    file.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with pytest.raises(KernelFileGoneError, match="closed"):
        file.read_text()


@pytest.fixture
def followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FOLLOW_S", 0.0)


@pytest.mark.usefixtures("followed_at_once")
def test_a_file_that_comes_back_as_another_is_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("old")
    other.write_text("new")
    descriptors = len(os.listdir("/proc/self/fd"))
    with KernelFile(path) as file:
        os.rename(other, path)
        assert file.read_text() == "new"
        path.unlink()
        for _ in range(2):
            assert file.read_text() == "new"
            assert file.gone is not None
            assert "ENOENT" in file.gone
        path.write_text("newer")
        assert file.read_text() == "newer"
        assert file.gone is None
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_file_is_not_looked_for_at_each_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with KernelFile(path) as file:
        path.unlink()
        assert file.read_text() == "old"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_whose_path_may_not_be_looked_at_any_more_is_read_on(tmp_path: Path) -> None:
    """As in the server, which has given up its rights by then."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    path = folder / "file"
    path.write_text("text")

    def as_nobody() -> int:
        files.FOLLOW_S = 0.0  # type: ignore[misc]
        with KernelFile(path) as file:
            become_user(65534, 65534)
            return int(file.read_text() != "text")

    child = fork("as-nobody", as_nobody)
    assert child.reap(30)
    assert child.code == 0


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file")
def test_a_file_of_a_server_that_was_restarted_is_opened_anew(tmp_path: Path) -> None:
    """As lxcfs does: the old descriptor gives ENOTCONN, or ECONNABORTED."""
    with ServedFile(tmp_path / "file", b"of the first") as served, KernelFile(served.path) as file:
        assert file.read_text() == "of the first"
        served.end()
        with pytest.raises(KernelFileGoneError, match=r"ENOTCONN|ECONNABORTED"):
            file.read_text()
        served.begin_with(b"of the second")
        assert file.read_text() == "of the second"
