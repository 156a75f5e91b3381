"""sd_notify: tells the service manager that the device can be opened, and that the server is stopping.

Protocol: one datagram to the socket named in $NOTIFY_SOCKET, see sd_notify(3). "@" stands for an abstract socket.
"""

from __future__ import annotations

import os
import socket


def notify_service(state: str) -> str | None:
    """Send `state`, such as "READY=1"; nothing happens without a service manager. What is wrong, None if nothing is."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return None
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), socket.MSG_DONTWAIT, address)
    except OSError as error:
        return f"the service manager could not be told {state}: {error.strerror}"
    return None
