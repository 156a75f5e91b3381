"""Requests on the control file system that are answered without pyfuse3: names, attributes, and the end of open files.

Any user can ask for these as often as they like, and every open begins with them, so that they are short.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from memnotify_cuse.transport import wire
from memnotify_cuse.transport.tree import ATTR_TIMEOUT_S, BLOCK_BYTES, Node, Tree, TreeError


class DirectAnswers:
    """Answers from `tree`, over `send`. `release` forgets the open file of a text or of `simulate`."""

    def __init__(self, tree: Tree, send: Callable[[bytes], None], release: Callable[[int], None]) -> None:
        self._tree = tree
        self._send = send
        self._release = release

    def handle(self, header: wire.RequestHeader, message: wire.Buffer) -> bool:
        """Answer a request; False if it is none of those that are answered here."""
        match header.opcode:
            case wire.Opcode.LOOKUP:
                self._lookup(header, wire.decode_lookup(message))
            case wire.Opcode.GETATTR:
                self._getattr(header)
            case wire.Opcode.FORGET | wire.Opcode.BATCH_FORGET:
                # Nothing is counted, and the kernel expects no reply.
                pass
            case wire.Opcode.RELEASE:
                self._release(wire.decode_release(message))
                self._send(wire.encode_error(header.unique, 0))
            case wire.Opcode.FLUSH | wire.Opcode.RELEASEDIR:
                self._send(wire.encode_error(header.unique, 0))
            case wire.Opcode.IOCTL:
                self._send(wire.encode_error(header.unique, errno.ENOTTY))
            case wire.Opcode.STATX | wire.Opcode.ACCESS:
                # The kernel does not ask again: it takes GETATTR, and checks permissions by the mode anyway.
                self._send(wire.encode_error(header.unique, errno.ENOSYS))
            case _:
                return False
        return True

    def _lookup(self, header: wire.RequestHeader, name: bytes) -> None:
        try:
            node = self._tree.lookup(header.inode, name)
        except TreeError as error:
            self._send(wire.encode_error(header.unique, error.errno))
            return
        self._send(wire.encode_entry(header.unique, self._attributes(node), ATTR_TIMEOUT_S))

    def _getattr(self, header: wire.RequestHeader) -> None:
        try:
            node = self._tree.node(header.inode)
        except TreeError as error:
            self._send(wire.encode_error(header.unique, error.errno))
            return
        self._send(wire.encode_attributes(header.unique, self._attributes(node), ATTR_TIMEOUT_S))

    def _attributes(self, node: Node) -> wire.Attributes:
        uid, gid = self._tree.owner
        return wire.Attributes(node.inode, node.mode, node.links, uid, gid, self._tree.born_ns, BLOCK_BYTES)
