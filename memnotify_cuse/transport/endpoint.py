"""Requests on open device files, whichever transport they come by: translated to calls of the device.

Both /dev/fuse and /dev/cuse speak of an open device file in the same requests (`wire`), and what a program may
expect of it is the same, so the translation stands here once. A read that finds nothing is *held*: it is an
entry in a table, not a task, so any number of blocked readers costs nothing, and the kernel's INTERRUPT ends
exactly the one whose program got a signal.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from memnotify_cuse.device.accounts import OverBoundError
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.transport import wire

READABLE = select.POLLIN | select.POLLRDNORM
OPEN_REPLY = (
    wire.OpenReply.DIRECT_IO
    | wire.OpenReply.NONSEEKABLE
    # Without STREAM the kernel holds the file position's lock during a blocked read, and a second reader of
    # the same open file sleeps on that lock where no signal reaches it.
    | wire.OpenReply.STREAM
    | wire.OpenReply.NOFLUSH
)


@dataclass(slots=True, eq=False)
class Probe:
    """How a thread of ours learns which open file a descriptor belongs to: it polls it, and the endpoint notes which.

    `thread_id` is the thread that asks (0: none), `file_number` the answer to its last poll.
    """

    thread_id: int = 0
    file_number: int | None = None


@dataclass(slots=True, eq=False)
class _Client:
    """What the kernel knows of an open file: its poll handle, and its reads that wait (unique → size)."""

    file: OpenFile
    kh: int | None = None
    held: dict[int, int] = field(default_factory=dict)


class DeviceEndpoint:
    """Serves the requests on open device files of one connection.

    `send` writes one message to the kernel; it must not block and must not raise for a request or an open file
    that is gone by now.
    """

    def __init__(
        self,
        device: Device,
        send: Callable[[bytes], None],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        probe: Probe | None = None,
    ) -> None:
        self._probe = probe or Probe()
        self._device = device
        self._send = send
        self._clock_ns = clock_ns
        self._clients: dict[int, _Client] = {}
        self._held_by: dict[int, _Client] = {}
        self._asked_to_look: set[int] = set()

    @property
    def awaits_looks(self) -> bool:
        """Whether somebody who was just woken in poll has yet to ask whether the device is readable."""
        return bool(self._asked_to_look)

    def give_up_looks(self) -> None:
        """Whoever has not asked by now is not waited for."""
        self._asked_to_look.clear()

    @property
    def held_reads(self) -> int:
        return len(self._held_by)

    def open(self, header: wire.Header, message: wire.Buffer, zone: ZoneId | None) -> None:
        """Open the device of `zone` (None: of all zones) for reading; for writing it is EACCES, whoever asks."""
        flags = wire.decode_open(message)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self._send(wire.encode_error(header.unique, errno.EACCES))
            return
        try:
            file = self._device.open(header.uid, zone, self._wake)
        except OverBoundError as error:
            code = errno.EMFILE if error.per_user else errno.ENFILE
            self._send(wire.encode_error(header.unique, code))
            return
        file.opener_tid = file.user_tid = header.pid
        self._clients[file.number] = _Client(file)
        self._send(wire.encode_open(header.unique, file.number, OPEN_REPLY))

    def handle(self, header: wire.Header, message: wire.Buffer) -> bool:
        """Answer a request on an open device file; False if it is none of those an endpoint serves."""
        match header.opcode:
            case wire.Opcode.POLL:
                self._poll(header, wire.decode_poll(message))
            case wire.Opcode.READ:
                self._read(header, wire.decode_read(message))
            case wire.Opcode.INTERRUPT:
                self._interrupt(wire.decode_interrupt(message))
            case wire.Opcode.RELEASE:
                self._release(header, wire.decode_release(message))
            case wire.Opcode.FLUSH:
                self._send(wire.encode_error(header.unique, 0))
            case _:
                return False
        return True

    def close(self) -> None:
        """Forget every open file: the connection is gone."""
        for client in self._clients.values():
            self._device.close(client.file)
        self._clients.clear()
        self._held_by.clear()
        self._asked_to_look.clear()

    def _poll(self, header: wire.Header, request: wire.PollRequest) -> None:
        client = self._clients.get(request.fh)
        if client is None:
            self._send(wire.encode_error(header.unique, errno.EBADF))
            return
        if header.pid and header.pid == self._probe.thread_id:
            self._probe.file_number = request.fh
            self._send(wire.encode_poll(header.unique, 0))
            return
        self._asked_to_look.discard(request.fh)
        client.file.user_tid = header.pid or client.file.user_tid
        readable = self._device.poll(client.file, self._clock_ns())
        if request.waiting:
            client.kh = request.kh
            self._device.watch(client.file)
        self._send(wire.encode_poll(header.unique, READABLE if readable else 0))

    def _read(self, header: wire.Header, request: wire.ReadRequest) -> None:
        client = self._clients.get(request.fh)
        if client is None:
            self._send(wire.encode_error(header.unique, errno.EBADF))
            return
        data = self._device.read(client.file, request.size_bytes, self._clock_ns())
        if data is not None:
            self._send(wire.encode_data(header.unique, data))
        elif request.flags & os.O_NONBLOCK:
            self._send(wire.encode_error(header.unique, errno.EAGAIN))
        else:
            client.held[header.unique] = request.size_bytes
            client.file.user_tid = header.pid or client.file.user_tid
            self._held_by[header.unique] = client
            self._device.watch(client.file)

    def _interrupt(self, unique: int) -> None:
        client = self._held_by.pop(unique, None)
        if client is not None:
            del client.held[unique]
            if not client.held and client.kh is None:
                self._device.unwatch(client.file)
            self._send(wire.encode_error(unique, errno.EINTR))

    def _release(self, header: wire.Header, fh: int) -> None:
        client = self._clients.pop(fh, None)
        if client is not None:
            for unique in client.held:
                del self._held_by[unique]
            self._asked_to_look.discard(fh)
            self._device.close(client.file)
        self._send(wire.encode_error(header.unique, 0))

    def _wake(self, file: OpenFile) -> None:
        """The device picked `file`: blocked reads get the record first, and who polls is woken to look."""
        client = self._clients[file.number]
        for unique, size_bytes in list(client.held.items()):
            data = self._device.read(file, size_bytes, self._clock_ns())
            if data is None:
                self._device.watch(file)
                break
            del client.held[unique], self._held_by[unique]
            self._send(wire.encode_data(unique, data))
        if client.kh is not None:
            self._asked_to_look.add(file.number)
            self._send(wire.encode_notify_poll(client.kh))
