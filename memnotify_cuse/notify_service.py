"""sd_notify: tells the service manager what the service is doing, and has it keep descriptors.

Protocol: one datagram to the socket named in $NOTIFY_SOCKET, see sd_notify(3). "@" stands for an abstract socket.
"""

from __future__ import annotations

import array
import os
import socket


def notify_service(state: str, fds: tuple[int, ...] = ()) -> str | None:
    """Send `state`, such as "READY=1"; nothing happens without a service manager. What is wrong, None if nothing is."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            if fds:
                # Not send_fds(), which forgets the address and the flags (Python 3.11).
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                channel.sendmsg([state.encode()], rights, socket.MSG_DONTWAIT, _path_of(address))
            else:
                channel.sendto(state.encode(), socket.MSG_DONTWAIT, _path_of(address))
    except OSError as error:
        return f"the service manager could not be told {state.splitlines()[0]}: {error.strerror}"
    return None


def watchdog_s() -> float | None:
    """How often the service manager wants to hear from this process; None if it does not."""
    interval, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    return int(interval) / 1e6 if interval.isdecimal() and pid == str(os.getpid()) else None


def _path_of(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address
