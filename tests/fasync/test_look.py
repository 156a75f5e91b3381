"""Telling our files from others by what the kernel prints, and looking at processes: real files and descriptors.

Files of a folder stand in for those of the device, which only a server's own helpers may ask for their numbers: that is
in tests/conformance.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.fasync import look
from memnotify_cuse.fasync.attention import UNKNOWN_UID, Attention, make_page
from memnotify_cuse.fasync.look import INODES, LeftOutError, Looker, Process, RefusedError, Sight, by_device, by_inode
from memnotify_cuse.keeper.children import fork
from memnotify_cuse.kernel.capabilities import become_user
from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.fdinfo import fdinfo_has_inodes
from memnotify_cuse.kernel.statx import FileId, file_id
from tests.support.mounted import LIMIT_S, NOBODY
from tests.support.sigio import as_root

FIRST = 0x12_3456_789A_0000


@pytest.fixture
def attention() -> Iterator[Attention]:
    page = make_page()
    with closing(Attention(page)) as each:
        os.close(page)
        yield each


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """A descriptor of a file on another file system."""
    ends = os.pipe()
    yield ends[0]
    for fd in ends:
        os.close(fd)


def sees(sight: Sight, pid: int, descriptor: int) -> bool:
    with sight(pid) as may_be_ours:
        return may_be_ours(descriptor)


def process_of(looker: Looker, tid: int) -> Process:
    with looker.into(tid) as view:
        return view.process


def write_fdinfo(proc: Path, inode: int) -> None:
    folder = proc / "100/fdinfo"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "7").write_text(f"pos:\t0\nflags:\t0100000\nmnt_id:\t64\nino:\t{inode}\n")


class TestByInode:
    @pytest.mark.skipif(not fdinfo_has_inodes(), reason="this kernel prints no inodes (before 5.14)")
    def test_a_real_descriptor(self, file: int, elsewhere: int) -> None:
        inode = os.fstat(file).st_ino
        assert sees(by_inode(inode - 1), os.getpid(), file)
        # Two new files of one file system have inodes beside each other.
        assert sees(by_inode(inode - 1), os.getpid(), elsewhere) == (0 <= os.fstat(elsewhere).st_ino - inode < INODES)
        assert not sees(by_inode(FIRST), os.getpid(), file)

    @pytest.mark.parametrize(
        ("inode", "ours"),
        [
            (FIRST + 1, True),
            (FIRST + INODES - 1, True),
            (FIRST, False),
            (FIRST - 1, False),
            (FIRST + INODES, False),
            (FIRST << 1, False),
            (1, False),
        ],
    )
    def test_all_of_ours_are_above_the_first(self, inode: int, ours: bool, tmp_path: Path) -> None:
        write_fdinfo(tmp_path, inode)
        assert sees(by_inode(FIRST, tmp_path), 100, 7) == ours

    @given(st.integers(1, INODES - 1), st.integers(0, 2**40 - 1))
    def test_what_a_32_bit_kernel_makes_of_them(self, number: int, random: int) -> None:
        """fuse_squash_ino(): ino ^ ino >> 32."""
        first = random << 16
        inode = first + number
        folded = (inode ^ inode >> 32) & 0xFFFFFFFF
        with tempfile.TemporaryDirectory() as proc:
            write_fdinfo(Path(proc), folded)
            assert sees(by_inode(first, Path(proc), fold=True), 100, 7)

    def test_a_descriptor_that_is_closed(self, file: int) -> None:
        with by_inode(FIRST)(os.getpid()) as may_be_ours, pytest.raises(FileNotFoundError):
            may_be_ours(1_000_000)

    def test_a_process_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), by_inode(FIRST, tmp_path)(4711):
            pass


class TestByDevice:
    def test_a_real_descriptor(self, file: int, elsewhere: int) -> None:
        sight = by_device({file_id(file)})
        assert sees(sight, os.getpid(), file)
        assert not sees(sight, os.getpid(), elsewhere)

    def test_a_character_device_is_told_by_its_number(self) -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        zero = os.open("/dev/zero", os.O_RDONLY)
        try:
            sight = by_device({FileId(True, 1, 3)})
            assert sees(sight, os.getpid(), null)
            assert not sees(sight, os.getpid(), zero)
        finally:
            os.close(null)
            os.close(zero)


class TestStatus:
    @pytest.fixture
    def looker(self, attention: Attention) -> Looker:
        return Looker(set(), by_device(set()), attention)

    def test_the_process_of_a_thread(self, looker: Looker) -> None:
        found: list[Process] = []
        thread = threading.Thread(target=lambda: found.append(process_of(looker, threading.get_native_id())))
        thread.start()
        thread.join()
        assert (found[0].pid, found[0].uid) == (os.getpid(), os.getuid())

    def test_who_is_touched_is_noted_before_and_after(self, looker: Looker, attention: Attention) -> None:
        looker.status(os.getpid())
        assert attention.read()[:2] == (os.getpid(), os.getuid())
        looker.leave()
        assert attention.read().pid == 0

    def test_a_process_that_is_gone(self, attention: Attention, tmp_path: Path) -> None:
        looker = Looker(set(), by_device(set()), attention, tmp_path)
        with pytest.raises(KernelFileGoneError):
            process_of(looker, 4711)
        assert attention.read()[:2] == (4711, UNKNOWN_UID), "whoever is asked may not answer"

    @pytest.mark.parametrize("text", ["", "Name:\tx\nTgid:\t100\nUid:\t1\t1\t1\t1\n"])
    def test_a_status_that_is_malformed(self, text: str, attention: Attention, tmp_path: Path) -> None:
        (tmp_path / "100").mkdir()
        (tmp_path / "100/status").write_text(text)
        with pytest.raises(MalformedKernelFileError):
            process_of(Looker(set(), by_device(set()), attention, tmp_path), 100)


class TestLeftOut:
    @pytest.fixture
    def looker(self, attention: Attention) -> Looker:
        return Looker(set(), by_device(set()), attention)

    @as_root
    def test_a_user_s_processes_all_of_them(self, looker: Looker) -> None:
        with ExitStack() as stack:
            theirs = [stack.enter_context(subprocess.Popen(["sleep", "1000"], user=NOBODY)) for _ in range(2)]
            for each in theirs:
                stack.callback(each.kill)
                looker.status(each.pid)
            looker.left_out = {NOBODY}
            for each in theirs:
                with pytest.raises(LeftOutError):
                    looker.status(each.pid)
            looker.status(os.getpid())
            looker.left_out = set()
            process_of(looker, theirs[0].pid)

    @as_root
    def test_of_root_s_processes_the_one(self, looker: Looker) -> None:
        with subprocess.Popen(["sleep", "1000"]) as child:
            looker.left_out = {-child.pid}
            with pytest.raises(LeftOutError):
                process_of(looker, child.pid)
            process_of(looker, os.getpid())
            child.kill()

    @as_root
    def test_a_thread_of_root_s_is_one_of_its_process(self, looker: Looker) -> None:
        looker.left_out = {-os.getpid()}
        errors: list[bool] = []

        def ask() -> None:
            try:
                process_of(looker, threading.get_native_id())
            except LeftOutError:
                errors.append(True)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        assert errors == [True]


class TestView:
    """What is duplicated, and closed again."""

    @pytest.fixture
    def looker(self, attention: Attention, file: int, monkeypatch: pytest.MonkeyPatch) -> Looker:
        # The number of an open file is the server's to say.
        monkeypatch.setattr(look, "identify", lambda fd: os.fstat(fd).st_ino)
        devices = {file_id(file)}
        return Looker(devices, by_device(devices), attention)

    def test_a_descriptor_of_ours(self, looker: Looker, file: int) -> None:
        with looker.into(os.getpid()) as view, view.at(file) as here:
            assert here is not None
            assert (here.number, here.pid, here.descriptor) == (os.fstat(file).st_ino, os.getpid(), file)
            assert here.fd != file
            fcntl.fcntl(here.fd, fcntl.F_SETOWN, os.getpid())
        assert fcntl.fcntl(file, fcntl.F_GETOWN) == os.getpid(), "it was the same open file"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(here.fd)

    def test_what_is_not_ours_is_not_duplicated(
        self, looker: Looker, elsewhere: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(look, "get_descriptor", lambda *_: pytest.fail("it was duplicated"))
        with looker.into(os.getpid()) as view:
            for descriptor in (elsewhere, 1_000_000):
                with view.at(descriptor) as here:
                    assert here is None

    def test_one_that_was_exchanged_after_it_was_seen_is_closed_without_a_question(
        self, attention: Attention, file: int, elsewhere: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """dup2 in a loop: what came instead may be on a file system that does not answer."""
        monkeypatch.setattr(look, "identify", lambda _fd: pytest.fail("it was asked"))
        sight = by_device({file_id(file), file_id(elsewhere)})
        looker = Looker({file_id(file)}, sight, attention)
        before = set(os.listdir("/proc/self/fd"))
        with looker.into(os.getpid()) as view, view.at(elsewhere) as here:
            assert here is None
        assert set(os.listdir("/proc/self/fd")) == before

    def test_a_process_that_has_ended(self, looker: Looker) -> None:
        with subprocess.Popen(["true"]) as child:
            pass
        with pytest.raises(KernelFileGoneError), looker.into(child.pid):
            pass

    def test_a_process_that_ends_while_it_is_looked_at(self, looker: Looker) -> None:
        with subprocess.Popen(["sleep", "1000"]) as child, looker.into(child.pid) as view:
            child.kill()
            child.wait(LIMIT_S)
            with view.at(0) as here:
                assert here is None

    @as_root
    @pytest.mark.parametrize("kind", ["device", "inode"])
    def test_a_process_that_we_may_not_look_at(self, kind: str, attention: Attention, file: int) -> None:
        devices = {file_id(file)}
        sight = by_device(devices) if kind == "device" else by_inode(os.fstat(file).st_ino - 1)
        looker = Looker(devices, sight, attention)
        root_s = os.getpid()

        def as_nobody() -> int:
            become_user(NOBODY, NOBODY)
            try:
                with looker.into(root_s) as view, view.at(file):
                    return 1
            except RefusedError:
                return 0

        child = fork("as-nobody", as_nobody)
        assert child.reap(LIMIT_S)
        assert child.code == 0


def test_a_file_that_is_not_on_a_server_of_ours_has_no_number(file: int, elsewhere: int) -> None:
    assert look.identify(file) is None
    assert look.identify(elsewhere) is None
