"""The FUSE transport: one connection to /dev/fuse, shared by the device and pyfuse3's control file system.

    kernel ⇄ /dev/fuse ⇄ this module ⇄ endpoint              open, read, poll, interrupt, release of device files
                              ⇅      ⇄ direct                names, attributes, the end of open files
                           forward
                              ⇅
                          socketpair ⇄ pyfuse3, controlfs    everything else: directories, texts

libfuse takes a connection that was mounted for it as the mount point /dev/fd/N. The requests on device files are
answered before they reach pyfuse3, because the device needs what its handlers are not given: the flags of the open file
at the moment of the read (a program may set O_NONBLOCK at any time), the INTERRUPT of a blocked reader, and held reads
that do not each take one of its tasks. Names and attributes are, because every user may ask for them at any rate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Final

import pyfuse3
import trio

from memnotify_cuse.accounts import Account, Bounds, Users
from memnotify_cuse.control import Control
from memnotify_cuse.device.device import Device
from memnotify_cuse.keeper.statefile import StateFile
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.connection import Connection
from memnotify_cuse.transport.controlfs import ControlFs
from memnotify_cuse.transport.direct import DirectAnswers
from memnotify_cuse.transport.endpoint import DeviceEndpoint
from memnotify_cuse.transport.forward import PYFUSE3_TASKS, Forwarder
from memnotify_cuse.transport.holdings import Holdings
from memnotify_cuse.transport.notes import FUSE, FileNotes
from memnotify_cuse.transport.tree import Tree

OPEN_FILE_BOUNDS: Final = Bounds(total=32768, per_user=4096, root_reserve=1024)
"""Of the text files."""


class FuseTransport:
    """Serves the connection `fd` until it is cancelled or unmounted. One instance per process: pyfuse3 has one session.

    `identifiers` are the threads that may ask which open file a descriptor belongs to. `owner` (user and group) owns
    the files, this process unless given; `first_inode` is that of `Tree`. `on_flood` is that of `Connection`. `state`
    has what a server before this one has left, and keeps what the next one has to know.
    """

    def __init__(
        self,
        fd: int,
        device: Device,
        control: Control,
        identifiers: Collection[int] = (),
        *,
        users: Users | None = None,
        owner: tuple[int, int] | None = None,
        first_inode: int = 0,
        on_flood: Callable[[bool], None] = lambda _flooded: None,
        state: StateFile | None = None,
    ) -> None:
        self._state = state
        users = users or Users()
        holdings = Holdings(Account(OPEN_FILE_BOUNDS), users)
        open_journal = partial(state.journal, FUSE) if state is not None else None
        self._connection = Connection(fd, self.dispatch, users, on_flood, open_journal=open_journal)
        send = self._connection.send
        self._tree = Tree(
            control.zones,
            owner,
            first_inode,
            on_zone=self._note_zone,
        )
        self._endpoint = DeviceEndpoint(
            device,
            send,
            identifiers=identifiers,
            users=users,
            notes=FileNotes(state, FUSE, device),
            topic_of=self._tree.device_inodes.get,
        )
        self._control_fs = ControlFs(control, self._tree, holdings)
        self._direct = DirectAnswers(self._tree, send, self._control_fs.forget_open_file)
        self._forwarder = Forwarder(send, users, self._connection.charge)
        # libfuse closes the descriptor that it is given.
        pyfuse3.init(self._control_fs, f"/dev/fd/{self._forwarder.theirs.detach()}", set())

    @property
    def connection(self) -> Connection:
        return self._connection

    def answer_woken(self) -> None:
        """Serve those who were just woken, who are about to ask."""
        self._connection.serve_woken(self._endpoint)

    def resume(self) -> None:
        """Go on where the server before was killed, or has stopped; on a new connection there is nothing to go on with.

        The kernel asks for no second FUSE_INIT, which pyfuse3 waits for.
        """
        if self._state is not None and self._state.init_request:
            self._forwarder.replay(self._state.init_request)
            self._tree.restore(ZoneId(*zone) for zone in self._state.zones)
            self._endpoint.resume()
        self._connection.resume()
        self._endpoint.ends_unknown = self._connection.journals

    async def end(self) -> None:
        """Tell whoever waits that the device ends, before it does; `serve` must go on meanwhile."""
        await self._endpoint.end()

    def _note_zone(self, zone: ZoneId) -> None:
        if self._state is not None:
            self._state.note_zone((zone.node, zone.name))

    async def serve(self) -> None:
        """Serve requests; returns when the file system is unmounted from outside."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pyfuse3.main, 1, PYFUSE3_TASKS)
                nursery.start_soon(self._forwarder.pass_replies)
                await self._connection.serve()
                nursery.cancel_scope.cancel()
        finally:
            self._endpoint.close()
            self._control_fs.forget_open_files()
            pyfuse3.close(unmount=False)
            self._forwarder.close()

    def dispatch(self, header: wire.RequestHeader, message: memoryview) -> None:
        """Answer a request on a device file, a name or attributes, hand everything else to pyfuse3."""
        if header.opcode == wire.Opcode.INIT and self._state is not None:
            self._state.note_init(bytes(message))
        if header.inode in self._tree.device_inodes:
            if header.opcode == wire.Opcode.OPEN:
                self._endpoint.open(header, message, self._tree.device_inodes[header.inode])
                return
            if self._endpoint.handle(header, message):
                return
        elif header.opcode == wire.Opcode.INTERRUPT:
            if not self._forwarder.interrupt(wire.decode_interrupt(message)):
                self._endpoint.handle(header, message)
            return
        if not self._direct.handle(header, message):
            self._forwarder.forward(header, message)
