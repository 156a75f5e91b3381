"""Reading files under /proc and /sys, whole and again and again.

A /proc file is written by the kernel anew whenever it is read from offset 0 (fs/seq_file.c). One read gives
at most the kernel's own buffer, so a file is whole only when a read returns nothing.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType

from memnotify_cuse.kernel.errors import KernelFileGoneError

_FIRST_BUFFER_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024
# A kernel file is text, but it may quote what a user wrote (a process name). latin-1 can decode every byte.
_ENCODING = "latin-1"


def read_kernel_text(path: Path | str) -> str:
    """The whole text of a kernel file, one character per byte (latin-1). Raises KernelFileGoneError."""
    parts = []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while part := os.read(fd, _READ_BYTES):
                parts.append(part)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        raise KernelFileGoneError(str(path), _reason(error)) from error
    return str(b"".join(parts), _ENCODING)


class KernelFile:
    """A kernel file kept open and read again from its beginning by each `read_text()`.

    The buffer is reused and only ever grows, so that a reader under memory pressure asks for nothing new
    except for the string itself. Every error is a KernelFileGoneError that names the file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self._fd = -1
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise KernelFileGoneError(self.path, _reason(error)) from error

    def read_text(self) -> str:
        """Everything the kernel has to say now, one character per byte (latin-1)."""
        if self._fd < 0:
            raise KernelFileGoneError(self.path, "closed")
        length = 0
        while True:
            if length == len(self._buffer):
                self._buffer.extend(bytes(len(self._buffer)))
            try:
                with memoryview(self._buffer) as view:
                    count = os.preadv(self._fd, [view[length:]], length)
            except OSError as error:
                raise KernelFileGoneError(self.path, _reason(error)) from error
            if count == 0:
                with memoryview(self._buffer) as view:
                    return str(view[:length], _ENCODING)
            length += count

    def close(self) -> None:
        """Close the file; closing it twice does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> KernelFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)})"
    return str(error)
