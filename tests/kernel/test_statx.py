"""Which file a descriptor belongs to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from memnotify_cuse.kernel.statx import FileId, file_id


def of_stat(status: os.stat_result) -> FileId:
    if stat.S_ISCHR(status.st_mode):
        return FileId(True, os.major(status.st_rdev), os.minor(status.st_rdev))
    return FileId(False, os.major(status.st_dev), os.minor(status.st_dev))


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/status", "/", "/etc/passwd", "/dev/fd"])
def test_it_is_what_stat_says(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        assert file_id(fd) == of_stat(os.fstat(fd))
    finally:
        os.close(fd)


def test_a_file_that_was_removed(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    try:
        os.unlink(tmp_path / "file")
        assert file_id(fd) == of_stat(os.fstat(fd))
    finally:
        os.close(fd)


def test_character_devices_are_told_apart_by_their_own_number() -> None:
    ids = []
    for path in ("/dev/null", "/dev/zero", "/dev/null"):
        fd = os.open(path, os.O_RDONLY)
        ids.append(file_id(fd))
        os.close(fd)
    assert ids[0] == ids[2] == FileId(True, 1, 3)
    assert ids[1] == FileId(True, 1, 5)


def test_not_a_descriptor() -> None:
    fd = os.dup(0)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        file_id(fd)
