#!/usr/bin/env python3
"""Watch /dev/mem_notify with SIGIO in a Python program: signal.set_wakeup_fd and select.

Run:     python3 sigio_wakeup_fd.py [DEVICE [COUNT]]
         DEVICE: default /dev/mem_notify; COUNT: end after so many notifications, default 0: never
Needs:   nothing but Python
Try it:  sudo memnotify simulate --for 2

The interpreter's own handler writes the number of each signal to a socket, so that an event loop wakes up for it.
Prints one line per notification: its record. Exit codes: 0 on SIGTERM, SIGINT or after COUNT notifications; 1 when the
device fails.
"""

import fcntl
import os
import select
import signal
import socket
import sys

# Nobody signals that the server is gone, so look from time to time.
LOOK_SECONDS = 5.0


def watch(device: str, count: int) -> None:
    """Print the record of each notification, until there were ``count`` (0: for ever) or a signal ends it."""
    ours, wakeup = socket.socketpair()
    for end in (ours, wakeup):
        end.setblocking(False)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    # A handler there must be, or the signal's default action is taken. It comes before the owner is set.
    for number in (signal.SIGIO, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)

    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    print(f"watching {device}", file=sys.stderr, flush=True)

    told = 0
    while not count or told < count:
        signals = ours.recv(4096) if select.select([ours], [], [], LOOK_SECONDS)[0] else b""
        if signal.SIGTERM in signals or signal.SIGINT in signals:
            return
        try:
            record = os.read(fd, 4096)
        except BlockingIOError:
            continue
        sys.stdout.write(record.decode())
        sys.stdout.flush()
        told += 1


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "/dev/mem_notify"
    try:
        watch(path, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    except OSError as error:
        sys.exit(f"{sys.argv[0]}: {path}: {error.strerror}")
