"""The FUSE transport: one connection to /dev/fuse, shared by the device and pyfuse3's control file system.

    kernel ⇄ /dev/fuse ⇄ this module ⇄ endpoint    open, read, poll, interrupt, release of device files
                              ⇅
                          socketpair ⇄ pyfuse3      everything else: lookup, attributes, directories, texts

pyfuse3 speaks FUSE over a sequenced-packet socket in place of /dev/fuse (libfuse takes a connection that was
mounted for it as the mount point /dev/fd/N). The requests on device files are answered before they reach it,
because the device needs what pyfuse3's handlers are not given: the flags of the open file at the moment of the
read (a program may set O_NONBLOCK at any time), the INTERRUPT of a blocked reader, and held reads that do not each
take one of its tasks.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from functools import partial
from typing import Final

import pyfuse3
import trio

from memnotify_cuse.control import Control
from memnotify_cuse.device.device import Device
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.connection import NO_REPLY, Connection
from memnotify_cuse.transport.controlfs import ControlFs
from memnotify_cuse.transport.endpoint import DeviceEndpoint, Probe
from memnotify_cuse.transport.mount import ControlMount

MAX_FORWARDED_BYTES: Final = 64 * 1024
MAX_BACKLOG: Final = 1024
MAX_REPLY_BYTES: Final = 256 * 1024
PYFUSE3_TASKS: Final = 16


class FuseTransport:
    """Serves `mount` until it is cancelled or unmounted. One instance per process: pyfuse3 has one session."""

    def __init__(self, mount: ControlMount, device: Device, control: Control, probe: Probe | None = None) -> None:
        self._connection = Connection(mount.fd, self.dispatch)
        self._send = self._connection.send
        self._endpoint = DeviceEndpoint(device, self._send, probe=probe)
        device.on_notified.append(partial(self._connection.serve_who_was_told, self._endpoint))
        self._control_fs = ControlFs(control)
        self._backlog: deque[bytes] = deque()
        self._backlog_grew = trio.Event()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        # libfuse closes the descriptor that it is given.
        pyfuse3.init(self._control_fs, f"/dev/fd/{theirs.detach()}", set())

    async def serve(self) -> None:
        """Serve requests; returns when the file system is unmounted from outside."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pyfuse3.main, 1, PYFUSE3_TASKS)
                nursery.start_soon(self._pass_replies)
                nursery.start_soon(self._pass_backlog)
                await self._connection.serve()
                nursery.cancel_scope.cancel()
        finally:
            self._endpoint.close()
            pyfuse3.close(unmount=False)
            self._ours.close()

    def dispatch(self, header: wire.Header, message: memoryview) -> None:
        """Answer a request on a device file, hand everything else to pyfuse3."""
        if header.opcode == wire.Opcode.INTERRUPT:
            self._endpoint.handle(header, message)
        elif header.inode not in self._control_fs.device_inodes:
            self._forward(header, message)
        elif header.opcode == wire.Opcode.OPEN:
            self._endpoint.open(header, message, self._control_fs.device_inodes[header.inode])
        elif not self._endpoint.handle(header, message):
            self._forward(header, message)

    def _forward(self, header: wire.Header, message: memoryview) -> None:
        if len(message) > MAX_FORWARDED_BYTES:
            self._send(wire.encode_error(header.unique, errno.EINVAL))
        elif self._backlog:
            self._postpone(header, message)
        else:
            try:
                self._ours.send(message)
            except BlockingIOError:
                self._postpone(header, message)

    def _postpone(self, header: wire.Header, message: memoryview) -> None:
        if len(self._backlog) < MAX_BACKLOG:
            self._backlog.append(bytes(message))
            self._backlog_grew.set()
        elif header.opcode not in NO_REPLY:
            self._send(wire.encode_error(header.unique, errno.EBUSY))

    async def _pass_backlog(self) -> None:
        while True:
            await self._backlog_grew.wait()
            while self._backlog:
                await trio.lowlevel.wait_writable(self._ours)
                try:
                    self._ours.send(self._backlog[0])
                except BlockingIOError:
                    continue
                self._backlog.popleft()
            self._backlog_grew = trio.Event()

    async def _pass_replies(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._ours)
            try:
                reply = self._ours.recv(MAX_REPLY_BYTES)
            except BlockingIOError:
                continue
            if not reply:
                return
            self._send(reply)
