"""Errors inside the server, on both sides of the connection: answered with EIO, and the server goes on."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest
import trio

from memnotify_cuse.accounts import Account, Bounds, Users
from memnotify_cuse.control import Control
from memnotify_cuse.device.device import Device
from memnotify_cuse.transport import controlfs, tree, wire
from memnotify_cuse.transport.connection import Connection
from memnotify_cuse.transport.controlfs import ControlFs
from memnotify_cuse.transport.direct import DirectAnswers
from memnotify_cuse.transport.endpoint import DeviceEndpoint
from memnotify_cuse.transport.forward import Forwarder
from memnotify_cuse.transport.fuse import FuseTransport
from memnotify_cuse.transport.holdings import Holdings
from memnotify_cuse.transport.tree import Tree
from tests.transport.messages import (
    Reply,
    interrupt_request,
    open_request,
    poll_request,
    read_request,
    release_request,
    request,
)

CONTEXT = cast(pyfuse3.RequestContext, SimpleNamespace(uid=1000, pid=1))
STATUS = pyfuse3.InodeT(tree.STATUS)


class BrokenDevice(Device):
    """A device with a bug."""

    def poll(self, file: object, now_ns: int) -> bool:
        raise ZeroDivisionError("a bug")

    def read(self, file: object, size: int, now_ns: int) -> bytes | None:
        raise RuntimeError("a bug")


class BrokenControl(Control):
    """A control with a bug in everything."""

    def __init__(self) -> None:
        pass

    def _broken(self, *args: object) -> Any:  # noqa: ANN401
        raise KeyError("a bug")

    zones = status = server = zoneinfo = _broken
    status_version = server_version = zoneinfo_version = lambda self: 0
    simulate = _broken  # type: ignore[assignment]


def control_fs(control: Control | None = None) -> ControlFs:
    control = control or BrokenControl()
    account = Account(Bounds(total=100, per_user=10, root_reserve=10))
    return ControlFs(control, Tree(control.zones), Holdings(account, Users()))


class Kernel:
    """The other end of a FuseTransport that has no mount and no pyfuse3."""

    def __init__(self, device: Device) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sockets = (self._ours, theirs)
        for each in self._sockets:
            each.setblocking(False)
        transport = object.__new__(FuseTransport)
        transport._state = None
        transport._connection = Connection(theirs.fileno(), transport.dispatch)
        send = transport._connection.send
        transport._control_fs = control_fs()
        transport._tree = transport._control_fs._tree
        transport._direct = DirectAnswers(transport._tree, send, transport._control_fs.forget_open_file)
        transport._endpoint = DeviceEndpoint(device, send)
        transport._forwarder = Forwarder(send, Users())
        self.forwarded = transport._forwarder.theirs
        self.forwarded.setblocking(False)
        self._transport = transport

    def asks(self, message: bytes) -> Reply | None:
        """What the server answers, None if nothing."""
        self._transport._connection.receive(memoryview(message))
        try:
            return Reply.parse(self._ours.recv(65536))
        except BlockingIOError:
            return None

    def close(self) -> None:
        self._transport._forwarder.close()
        for each in (*self._sockets, self.forwarded):
            each.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel(BrokenDevice(4))
    yield kernel
    kernel.close()


def opened(kernel: Kernel) -> int:
    reply = kernel.asks(open_request(inode=tree.DEVICE))
    assert reply is not None
    assert reply.error == 0
    return reply.number(0, 8)


def test_a_bug_in_the_device_is_eio_and_the_next_request_is_served(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    fh = opened(kernel)
    assert kernel.asks(poll_request(fh, unique=5)) == Reply(5, errno.EIO, b"")
    assert kernel.asks(read_request(fh, unique=6)) == Reply(6, errno.EIO, b"")
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "answered with EIO" in caplog.text
    assert kernel.asks(release_request(fh, unique=7)) == Reply(7, 0, b"")


def test_a_request_on_the_device_that_is_too_short_is_eio(kernel: Kernel) -> None:
    opened(kernel)
    for opcode in (wire.Opcode.POLL, wire.Opcode.READ, wire.Opcode.RELEASE):
        assert kernel.asks(request(opcode, b"", unique=5)) == Reply(5, errno.EIO, b"")


def test_an_interrupt_that_is_too_short_is_not_answered(kernel: Kernel) -> None:
    assert kernel.asks(request(wire.Opcode.INTERRUPT, b"")) is None
    assert kernel.asks(interrupt_request(5)) is None


@pytest.mark.parametrize("message", [b"", b"\0" * 39, b"\xff" * 40, request(1, b"")[:-1]])
def test_a_message_that_is_none_is_logged_and_dropped(
    message: bytes, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    assert kernel.asks(message) is None
    assert "was not understood" in caplog.text


def test_what_is_not_about_the_device_is_passed_on_unchanged(kernel: Kernel) -> None:
    for message in (
        open_request(inode=STATUS),
        request(17, b"", inode=tree.ROOT),
        request(22, b"user.none\0", inode=tree.DEVICE),
        request(26, bytes(64), inode=0),
    ):
        assert kernel.asks(message) is None
        assert kernel.forwarded.recv(65536) == message


def test_a_message_too_large_to_be_passed_on_is_einval(kernel: Kernel) -> None:
    message = request(16, bytes(1 << 17), unique=5, inode=tree.SIMULATE)
    assert kernel.asks(message) == Reply(5, errno.EINVAL, b"")
    with pytest.raises(BlockingIOError):
        kernel.forwarded.recv(65536)


class TestControlFs:
    """The handlers that pyfuse3 calls: anything but FUSEError would end its main loop."""

    @pytest.mark.parametrize("inode", [tree.STATUS, tree.SERVER, tree.ZONEINFO])
    def test_a_bug_in_a_text_is_eio(self, inode: pyfuse3.InodeT, caplog: pytest.LogCaptureFixture) -> None:
        fs = control_fs()
        with pytest.raises(pyfuse3.FUSEError) as failed:
            trio.run(fs.open, inode, 0, CONTEXT)
        assert failed.value.errno == errno.EIO
        assert "unexpected error in open" in caplog.text

    def test_a_bug_in_a_simulation_is_eio(self) -> None:
        fs = control_fs()

        async def simulate() -> None:
            info = await fs.open(pyfuse3.InodeT(tree.SIMULATE), pyfuse3.FlagT(1), CONTEXT)
            await fs.write(info.fh, 0, b"all 1")

        with pytest.raises(pyfuse3.FUSEError) as failed:
            trio.run(simulate)
        assert failed.value.errno == errno.EIO

    def test_a_bug_in_a_listing_is_eio(self) -> None:
        fs = control_fs()
        with pytest.raises(pyfuse3.FUSEError) as failed:
            trio.run(fs.readdir, pyfuse3.FileHandleT(tree.ZONES), 0, cast(pyfuse3.ReaddirToken, None))
        assert failed.value.errno == errno.EIO

    def test_an_error_that_is_meant_is_passed_on(self) -> None:
        fs = control_fs()
        with pytest.raises(pyfuse3.FUSEError) as failed:
            trio.run(fs.readdir, pyfuse3.FileHandleT(tree.STATUS), 0, cast(pyfuse3.ReaddirToken, None))
        assert failed.value.errno == errno.ENOTDIR

    def test_a_bug_is_logged_with_its_place_once_and_then_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        """Any user can open the file as often as they like, and a traceback is long."""
        fs = control_fs()
        for _ in range(150):
            with pytest.raises(pyfuse3.FUSEError):
                trio.run(fs.open, STATUS, 0, CONTEXT)
        assert caplog.text.count("Traceback") == 1
        assert [record.getMessage().partition("EIO")[2][:12] for record in caplog.records] == [
            "",
            ": 10 times b",
            ": 100 times ",
        ]

    def test_an_open_that_failed_is_not_counted_as_an_open_file(self) -> None:
        fs = control_fs()
        for _ in range(20):
            with pytest.raises(pyfuse3.FUSEError) as failed:
                trio.run(fs.open, STATUS, 0, CONTEXT)
            assert failed.value.errno == errno.EIO

    def test_every_handler_is_guarded_or_cannot_fail(self) -> None:
        """A handler that is added later has to be added to the guarded ones, too."""
        own = {name for name, value in vars(ControlFs).items() if not name.startswith("_") and callable(value)}
        assert own - set(controlfs._HANDLERS) == {"fsync", "forget_open_file", "forget_open_files"}

    def test_poll_is_implemented(self) -> None:
        """The default, ENOSYS, would make the kernel call every file of the mount always readable."""
        fs = control_fs()
        assert trio.run(fs.poll, STATUS, pyfuse3.FileHandleT(1), None, CONTEXT) == controlfs.READY
