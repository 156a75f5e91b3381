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
import sys
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import trio

from memnotify_cuse.accounts import Account, Bounds, OverBoundError, Users
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.topics import Topic
from memnotify_cuse.identify import IDENTIFY, NUMBER_BYTES
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.holdings import Holdings
from memnotify_cuse.transport.notes import FileNotes

READABLE = select.POLLIN | select.POLLRDNORM
ENDED = READABLE | select.POLLHUP | select.POLLERR
OPEN_REPLY = (
    wire.OpenReply.DIRECT_IO
    | wire.OpenReply.NONSEEKABLE
    # Without STREAM the kernel holds the file position's lock during a blocked read, and a second reader of
    # the same open file sleeps on that lock where no signal reaches it.
    | wire.OpenReply.STREAM
    | wire.OpenReply.NOFLUSH
)

END_S = 0.5
"""How long programs may take to ask, once they were woken to be told that the device ends."""

HELD_READ_BOUNDS = Bounds(total=32768, per_user=4096, root_reserve=1024)


class _HeldRead(NamedTuple):
    """A read that waits: for which open file, and how much it may get."""

    fh: int
    size_bytes: int


class DeviceEndpoint:
    """Serves the requests on open device files of one connection.

    `send` writes one message to the kernel; it must not block and must not raise for a request or an open file
    that is gone by now. `identifiers` are the threads that may learn which open file a descriptor belongs to
    (`identify`); others may come and go in it. `users` says whom a held read is counted to. `notes` keeps what the next
    server has to know; `topic_of` an inode is asked for files that the server before had no time to note.
    """

    def __init__(
        self,
        device: Device,
        send: Callable[[bytes], None],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        identifiers: Collection[int] = (),
        users: Users | None = None,
        held_read_bounds: Bounds = HELD_READ_BOUNDS,
        notes: FileNotes | None = None,
        topic_of: Callable[[int], Topic] = lambda _inode: None,
    ) -> None:
        self._notes = notes or FileNotes(None, 0, device)
        self._topic_of = topic_of
        self._ending = False
        self._all_have_looked = trio.Event()
        self._takes_in = False
        self.ends_unknown = False
        """Whether the INTERRUPT of a request that is not known ends it: it is of the server before, and lost. Not where
        the kernel sends such a request again: then its INTERRUPT comes again too, and to a poll an error is POLLERR."""
        self._identifiers = identifiers
        self._device = device
        self._send = send
        self._clock_ns = clock_ns
        # Everything by the number of the open file, which is its fh, and nothing for one that just lies there: there
        # may be tens of thousands of them.
        self._files: dict[int, OpenFile] = {}
        self._kh: dict[int, int] = {}
        self._held: dict[int, _HeldRead] = {}
        self._held_on: dict[int, dict[int, None]] = {}
        self._holdings = Holdings(Account(held_read_bounds), users or Users())
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
        return len(self._held)

    def resume(self) -> None:
        """Go on with the open files of the server before. From now on, one that is not known is taken in."""
        self._takes_in = True
        for file, kh in self._notes.resume(self._wake):
            self._files[file.number] = file
            if kh:
                self._kh[file.number] = kh
                if file.awaits_answer:
                    # It may have been killed before it could say so.
                    self._send(wire.encode_notify_poll(kh))

    def open(self, header: wire.RequestHeader, message: wire.Buffer, topic: Topic) -> None:
        """Open the device about `topic` for reading; for writing it is EACCES, whoever asks."""
        flags = wire.decode_open(message)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self._send(wire.encode_error(header.unique, errno.EACCES))
            return
        try:
            file = self._device.open(header.uid, topic, self._wake)
        except OverBoundError as error:
            code = errno.EMFILE if error.per_user else errno.ENFILE
            self._send(wire.encode_error(header.unique, code))
            return
        self._device.opened_by(file, header.pid)
        self._files[file.number] = file
        self._send(wire.encode_open(header.unique, file.number, OPEN_REPLY))
        self._notes.opened(file)

    def handle(self, header: wire.RequestHeader, message: wire.Buffer) -> bool:
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
            case wire.Opcode.IOCTL:
                self._ioctl(header, wire.decode_ioctl(message))
            case wire.Opcode.FLUSH:
                self._send(wire.encode_error(header.unique, 0))
            case _:
                return False
        return True

    async def end(self) -> None:
        """Answer every poll from now on that the device has ended, and wake those who wait, so that they ask.

        Returns once they have, after a moment in any case. POLLIN is in the answer, because there are programs that
        wake up for nothing else. A blocked read is ended by the end of the connection.
        """
        self._ending = True
        self._asked_to_look = set(self._kh)
        for kh in self._kh.values():
            self._send(wire.encode_notify_poll(kh))
        self._look_is_over()
        with trio.move_on_after(END_S):
            await self._all_have_looked.wait()

    def close(self) -> None:
        """Forget every open file: the connection is gone."""
        for file in self._files.values():
            self._device.close(file)
        for each in (self._files, self._kh, self._held, self._held_on, self._holdings, self._asked_to_look):
            each.clear()

    def _file(self, header: wire.RequestHeader, fh: int) -> OpenFile | None:
        """The open file that a request is about, None if there is none."""
        file = self._files.get(fh)
        if file is None and self._takes_in:
            # Whose it is, is not known any more; whoever uses it first will do.
            file = self._device.adopt(fh, header.uid, self._topic_of(header.inode), self._wake)
            self._device.opened_by(file, header.pid)
            self._files[fh] = file
            self._notes.taken_in(file)
        return file

    def _poll(self, header: wire.RequestHeader, request: wire.PollRequest) -> None:
        file = self._file(header, request.fh)
        if file is None:
            self._send(wire.encode_error(header.unique, errno.EBADF))
            return
        self._asked_to_look.discard(request.fh)
        self._look_is_over()
        file.user_tid = header.pid or file.user_tid
        if self._ending:
            self._send(wire.encode_poll(header.unique, ENDED))
            return
        readable = self._device.poll(file, self._clock_ns())
        if request.waiting:
            self._kh[file.number] = request.kh
            self._device.watch(file)
            self._notes.waiting(file, request.kh)
        self._send(wire.encode_poll(header.unique, READABLE if readable else 0))
        if readable:
            self._notes.told(file)

    def _read(self, header: wire.RequestHeader, request: wire.ReadRequest) -> None:
        file = self._file(header, request.fh)
        if file is None:
            self._send(wire.encode_error(header.unique, errno.EBADF))
            return
        if self._ending:
            self._send(wire.encode_error(header.unique, errno.ENOTCONN))
            return
        data = self._device.read(file, request.size_bytes, self._clock_ns())
        if data is not None:
            self._send(wire.encode_data(header.unique, data))
            if data:
                self._notes.told(file)
        elif request.flags & os.O_NONBLOCK:
            self._send(wire.encode_error(header.unique, errno.EAGAIN))
        else:
            self._hold(header, file, request.size_bytes)

    def _hold(self, header: wire.RequestHeader, file: OpenFile, size_bytes: int) -> None:
        # The kernel gives a number again only once the read that had it is over.
        self._forget_read(header.unique)
        try:
            self._holdings.take(header.unique, header.uid)
        except OverBoundError:
            self._send(wire.encode_error(header.unique, errno.EBUSY))
            return
        self._held[header.unique] = _HeldRead(file.number, size_bytes)
        self._held_on.setdefault(file.number, {})[header.unique] = None
        file.user_tid = header.pid or file.user_tid
        self._device.watch(file)
        self._notes.waiting(file, 0)

    def _let_go(self, unique: int) -> None:
        """A held read is about to be answered, or its file is gone."""
        fh = self._held.pop(unique).fh
        on_file = self._held_on[fh]
        del on_file[unique]
        if not on_file:
            del self._held_on[fh]
        self._holdings.give_back(unique)

    def _look_is_over(self) -> None:
        if self._ending and not self._asked_to_look:
            self._all_have_looked.set()

    def _ioctl(self, header: wire.RequestHeader, request: wire.IoctlRequest) -> None:
        asked = request.command == IDENTIFY and request.out_bytes >= NUMBER_BYTES
        if asked and header.pid in self._identifiers and request.fh in self._files:
            self._send(wire.encode_ioctl(header.unique, request.fh.to_bytes(NUMBER_BYTES, sys.byteorder)))
        else:
            # Never ENOSYS, after which the kernel would not ask again.
            self._send(wire.encode_error(header.unique, errno.ENOTTY))

    def _interrupt(self, unique: int) -> None:
        # To the kernel, one that was answered by now is nothing.
        if self._forget_read(unique) or self.ends_unknown:
            self._send(wire.encode_error(unique, errno.EINTR))

    def _forget_read(self, unique: int) -> bool:
        """Let go of a held read that gets no data; False if there is none of this number."""
        held = self._held.get(unique)
        if held is None:
            return False
        self._let_go(unique)
        if held.fh not in self._held_on and held.fh not in self._kh:
            self._device.unwatch(self._files[held.fh])
        return True

    def _release(self, header: wire.RequestHeader, fh: int) -> None:
        file = self._files.pop(fh, None)
        if file is not None:
            for unique in list(self._held_on.get(fh, ())):
                self._let_go(unique)
            self._kh.pop(fh, None)
            self._asked_to_look.discard(fh)
            self._look_is_over()
            self._device.close(file)
            self._notes.closed(file)
        self._send(wire.encode_error(header.unique, 0))

    def _wake(self, file: OpenFile) -> None:
        """The device picked `file`: blocked reads get the record first, and who polls is woken to look."""
        for unique in list(self._held_on.get(file.number, ())):
            data = self._device.read(file, self._held[unique].size_bytes, self._clock_ns())
            if data is None:
                self._device.watch(file)
                break
            self._let_go(unique)
            self._send(wire.encode_data(unique, data))
        self._notes.told(file)
        kh = self._kh.get(file.number)
        if kh is not None:
            self._asked_to_look.add(file.number)
            self._send(wire.encode_notify_poll(kh))
