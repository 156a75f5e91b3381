"""The service manager's store of descriptors, which gives them back to the next keeper. Source: sd_notify(3)."""

from __future__ import annotations

import os

from memnotify_cuse.keeper.kept import PREFIX
from memnotify_cuse.keeper.say import say
from memnotify_cuse.notify_service import notify_service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memnotify_cuse.keeper.kept import Kept


def notify(state: str, fds: tuple[int, ...] = ()) -> None:
    """Tell the service manager, if there is one."""
    complaint = notify_service(state, fds)
    if complaint is not None:
        say(f"WARNING: {complaint}")


class Store:
    """What the service manager keeps. `names` are those it was given, or has given back."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.is_there = "NOTIFY_SOCKET" in os.environ

    def put(self, kept: Kept) -> None:
        """Have it keep what it does not have yet."""
        for name, fd in kept.named().items():
            if name not in self.names:
                self.names.add(name)
                # Not polled: a manager that does so is woken by every request of a program.
                notify(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", (fd,))

    def remove(self, name: str) -> None:
        """It is to let go of one."""
        if PREFIX + name in self.names:
            self.names.remove(PREFIX + name)
            notify(f"FDSTOREREMOVE=1\nFDNAME={PREFIX}{name}")

    def remove_all(self) -> None:
        """It is to let go of them."""
        for name in self.names:
            notify(f"FDSTOREREMOVE=1\nFDNAME={name}")
        self.names = set()
