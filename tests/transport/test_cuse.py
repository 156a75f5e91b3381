"""The CUSE transport on a socket in place of /dev/cuse, which few machines have; the guest tier has the real one."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.transport import cuse, wire
from memnotify_cuse.transport.cuse import CuseTransport, cuse_problem, open_cuse
from memnotify_cuse.transport.mount import MountError

HEADER = struct.Struct("=IIQQIIIHH")
CUSE_INIT = 4096
LIMIT_S = 10


class Kernel:
    """The other end: sends requests, receives replies."""

    def __init__(self) -> None:
        self.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        theirs.setblocking(False)
        self.fd = theirs.detach()
        self._unique = 0

    def send(self, opcode: int, body: bytes = b"", *, length: int | None = None) -> int:
        self._unique += 2
        size = HEADER.size + len(body) if length is None else length
        self.end.send(HEADER.pack(size, opcode, self._unique, 0, 0, 0, 4711, 0, 0) + body)
        return self._unique

    async def receive(self) -> tuple[int, int, bytes]:
        """The next reply: its unique, its error (positive), what follows the header."""
        with trio.fail_after(LIMIT_S):
            await trio.lowlevel.wait_readable(self.end)
        message = self.end.recv(1 << 16)
        length, error, unique = struct.unpack_from("=IiQ", message)
        assert length == len(message)
        return unique, -error, message[16:]

    async def ask(self, opcode: int, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request; the error (positive) and the data of its reply."""
        unique = self.send(opcode, body)
        answered, error, data = await self.receive()
        assert answered == unique
        return error, data

    async def open(self) -> int:
        error, data = await self.ask(wire.Opcode.OPEN, struct.pack("=II", os.O_RDONLY, 0))
        assert error == 0
        (fh,) = struct.unpack_from("=Q", data)
        return int(fh)


@asynccontextmanager
async def serving(device: Device | None = None) -> AsyncIterator[Kernel]:
    kernel = Kernel()
    transport = CuseTransport(Path("/dev/mem_notify_test"), kernel.fd, device or Device(page_kb=4))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.serve)
            yield kernel
            nursery.cancel_scope.cancel()
    finally:
        transport.close()
        kernel.end.close()


def test_init_names_the_device() -> None:
    async def main() -> None:
        async with serving() as kernel:
            error, data = await kernel.ask(CUSE_INIT, struct.pack("=IIII", 7, 36, 0, 1))
            assert error == 0
            major, minor, _unused, flags, max_read, max_write, dev_major, dev_minor = struct.unpack_from("=8I", data)
            assert (major, minor, flags, dev_major, dev_minor) == (7, 31, 0, 0, 0)
            assert max_read >= 4096
            assert max_write >= 4096
            assert data[72:] == b"DEVNAME=mem_notify_test\0"

    trio.run(main)


def test_an_older_kernel_is_answered_in_its_own_minor_version() -> None:
    async def main() -> None:
        async with serving() as kernel:
            _, data = await kernel.ask(CUSE_INIT, struct.pack("=IIII", 7, 23, 0, 0))
            assert struct.unpack_from("=II", data) == (7, 23)

    trio.run(main)


def test_open_poll_read_release() -> None:
    async def main() -> None:
        device = Device(page_kb=4)
        zone = ZoneState(ZoneId(0, "Normal"), 1, free_pages=1, high_pages=9, reserve_pages=0, reason="anon_scan")
        async with serving(device) as kernel:
            fh = await kernel.open()
            assert device.open_files == 1
            poll = struct.pack("=QQII", fh, 99, wire.POLL_SCHEDULE_NOTIFY, select.POLLIN)
            assert await kernel.ask(wire.Opcode.POLL, poll) == (0, struct.pack("=II", 0, 0))
            device.notified((zone,), 1)
            assert await kernel.receive() == (0, -wire.NOTIFY_POLL, struct.pack("=Q", 99))
            _, revents = await kernel.ask(wire.Opcode.POLL, poll)
            assert struct.unpack("=II", revents)[0] == select.POLLIN | select.POLLRDNORM
            error, record = await kernel.ask(wire.Opcode.READ, struct.pack("=QQIIQII", fh, 0, 4096, 0, 0, 0, 0))
            assert (error, record[:12]) == (0, b"node=0 zone=")
            assert await kernel.ask(wire.Opcode.RELEASE, struct.pack("=QIIQ", fh, 0, 0, 0)) == (0, b"")
            assert device.open_files == 0

    trio.run(main)


