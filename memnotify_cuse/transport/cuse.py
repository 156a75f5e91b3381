"""The CUSE transport: a true character device, one connection to /dev/cuse for each.

    kernel ⇄ /dev/cuse ⇄ this module ⇄ endpoint

Opening /dev/cuse makes the kernel ask for CUSE_INIT; the reply names the device, and the kernel makes it, with a node
in devtmpfs (mode 0600), before the write of the reply returns. From then on an open file of the device sends the same
requests as one of FUSE, about inode 0. Closing the connection removes the device. Source: fs/fuse/cuse.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection
from functools import partial

from memnotify_cuse.accounts import Users
from memnotify_cuse.device.device import Device
from memnotify_cuse.keeper.statefile import StateFile
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.connection import NO_REPLY, Connection
from memnotify_cuse.transport.endpoint import DeviceEndpoint
from memnotify_cuse.transport.notes import CUSE, FileNotes


class CuseTransport:
    """The character device called `name`, on the connection `fd`. `on_made` is called once the kernel has made it.

    `identifiers`, `users` and `on_flood` are those of `DeviceEndpoint` and `Connection`, `state` that of
    `FuseTransport`.
    """

    def __init__(
        self,
        name: str,
        fd: int,
        device: Device,
        identifiers: Collection[int] = (),
        *,
        users: Users | None = None,
        on_flood: Callable[[bool], None] = lambda _flooded: None,
        state: StateFile | None = None,
    ) -> None:
        self._name = name
        self._state = state
        self.on_made: Callable[[], object] = lambda: None
        users = users or Users()
        open_journal = partial(state.journal, CUSE) if state is not None else None
        self._connection = Connection(fd, self._dispatch, users, on_flood, open_journal=open_journal)
        self._endpoint = DeviceEndpoint(
            device,
            self._connection.send,
            identifiers=identifiers,
            users=users,
            notes=FileNotes(state, CUSE, device),
        )

    @property
    def connection(self) -> Connection:
        return self._connection

    def answer_woken(self) -> None:
        """Serve those who were just woken, who are about to ask."""
        self._connection.serve_woken(self._endpoint)

    def resume(self) -> None:
        """Go on where the server before was killed, or has stopped; on a new connection there is nothing to do."""
        if self._state is not None and self._state.has_begun:
            self._endpoint.resume()
        self._connection.resume()
        self._endpoint.ends_unknown = self._connection.journals

    async def end(self) -> None:
        """Tell whoever waits that the device ends, before it does; `serve` must go on meanwhile."""
        await self._endpoint.end()

    async def serve(self) -> None:
        """Serve requests; returns when the kernel has ended the connection."""
        try:
            await self._connection.serve()
        finally:
            self._endpoint.close()

    def _dispatch(self, header: wire.RequestHeader, message: memoryview) -> None:
        if header.opcode == wire.Opcode.CUSE_INIT:
            self._connection.send(wire.encode_cuse_init(header.unique, wire.decode_cuse_init(message), self._name))
            self.on_made()
        elif header.opcode == wire.Opcode.OPEN:
            self._endpoint.open(header, message, None)
        elif not self._endpoint.handle(header, message) and header.opcode not in NO_REPLY:
            # Never ENOSYS, after which the kernel would not ask again.
            self._connection.send(wire.encode_error(header.unique, errno.EINVAL))
