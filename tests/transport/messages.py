"""Requests as the kernel writes them, field by field from include/uapi/linux/fuse.h, and replies taken apart."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from memnotify_cuse.transport import wire

ORDER: Literal["little", "big"] = sys.byteorder
UID = 1000


def fields(*sizes_and_values: tuple[int, int]) -> bytes:
    """Unsigned integers of so many bytes, one after the other, in host order."""
    return b"".join(value.to_bytes(size, ORDER) for size, value in sizes_and_values)


def request(
    opcode: int, body: bytes, *, unique: int = 1, inode: int = 2, uid: int = UID, thread_id: int = 4711
) -> bytes:
    """A whole message: fuse_in_header and a body."""
    size = 40 + len(body)
    header = fields((4, size), (4, opcode), (8, unique), (8, inode), (4, uid), (4, 100), (4, thread_id), (4, 0))
    return header + body


def open_request(flags: int = 0, *, unique: int = 1, inode: int = 2, uid: int = UID) -> bytes:
    return request(14, fields((4, flags), (4, 0)), unique=unique, inode=inode, uid=uid)


def lookup_request(name: bytes, *, unique: int = 1, inode: int = 1, uid: int = UID) -> bytes:
    return request(1, name + b"\0", unique=unique, inode=inode, uid=uid)


def getattr_request(*, unique: int = 1, inode: int = 1, uid: int = UID) -> bytes:
    return request(3, bytes(16), unique=unique, inode=inode, uid=uid)


def ioctl_request(fh: int, command: int, out_bytes: int = 8, *, unique: int = 1, thread_id: int = 4711) -> bytes:
    body = fields((8, fh), (4, 0), (4, command), (8, 0), (4, 0), (4, out_bytes))
    return request(39, body, unique=unique, thread_id=thread_id)


def read_request(fh: int, size_bytes: int = 4096, flags: int = 0, *, unique: int = 1, uid: int = UID) -> bytes:
    body = fields((8, fh), (8, 0), (4, size_bytes), (4, 0), (8, 0), (4, flags), (4, 0))
    return request(15, body, unique=unique, uid=uid)


def poll_request(fh: int, kh: int = 77, *, waiting: bool = False, unique: int = 1) -> bytes:
    return request(40, fields((8, fh), (8, kh), (4, int(waiting)), (4, 1)), unique=unique)


def release_request(fh: int, *, unique: int = 1) -> bytes:
    return request(18, fields((8, fh), (4, 0), (4, 0), (8, 0)), unique=unique)


def flush_request(fh: int, *, unique: int = 1) -> bytes:
    return request(25, fields((8, fh), (4, 0), (4, 0), (8, 0)), unique=unique)


def interrupt_request(interrupted: int, *, unique: int = 1001) -> bytes:
    return request(36, fields((8, interrupted)), unique=unique, inode=0)


@dataclass(frozen=True, slots=True)
class Reply:
    """fuse_out_header, with a positive errno (0: success) or the code of a notification, and what follows it."""

    unique: int
    error: int
    body: bytes

    @classmethod
    def parse(cls, message: bytes) -> Reply:
        assert int.from_bytes(message[:4], ORDER) == len(message)
        error = int.from_bytes(message[4:8], ORDER, signed=True)
        unique = int.from_bytes(message[8:16], ORDER)
        return cls(unique, -error if unique else error, message[16:])

    def number(self, start: int, size: int) -> int:
        """An unsigned integer of the body."""
        return int.from_bytes(self.body[start : start + size], ORDER)


def header_of(message: bytes) -> wire.RequestHeader:
    return wire.decode_header(message)
