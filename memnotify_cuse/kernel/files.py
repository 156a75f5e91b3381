"""Reading files under /proc and /sys, whole and again and again.

A /proc file is written by the kernel anew whenever it is read from offset 0 (fs/seq_file.c). One read gives
at most the kernel's own buffer, so a file is whole only when a read returns nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from memnotify_cuse.kernel.errors import KernelFileGoneError

FOLLOW_S: Final = 1.0
"""How often an open file is compared with what its path leads to: a server's files can be mounted over at any time."""

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


def read_short_kernel_text(path: str, most_bytes: int = _FIRST_BUFFER_BYTES) -> str:
    """The same with one read, of a file that the kernel writes in one go (single_open()), shorter than `most_bytes`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return str(os.read(fd, most_bytes), _ENCODING)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        raise KernelFileGoneError(path, _reason(error)) from error


class KernelFile:
    """A kernel file kept open and read again from its beginning by each `read_text()`.

    The buffer is reused and only ever grows, so that a reader under memory pressure asks for nothing new
    except for the string itself. Every error is a KernelFileGoneError that names the file.

    The file is opened anew, by its path, when it cannot be read any more, as one of a FUSE server that was restarted
    (lxcfs), and when the path leads to another file, which is looked for once in `FOLLOW_S`. Where this process may not
    look at the path, the open file is all there is. Where the path leads nowhere any more, the open file is read on as
    long as it can be, and `gone` says why.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self._fd = -1
        self._file: tuple[int, int] | None = None
        self._closed = False
        self.gone: str | None = None
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)
        self._followed_s = time.monotonic()
        try:
            self._open()
        except (OSError, ValueError) as error:
            raise KernelFileGoneError(self.path, _reason(error)) from error

    def read_text(self) -> str:
        """Everything the kernel has to say now, one character per byte (latin-1)."""
        if self._closed:
            raise KernelFileGoneError(self.path, "closed")
        try:
            self._follow()
            try:
                return self._read()
            except OSError:
                self._open()
                return self._read()
        except OSError as error:
            raise KernelFileGoneError(self.path, _reason(error)) from error

    def _open(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._close()
        self._fd = fd
        status = os.fstat(fd)
        self._file = status.st_dev, status.st_ino

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # The descriptor is closed even if it says that its server is gone.
            with contextlib.suppress(OSError):
                os.close(fd)

    def _follow(self) -> None:
        now_s = time.monotonic()
        if now_s - self._followed_s < FOLLOW_S:
            return
        try:
            status = os.stat(self.path)
        except PermissionError:
            # The rights that the file was opened with have been given up.
            self._followed_s = now_s
            return
        except OSError as error:
            self.gone = f"{self.path}: {_reason(error)}"
            return
        self.gone = None
        if (status.st_dev, status.st_ino) != self._file:
            self._open()
        # Not earlier: a file that is gone is looked for at each read, until there is one.
        self._followed_s = now_s

    def _read(self) -> str:
        length = 0
        while True:
            if length == len(self._buffer):
                self._buffer.extend(bytes(len(self._buffer)))
            with memoryview(self._buffer) as view:
                count = os.preadv(self._fd, [view[length:]], length)
            if count == 0:
                with memoryview(self._buffer) as view:
                    return str(view[:length], _ENCODING)
            length += count

    def close(self) -> None:
        """Close the file; closing it twice does nothing."""
        self._closed = True
        self._close()

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
