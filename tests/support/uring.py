"""poll through io_uring, by system calls alone: `io_uring_setup(2)`, and IORING_OP_POLL_ADD.

    ring = Ring()
    ring.poll(fd, POLLIN)       submits, and waits for what it comes to

Source: include/uapi/linux/io_uring.h. The thread that submits has to wait as well: the kernel asks on its behalf.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from types import TracebackType
from typing import Final, Self

SETUP, ENTER = 425, 426
POLL_ADD: Final = 6
GETEVENTS: Final = 1
AT_SQ, AT_CQ, AT_SQES = 0, 0x8000000, 0x10000000
PARAMS: Final = struct.Struct("=10I8IQ8IQ")
SQE: Final = struct.Struct("=BBHiQQIIQ24x")
CQE: Final = struct.Struct("=QiI")
NUMBER: Final = struct.Struct("=I")
ENTRIES: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


def uring_problem() -> str | None:
    """Why there is no io_uring here, None if there is."""
    try:
        Ring().close()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return f"io_uring: {error.strerror}"
    return None


class Ring:
    """A ring for one request at a time."""

    def __init__(self) -> None:
        params = ctypes.create_string_buffer(PARAMS.size)
        self._fd = _call(SETUP, ENTRIES, params)
        fields = PARAMS.unpack(params.raw)
        entries, cq_entries = fields[:2]
        self._sq_tail, self._sq_array = fields[11], fields[16]
        self._cq_head, self._cq_tail, self._cq_mask, self._cqes = fields[19], fields[20], cq_entries - 1, fields[24]
        self._sq_mask = entries - 1
        self._sq = self._map(AT_SQ, self._sq_array + entries * NUMBER.size)
        self._cq = self._map(AT_CQ, self._cqes + cq_entries * CQE.size)
        self._sqes = self._map(AT_SQES, entries * SQE.size)

    def poll(self, fd: int, events: int) -> int:
        """What poll(2) would say of `fd`, once there is something of `events`. Raises OSError."""
        (tail,) = NUMBER.unpack_from(self._sq, self._sq_tail)
        index = tail & self._sq_mask
        SQE.pack_into(self._sqes, index * SQE.size, POLL_ADD, 0, 0, fd, 0, 0, 0, events, 1)
        NUMBER.pack_into(self._sq, self._sq_array + index * NUMBER.size, index)
        NUMBER.pack_into(self._sq, self._sq_tail, tail + 1)
        _call(ENTER, self._fd, 1, 1, GETEVENTS, None, 0)
        (head,) = NUMBER.unpack_from(self._cq, self._cq_head)
        _, result, _ = CQE.unpack_from(self._cq, self._cqes + (head & self._cq_mask) * CQE.size)
        NUMBER.pack_into(self._cq, self._cq_head, head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return int(result)

    def close(self) -> None:
        for each in (self._sq, self._cq, self._sqes):
            each.close()
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _map(self, offset: int, size: int) -> mmap.mmap:
        return mmap.mmap(self._fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
