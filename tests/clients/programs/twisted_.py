"""The third argument names the reactor: epoll, poll or select."""

import sys

import client
from twisted.internet import epollreactor, pollreactor, selectreactor
from twisted.internet.error import ConnectionDone

{"epoll": epollreactor, "poll": pollreactor, "select": selectreactor}[sys.argv[3]].install()

from twisted.internet import reactor  # noqa: E402


class Device:
    fd = client.device()

    def fileno(self) -> int:
        return self.fd

    def logPrefix(self) -> str:
        return "device"

    def doRead(self) -> None:
        client.woken(self.fd)

    def connectionLost(self, reason: object) -> None:
        client.end(f"connectionLost: {getattr(reason, 'type', ConnectionDone).__name__}")


reactor.addReader(Device())
reactor.run()
