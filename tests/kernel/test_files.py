"""Reading kernel files whole and repeatedly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memnotify_cuse.kernel.errors import KernelFileGoneError
from memnotify_cuse.kernel.files import KernelFile, read_kernel_text


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
