"""The inode in a descriptor's fdinfo."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.fdinfo import fdinfo_has_inodes, parse_inode, read_inode

TEXT = b"pos:\t0\nflags:\t0104000\nmnt_id:\t64\nino:\t140123456\n"

prints_inodes = pytest.mark.skipif(not fdinfo_has_inodes(), reason="this kernel prints no inodes (before 5.14)")


def test_an_inode() -> None:
    assert parse_inode(TEXT) == 140123456


def test_what_an_epoll_has_to_say_after_it_does_not_count() -> None:
    watched = b"tfd:        4 events:       19 data:                4  pos:0 ino:1f sdev:f\n"
    assert parse_inode(TEXT + watched) == 140123456
    assert parse_inode(watched) is None


@pytest.mark.parametrize(
    "text",
    [b"", b"pos:\t0\nflags:\t0104000\nmnt_id:\t64\n", TEXT[:-1], TEXT.replace(b"140123456", b"x"), b"ino:\t1\n"],
)
def test_none_where_there_is_none(text: bytes) -> None:
    assert parse_inode(text) is None


@given(st.binary())
def test_anything_has_an_inode_or_none(text: bytes) -> None:
    assert (parse_inode(text) or 0) >= 0


@given(st.integers(0, 2**64 - 1))
def test_every_inode_of_64_bits(inode: int) -> None:
    assert parse_inode(TEXT.replace(b"140123456", b"%d" % inode)) == inode


@pytest.fixture
def descriptors() -> Iterator[dict[str, int]]:
    read_end, write_end = os.pipe()
    with tempfile.TemporaryFile() as file, select.epoll() as epoll:
        epoll.register(read_end)
        yield {"file": file.fileno(), "pipe": read_end, "epoll": epoll.fileno(), "path": os.open("/", os.O_PATH)}
    os.close(read_end)
    os.close(write_end)


@prints_inodes
def test_real_descriptors(descriptors: dict[str, int]) -> None:
    try:
        for kind, fd in descriptors.items():
            assert read_inode(f"/proc/self/fdinfo/{fd}") == os.fstat(fd).st_ino, kind
    finally:
        os.close(descriptors["path"])


@prints_inodes
def test_a_descriptor_of_another_process(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with file.open() as stdin, subprocess.Popen(["sleep", "1000"], stdin=stdin) as child:
        try:
            assert read_inode(f"/proc/{child.pid}/fdinfo/0") == file.stat().st_ino
        finally:
            child.kill()


def test_no_such_descriptor() -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        read_inode("/proc/self/fdinfo/1000000")
    assert caught.value.errno == errno.ENOENT


def test_a_read_that_fails_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError):
        read_inode(str(tmp_path))
    assert set(os.listdir("/proc/self/fd")) == before
