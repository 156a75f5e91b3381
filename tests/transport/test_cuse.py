"""The CUSE transport on a socket in place of /dev/cuse, which few machines have; the guest tier has the real one."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.cuse import CuseTransport

HEADER = struct.Struct("=IIQQIIIHH")
CUSE_INIT = 4096
LIMIT_S = 10
ZONE = ZoneState(ZoneId(0, "Normal"), 1, free_pages=1, high_pages=9, reserve_pages=0, reason="anon_scan")


def read_body(fh: int) -> bytes:
    """A blocking read."""
    return struct.pack("=QQIIQII", fh, 0, 4096, 0, 0, 0, 0)


class Kernel:
    """The other end: sends requests, receives replies."""

    def __init__(self) -> None:
        self.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        theirs.setblocking(False)
        self.fd = theirs.detach()
        self._unique = 0

    def send(self, opcode: int, body: bytes = b"", *, length: int | None = None, unique: int | None = None) -> int:
        if unique is None:
            self._unique += 2
            unique = self._unique
        size = HEADER.size + len(body) if length is None else length
        self.end.send(HEADER.pack(size, opcode, unique, 0, 0, 0, 4711, 0, 0) + body)
        return unique

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
async def serving(
    device: Device | None = None,
    *,
    on_made: Callable[[], object] = lambda: None,
    on_flood: Callable[[bool], None] = lambda _flooded: None,
) -> AsyncIterator[Kernel]:
    kernel = Kernel()
    transport = CuseTransport("mem_notify_test", kernel.fd, device or Device(page_kb=4), on_flood=on_flood)
    transport.on_made = on_made
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.serve)
            yield kernel
            nursery.cancel_scope.cancel()
    finally:
        os.close(kernel.fd)
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


def test_who_waits_for_the_device_hears_that_the_kernel_makes_it() -> None:
    made: list[bool] = []

    async def main() -> None:
        async with serving(on_made=lambda: made.append(True)) as kernel:
            await kernel.open()
            assert made == []
            await kernel.ask(CUSE_INIT, struct.pack("=IIII", 7, 36, 0, 1))
            assert made == [True]

    trio.run(main)


def test_open_poll_read_release() -> None:
    async def main() -> None:
        device = Device(page_kb=4)
        async with serving(device) as kernel:
            fh = await kernel.open()
            assert device.open_files == 1
            poll = struct.pack("=QQII", fh, 99, wire.POLL_SCHEDULE_NOTIFY, select.POLLIN)
            assert await kernel.ask(wire.Opcode.POLL, poll) == (0, struct.pack("=II", 0, 0))
            device.notified((ZONE,), 1)
            assert await kernel.receive() == (0, -wire.NOTIFY_POLL, struct.pack("=Q", 99))
            _, revents = await kernel.ask(wire.Opcode.POLL, poll)
            assert struct.unpack("=II", revents)[0] == select.POLLIN | select.POLLRDNORM
            error, record = await kernel.ask(wire.Opcode.READ, read_body(fh))
            assert (error, record[:12]) == (0, b"node=0 zone=")
            assert await kernel.ask(wire.Opcode.RELEASE, struct.pack("=QIIQ", fh, 0, 0, 0)) == (0, b"")
            assert device.open_files == 0

    trio.run(main)


def test_a_blocked_read_is_ended_by_interrupt() -> None:
    async def main() -> None:
        async with serving() as kernel:
            fh = await kernel.open()
            blocked = kernel.send(wire.Opcode.READ, read_body(fh))
            kernel.send(wire.Opcode.INTERRUPT, struct.pack("=Q", blocked))
            assert await kernel.receive() == (blocked, errno.EINTR, b"")

    trio.run(main)


def test_a_number_that_the_kernel_gives_again_is_that_of_the_new_read() -> None:
    async def main() -> None:
        device = Device(page_kb=4)
        async with serving(device) as kernel:
            old, new = await kernel.open(), await kernel.open()
            for fh in (old, new):
                kernel.send(wire.Opcode.READ, read_body(fh), unique=1000)
            # Neither the end of the one nor a notification finds two of them.
            assert await kernel.ask(wire.Opcode.RELEASE, struct.pack("=QIIQ", old, 0, 0, 0)) == (0, b"")
            assert device.watchers == 1
            device.notified((ZONE,), 1)
            unique, error, record = await kernel.receive()
            assert (unique, error, record[:12]) == (1000, 0, b"node=0 zone=")
            assert await kernel.ask(wire.Opcode.RELEASE, struct.pack("=QIIQ", new, 0, 0, 0)) == (0, b"")

    trio.run(main)


@pytest.mark.parametrize("opcode", [wire.Opcode.FORGET, wire.Opcode.BATCH_FORGET])
def test_a_forget_gets_no_reply(opcode: wire.Opcode) -> None:
    async def main() -> None:
        async with serving() as kernel:
            kernel.send(opcode, bytes(16))
            # The next reply is that of the open.
            assert await kernel.open() > 0

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
