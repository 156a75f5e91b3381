"""A log that never waits for its reader, and that no program can fill.

stderr may be a pipe that is not emptied, or a terminal that was stopped. A server that writes there sleeps until
its reader reads. So each line is written only if that does not wait; what cannot be written is counted, and the count
is written as soon as something can be.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import time
from typing import Final

LINES_PER_S: Final = 10
BURST_LINES: Final = 50
"""So many lines at once, and so many a second after that: clients can provoke some of them."""

LONGEST_LINE_BYTES: Final = 4096
"""PIPE_BUF: a pipe that is said to be writable takes so much without waiting."""


class LogHandler(logging.Handler):
    """Writes records to the open file `fd` without waiting, at a limited rate. Of use in processes forked from its own.

    A pipe or terminal is opened once more, non-blocking, because the flag would count for all processes that share the
    open file; to a socket it is asked for with each message. A regular file does not wait.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._given = fd
        self._fd = fd
        self._socket: socket.socket | None = None
        self._polled = False
        self._dropped = 0
        self._left = float(BURST_LINES)
        self._counted_s = time.monotonic()
        self._open(fd)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode(errors="replace")[: LONGEST_LINE_BYTES - 1] + b"\n"
        except Exception:
            self.handleError(record)
            return
        if not self._may_write() or not self._write_dropped() or not self._write(line):
            self._dropped += 1

    def write(self, line: str) -> None:
        """Write a line as it is, if that does not wait."""
        self._write(line.encode(errors="replace") + b"\n")

    def close(self) -> None:
        """Close what was opened for this handler, and not `fd`."""
        if self._socket is not None:
            self._socket.close()
        elif self._fd != self._given:
            os.close(self._fd)
            self._fd = self._given
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        """Count a record that cannot be formatted; where should it be said?"""
        self._dropped += 1

    def _open(self, fd: int) -> None:
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            return
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
        elif not stat.S_ISREG(mode):
            try:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._fd = os.open(f"/proc/self/fd/{fd}", flags)
            except OSError:
                # Another user's pipe, which we may not open. Between the question and the answer it may fill up.
                self._polled = True

    def _may_write(self) -> bool:
        now_s = time.monotonic()
        self._left = min(BURST_LINES, self._left + (now_s - self._counted_s) * LINES_PER_S)
        self._counted_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _write_dropped(self) -> bool:
        if not self._dropped:
            return True
        if not self._write(b"memnotify: WARNING: %d log lines could not be written\n" % self._dropped):
            return False
        self._dropped = 0
        return True

    def _write(self, line: bytes) -> bool:
        try:
            if self._socket is not None:
                return self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(line)
            if self._polled:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                if not poll.poll(0):
                    return False
            return os.write(self._fd, line) == len(line)
        except OSError:
            return False


def log_to_stderr(level: str) -> None:
    """Have all that is logged in this process, and in those forked from it, written to stderr as lines of ours."""
    handler = LogHandler(2)
    handler.setFormatter(logging.Formatter("memnotify: %(levelname)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A traceback of a failed write, on a stream that may wait.
    logging.raiseExceptions = False


def say(line: str) -> None:
    """Write a line to stderr that is no log record, without waiting."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.write(line)
