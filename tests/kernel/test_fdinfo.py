"""The inode in a descriptor's fdinfo."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.fdinfo import fdinfo_has_inodes, list_descriptors, open_fdinfo, parse_inode, read_inode

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


def inode_of(pid: int | str, descriptor: int) -> int | None:
    directory = open_fdinfo(pid)
    try:
        return read_inode(descriptor, directory)
    finally:
        os.close(directory)


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
            assert inode_of("self", fd) == os.fstat(fd).st_ino, kind
    finally:
        os.close(descriptors["path"])


@prints_inodes
def test_a_descriptor_of_another_process(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with file.open() as stdin, subprocess.Popen(["sleep", "1000"], stdin=stdin) as child:
        try:
            assert inode_of(child.pid, 0) == file.stat().st_ino
        finally:
            child.kill()


def test_no_such_descriptor() -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        inode_of("self", 1_000_000)
    assert caught.value.errno == errno.ENOENT


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_fdinfo(4711, tmp_path)


def test_a_process_that_ends_while_it_is_looked_at() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        directory = open_fdinfo(child.pid)
        child.kill()
    try:
        with pytest.raises(OSError, match="No such") as caught:
            read_inode(0, directory)
        assert caught.value.errno in (errno.ENOENT, errno.ESRCH)
    finally:
        os.close(directory)


def test_a_read_that_fails_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(IsADirectoryError):
            read_inode(7, directory)
        assert set(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(directory)


@pytest.mark.parametrize(
    ("first", "expected"), [(0, [0, 1, 2, 900]), (2, [2, 900]), (3, [900]), (901, []), (10**6, [])]
)
def test_descriptors_from_a_number_on(first: int, expected: list[int]) -> None:
    """A table may have room for many more than there are: what is not there takes no time."""
    with tempfile.TemporaryFile() as file:
        high = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 900)
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, pass_fds=[high])
    os.close(high)
    assert child.stdin is not None
    assert child.stdout is not None
    # Until it answers, it has the files of its libraries open.
    child.stdin.write(b"ready\n")
    assert child.stdout.read(6) == b"ready\n"
    directory = open_fdinfo(child.pid)
    try:
        assert list(list_descriptors(directory, first)) == [{900: high}.get(each, each) for each in expected]
    finally:
        os.close(directory)
        child.kill()
        child.communicate()
