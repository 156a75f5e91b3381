"""Telling a process from others of the same id: by the inode of its pidfd, and by when it began."""

from __future__ import annotations

import os
import subprocess

import pytest

from memnotify_cuse.kernel.errors import KernelFileGoneError
from memnotify_cuse.kernel.identity import Identities, pidfds_have_inodes


def identity_of(identities: Identities, pid: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        return identities.of(pidfd, pid)
    finally:
        os.close(pidfd)


@pytest.fixture(params=[True, False], ids=["inode", "start"])
def identities(request: pytest.FixtureRequest) -> Identities:
    if request.param and not pidfds_have_inodes():
        pytest.skip("all pidfds have the same inode: before Linux 6.9")
    return Identities(by_inode=request.param)


def test_a_process_keeps_its_own(identities: Identities) -> None:
    assert identity_of(identities, os.getpid()) == identity_of(identities, os.getpid()) != 0


def test_another_process_has_another(identities: Identities) -> None:
    assert identity_of(identities, os.getpid()) != identity_of(identities, 1)


def test_one_that_has_ended_has_none_that_is_read_from_proc() -> None:
    with subprocess.Popen(["true"]) as process:
        pidfd = os.pidfd_open(process.pid)
    try:
        with pytest.raises(KernelFileGoneError):
            Identities(by_inode=False).of(pidfd, process.pid)
    finally:
        os.close(pidfd)
