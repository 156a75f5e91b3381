"""The parent of the SIGIO helpers: forks them, and ends those that a client holds up. It touches no client itself.

It has in memory what a helper needs, so that one more takes a millisecond and little memory. Words on its channel with
the server:

    helper              one more is wanted; answered by `helper PID`, with the descriptors of its socket, its page of
                        attention (`attention`) and the counter of what it has done, or by `no-helper`
    replace PID         that helper is held up: kill it; answered by `gone PID` once it has ended

A helper that not even SIGKILL ends, since it waits for a file system that a client serves, is left behind. There are at
most `MAX_ABANDONED` of those: after that there are no new helpers until one of them has ended.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final

from memnotify_cuse.fasync import helper
from memnotify_cuse.fasync.attention import Attention, make_page
from memnotify_cuse.fasync.look import Looker, Sight, by_device, by_inode
from memnotify_cuse.keeper.channel import Channel
from memnotify_cuse.keeper.children import Child, fork
from memnotify_cuse.keeper.rights import BY_DEVICE, FORKER, Identity, reduce_child
from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.capabilities import Capability, die_with_parent, keep_only
from memnotify_cuse.kernel.statx import FileId
from memnotify_cuse.logstream import log_to_stderr

log = logging.getLogger(__name__)

MAX_WORKING: Final = 8
"""More than the server asks for, unless it was taken over."""
MAX_ABANDONED: Final = 16
"""Each is in the hands of another user: whose process held up a helper is left out for longer each time."""


class Forker:
    """The helpers, for the server at the other end of `channel`. `looker(attention)` is what one looks with, `rights`
    what it may do, `mount` the path of the control file system.
    """

    def __init__(
        self,
        channel: Channel,
        looker: Callable[[Attention], Looker],
        rights: Collection[Capability],
        mount: str | None = None,
    ) -> None:
        self._mount = mount
        self._channel = channel
        self._looker = looker
        self._rights = rights
        self._working: dict[int, Child] = {}
        self._ending: list[Child] = []
        self._refused = False

    def run(self) -> int:
        """Until the server closes the channel."""
        while True:
            poll = select.poll()
            poll.register(self._channel.fileno(), select.POLLIN)
            for child in (*self._working.values(), *self._ending):
                poll.register(child.fileno(), select.POLLIN)
            poll.poll()
            try:
                while (message := self._channel.receive()) is not None:
                    word, rest, fds = message
                    for fd in fds:
                        os.close(fd)
                    self._heed(word, rest)
            except EOFError:
                break
            self._reap()
        # They end with this process (die_with_parent).
        return 0

    def _heed(self, word: str, rest: str) -> None:
        if word == "helper":
            self._start()
        elif word == "replace" and rest.isdecimal():
            child = self._working.pop(int(rest), None)
            if child is not None:
                child.kill()
                self._ending.append(child)
                self._reap()

    def _start(self) -> None:
        """Start a helper, and send it to the server; or say that there is none to be had."""
        self._reap()
        if len(self._ending) >= MAX_ABANDONED:
            self._refuse(f"{len(self._ending)} SIGIO helpers hang and cannot be ended; no more are started")
        elif len(self._working) >= MAX_WORKING:
            self._refuse(f"{len(self._working)} SIGIO helpers are at work; no more are started")
        else:
            try:
                self._fork()
                self._refused = False
            except OSError as error:
                self._refuse(f"no SIGIO helper can be started: {error.strerror}")

    def _refuse(self, why: str) -> None:
        """Say so once, until one could be started."""
        if not self._refused:
            log.error("%s", why)
        self._refused = True
        self._channel.send("no-helper")

    def _fork(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        page = make_page()
        done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        parent = os.getpid()

        def help_the_server() -> int:
            self._channel.close()
            ours.close()
            _lock_memory()
            keep_only(self._rights)
            die_with_parent(parent, signal.SIGKILL)
            return helper.run(theirs, self._looker(Attention(page)), self._mount, done)

        try:
            child = fork("memnotify-sigio", help_the_server)
            self._working[child.pid] = child
            self._channel.send("helper", str(child.pid), (ours.fileno(), page, done))
        finally:
            ours.close()
            theirs.close()
            os.close(page)
            os.close(done)

    def _reap(self) -> None:
        self._working = {pid: child for pid, child in self._working.items() if not child.reap(0.0)}
        for child in [child for child in self._ending if child.reap(0.0)]:
            self._ending.remove(child)
            self._channel.send("gone", str(child.pid))


def run(channel: Channel, keeper_pid: int, told: Iterable[str], identity: Identity | None) -> int:
    """Serve as the parent of helpers, with the rights of one.

    `told` are lines: "device KIND MAJOR MINOR", a `FileId`, and "inodes FIRST", where our files can be told by inode;
    "mount PATH", the control file system.
    """
    log_to_stderr("warning")
    devices: set[FileId] = set()
    sight: Sight | None = None
    mount: str | None = None
    for line in told:
        word, _, rest = line.partition(" ")
        if word == "device":
            kind, major, minor = map(int, rest.split())
            devices.add(FileId(bool(kind), major, minor))
        elif word == "inodes":
            sight = by_inode(int(rest))
        elif word == "mount":
            mount = rest
    rights = FORKER if sight is not None else FORKER | BY_DEVICE
    reduce_child(identity, rights)
    die_with_parent(keeper_pid, signal.SIGKILL)
    # What is in memory by now stays shared with the helpers.
    gc.collect()
    gc.freeze()
    gc.disable()
    looker = partial(Looker, devices, sight or by_device(devices))
    return Forker(channel, looker, rights - {Capability.IPC_LOCK}, mount).run()


def _lock_memory() -> None:
    """A helper is needed when memory is short."""
    try:
        libc.lock_memory()
    except OSError as error:
        log.debug("a SIGIO helper is not locked into memory: %s", error.strerror)
