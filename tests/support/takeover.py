"""A server that is killed, or hangs, under programs that must not notice."""

from __future__ import annotations

import os
import signal

from tests.support.mounted import LIMIT_S, facts, wait_until
from tests.support.server import Server

REPLACED = ("another one takes its place", "the server was silent for")
"""What the keeper says when it replaces a server."""


def server_pid(server: Server) -> int:
    """The process that answers requests: not the one that was started, which keeps the connections."""
    return int(facts(server)["server_pid"])


def replace(server: Server, number: int = signal.SIGKILL) -> int:
    """Send a signal to the process that answers; return once another one does: its id."""
    before = server_pid(server)
    os.kill(before, number)
    return wait_for_another(server, before)


def wait_for_another(server: Server, before: int) -> int:
    """Return once another process answers than `before`: its id. Asking waits until somebody answers."""
    wait_until(lambda: server_pid(server) != before, "another server", limit_s=LIMIT_S)
    return server_pid(server)


def zone_line(server: Server, zone: str) -> dict[str, str]:
    """What `status` says of a zone, but for its amounts and its level, which are those of this moment."""
    node, name = zone.removeprefix("node").split("-")
    line = next(line for line in server.status().splitlines() if line.startswith(f"node={node} zone={name} "))
    words = dict(word.split("=") for word in line.split())
    return {key: words[key] for key in ("status", "raised", "reason", "time_ns")}
