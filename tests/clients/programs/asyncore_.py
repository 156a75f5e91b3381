"""asyncore, which was in the standard library until Python 3.11."""

import warnings

import client

warnings.simplefilter("ignore")
import asyncore  # noqa: E402


class Device(asyncore.file_dispatcher):
    def writable(self) -> bool:
        return False

    def handle_read(self) -> None:
        client.woken(self.socket.fileno())

    def handle_expt(self) -> None:
        client.woken(self.socket.fileno(), 2)

    def handle_close(self) -> None:
        client.end("handle_close")


Device(client.device())
asyncore.loop(timeout=None, use_poll=True)
