"""What fcntl keeps of an open file's owner, asked on a pipe of our own."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator

import pytest

from memnotify_cuse.kernel.fileowner import F_GETOWNER_UIDS, FileOwner, OwnerKind, file_owner

F_SETSIG = 10
F_SETOWN_EX = 15


@pytest.fixture
def fd() -> Iterator[int]:
    ends = os.pipe()
    yield ends[0]
    for end in ends:
        os.close(end)


def uids_told(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, F_GETOWNER_UIDS, bytes(8))
    except OSError:
        return False
    return True


def expected(fd: int, kind: OwnerKind, number: int, signal_number: int = 0) -> FileOwner:
    uids = (os.getuid(), os.geteuid()) if uids_told(fd) else (None, None)
    return FileOwner(kind, number, signal_number, *uids)


def test_no_owner(fd: int) -> None:
    assert file_owner(fd) is None


def test_a_process(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    assert file_owner(fd) == expected(fd, OwnerKind.PROCESS, os.getpid())


def test_a_group(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
    assert file_owner(fd) == expected(fd, OwnerKind.GROUP, os.getpgrp())


@pytest.mark.parametrize("kind", list(OwnerKind))
def test_kinds(kind: OwnerKind, fd: int) -> None:
    number = {OwnerKind.THREAD: threading.get_native_id(), OwnerKind.PROCESS: os.getpid()}.get(kind, os.getpgrp())
    fcntl.fcntl(fd, F_SETOWN_EX, struct.pack("=ii", kind, number))
    assert file_owner(fd) == expected(fd, kind, number)


@pytest.mark.parametrize("number", [int(signal.SIGUSR1), int(signal.SIGRTMAX), 0])
def test_the_signal(number: int, fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, F_SETSIG, number)
    assert file_owner(fd) == expected(fd, OwnerKind.PROCESS, os.getpid(), number)


def test_none_again(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETOWN, 0)
    assert file_owner(fd) is None


def test_an_owner_that_has_ended(fd: int) -> None:
    with subprocess.Popen(["true"]) as child:
        fcntl.fcntl(fd, fcntl.F_SETOWN, child.pid)
    assert file_owner(fd) is None


def test_every_duplicate_has_the_same_owner(fd: int) -> None:
    copy = os.dup(fd)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    assert file_owner(copy) == file_owner(fd) is not None
    os.close(copy)


def test_not_a_descriptor() -> None:
    fd = os.dup(0)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        file_owner(fd)
