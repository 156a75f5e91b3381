"""What the programs in Python share. tests/clients/__init__.py says what they print."""

from __future__ import annotations

import errno
import os
import sys

READS = sys.argv[2] == "read"


def device(flags: int = os.O_NONBLOCK) -> int:
    """A descriptor of the device that the first argument names."""
    fd = os.open(sys.argv[1], os.O_RDONLY | os.O_CLOEXEC | flags)
    print("ready", flush=True)
    return fd


def end(said: str, error: OSError | None = None) -> None:
    """Say what was seen at the end, and end at once."""
    print("end", said, "" if error is None else errno.errorcode[error.errno or 0], flush=True)
    os._exit(0)


def name_of(revents: int) -> str:
    """What poll(2) said, but for what any answer has."""
    names = {1: "POLLIN", 2: "POLLPRI", 8: "POLLERR", 16: "POLLHUP", 32: "POLLNVAL"}
    return "|".join(name for bit, name in names.items() if revents & bit)


def woken(fd: int, revents: int = 0) -> None:
    """The loop said that the device is readable; `revents` as poll(2) has them, 0 where it does not tell."""
    over = revents & (8 | 16 | 32)
    if not READS:
        if over:
            end(name_of(revents))
        print("woken", flush=True)
        return
    try:
        text = os.read(fd, 4096).decode()
    except BlockingIOError:
        if over:
            end(name_of(revents))
        print("empty", flush=True)
    except OSError as error:
        end(name_of(revents), error)
    else:
        if not text:
            end("end of file")
        print("told", text.splitlines()[0], flush=True)
