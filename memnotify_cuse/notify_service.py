"""sd_notify: tells the service manager that the device can be opened, and that the server is stopping.

Protocol: one datagram to the socket named in $NOTIFY_SOCKET, see sd_notify(3). "@" stands for an abstract socket.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify_service(state: str) -> None:
    """Send `state`, such as "READY=1"; nothing happens without a service manager."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), address)
    except OSError as error:
        log.warning("the service manager could not be told %s: %s", state, error.strerror)