def test_a_blocked_read_is_ended_by_interrupt() -> None:
    async def main() -> None:
        async with serving() as kernel:
            fh = await kernel.open()
            blocked = kernel.send(wire.Opcode.READ, struct.pack("=QQIIQII", fh, 0, 4096, 0, 0, 0, 0))
            kernel.send(wire.Opcode.INTERRUPT, struct.pack("=Q", blocked))
            assert await kernel.receive() == (blocked, errno.EINTR, b"")

    trio.run(main)


@pytest.mark.parametrize(
    ("opcode", "code"),
    [(39, errno.ENOTTY), (16, errno.EINVAL), (20, errno.EINVAL), (9999, errno.EINVAL)],
    ids=["ioctl", "write", "fsync", "unknown"],
)
def test_what_the_device_does_not_do_is_refused(opcode: int, code: int) -> None:
    async def main() -> None:
        async with serving() as kernel:
            assert await kernel.ask(opcode, bytes(64)) == (code, b"")

    trio.run(main)


def test_open_for_writing_is_refused() -> None:
    async def main() -> None:
        async with serving() as kernel:
            assert await kernel.ask(wire.Opcode.OPEN, struct.pack("=II", os.O_RDWR, 0)) == (errno.EACCES, b"")

    trio.run(main)


def test_malformed_messages_are_logged_and_the_next_one_is_served(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as kernel:
            kernel.send(wire.Opcode.OPEN, struct.pack("=II", 0, 0), length=4)
            kernel.end.send(b"short")
            assert await kernel.ask(wire.Opcode.POLL, b"\1\2\3") == (errno.EIO, b"")
            assert await kernel.ask(CUSE_INIT, struct.pack("=IIII", 8, 0, 0, 0)) == (errno.EIO, b"")
            assert await kernel.open() > 0

    trio.run(main)
    assert [record.getMessage().partition(";")[0] for record in caplog.records if record.levelname == "ERROR"] == [
        "a message from the kernel was not understood",
        "unexpected error in request 40",
        "unexpected error in request 4096",
    ]


def test_a_path_outside_dev_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="needs a name directly under /dev"):
        open_cuse(tmp_path / "mem_notify")


def test_a_name_that_exists_is_refused_and_left_alone() -> None:
    with pytest.raises(MountError, match="/dev/null: exists already"):
        open_cuse(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_a_name_that_is_served_already_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuse, "SYS_CUSE", tmp_path)
    (tmp_path / "mem_notify_test").mkdir()
    with pytest.raises(MountError, match="/dev/mem_notify_test: memnotify is already serving there"):
        open_cuse(Path("/dev/mem_notify_test"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a character device")
def test_a_node_without_a_device_that_a_killed_server_left_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuse, "DEV_CUSE", "/dev/null")
    node = Path(f"/dev/memnotify-test-{os.getpid()}")
    # Major 0 is nobody's.
    os.mknod(node, stat.S_IFCHR | 0o444, os.makedev(0, 0))
    try:
        node.chmod(0o444)
        os.close(open_cuse(node))
        assert not node.exists()
    finally:
        node.unlink(missing_ok=True)


def test_without_the_module_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuse, "DEV_CUSE", str(tmp_path / "cuse"))
    with pytest.raises(MountError, match="modprobe cuse"):
        open_cuse(Path("/dev/mem_notify_test"))
    assert cuse_problem() is not None
