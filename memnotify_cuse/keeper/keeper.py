"""The keeper: the small root process that `memnotify serve` is. It starts those that do the work, and cleans up.

    keeper ── server              answers requests; holds the connections to the kernel; has no rights
         └─── parent of helpers   starts and ends them (`fasync.forker`)
                └── helper(s)     touch other processes for SIGIO; hold nothing of the connections

It answers no request and touches no client, so no client can reach it, and it holds no connection: one ends when its
last descriptor is closed, so SIGKILL of the server lets go of every client at once. It imports next to nothing, since
it stays in memory; what sets the server up does that in the server's process, before that gives up its rights
(`setup`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys

from memnotify_cuse.keeper.channel import Channel
from memnotify_cuse.keeper.children import STOP_SIGNALS, Child, fork
from memnotify_cuse.keeper.rights import lower_oom_score, raise_limits, reduce_keeper
from memnotify_cuse.keeper.undo import undo
from memnotify_cuse.kernel.mappings import drop_clean_file_pages
from memnotify_cuse.notify_service import notify_service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from memnotify_cuse.keeper.channel import Message
    from memnotify_cuse.keeper.rights import Identity

    Work = Callable[[Channel, Channel, int], int]

EXIT_OK, EXIT_DIED, EXIT_ERROR = 0, 1, 2

STOP_S = 1.0
"""How long the server may take to end; together with what else there is to end, it is less than two seconds."""
KILL_S = 0.25
MESSAGES_PER_TURN = 16
"""Of the server's, which may have been taken over: it must not keep the keeper from a signal."""


def keep(set_up: Work, serve: Work) -> int:
    """Run `set_up` and `serve` each in a child, until SIGTERM or SIGINT, or the end of the server; the exit code.

    Both are called with a channel to here, one to the other, and the id of this process. Signals are ignored from the
    end on: a second one must not change the exit code.
    """
    _have_standard_streams()
    signals = _StopSignals()
    raise_limits()
    with contextlib.suppress(OSError):
        # `set_up` sees whether it was permitted.
        lower_oom_score()
    server_channel, of_server = Channel.pair()
    setup_channel, of_setup = Channel.pair()
    to_server, from_setup = Channel.pair()
    keeper_pid = os.getpid()

    def child(work: Work, channel: Channel, other_end: Channel, *others_own: Channel) -> Callable[[], int]:
        def run() -> int:
            gc.enable()
            for each in (server_channel, setup_channel, *others_own):
                each.close()
            signals.close()
            return work(channel, other_end, keeper_pid)

        return run

    # What is in memory by now stays shared with the children: a collection would write to all of it.
    gc.collect()
    gc.freeze()
    gc.disable()
    server = fork("memnotify-serve", child(serve, of_server, from_setup, of_setup, to_server))
    setup = fork("memnotify-setup", child(set_up, of_setup, to_server, of_server, from_setup))
    for end in (of_server, of_setup, to_server, from_setup):
        end.close()
    reduce_keeper()
    drop_clean_file_pages()
    return _Keeper(server_channel, setup_channel, server, setup, signals).run()


def _have_standard_streams() -> None:
    """Have something at descriptors 0 to 2, or what is opened first would be taken for stderr, and written to."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives


class _StopSignals:
    """SIGTERM and SIGINT make `fileno()` readable."""

    def __init__(self) -> None:
        self._ours, self._kernel_s = socket.socketpair()
        self._ours.setblocking(False)
        self._kernel_s.setblocking(False)
        signal.set_wakeup_fd(self._kernel_s.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda _number, _frame: None)

    def fileno(self) -> int:
        return self._ours.fileno()

    def came(self) -> int:
        return self._ours.recv(1)[0]

    def close(self) -> None:
        self._ours.close()
        self._kernel_s.close()

    def ignore(self) -> None:
        """Python restores the default handlers while it ends, and a second signal would change the exit code."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)


class _Keeper:
    """Looks after the children until the end. `channel` is the server's."""

    def __init__(
        self, channel: Channel, setup_channel: Channel, server: Child, setup: Child, signals: _StopSignals
    ) -> None:
        self._channel = channel
        self._setup_channel: Channel | None = setup_channel
        self._server = server
        self._setup = setup
        self._signals = signals
        self._forker: Child | None = None
        self._others: list[Child] = []
        self._undo: list[str] = []
        self._told: list[str] = []
        self._identity: Identity | None = None
        self._trace: str | None = None
        self._ready = False

    def run(self) -> int:
        """The exit code."""
        try:
            stopped = self._watch()
        finally:
            self._signals.ignore()
            self._end()
        if stopped:
            return EXIT_OK
        for child in (self._server, self._setup):
            # It has said why.
            if not self._ready and child.code is not None and child.code > 0:
                return child.code
        code = self._server.code
        if code == 0:
            return EXIT_OK
        if code is not None and code < 0:
            _say(f"ERROR: the server was killed by {signal.Signals(-code).name}")
        else:
            _say(f"ERROR: the server ended with {code}")
        return EXIT_DIED

    def _watch(self) -> bool:
        """Until a signal comes (True), or the server ends, or it cannot be set up."""
        while True:
            poll = select.poll()
            children = [child for child in (self._server, self._setup, *self._others) if child.code is None]
            for fd in (self._channel.fileno(), self._signals.fileno(), *(child.fileno() for child in children)):
                poll.register(fd, select.POLLIN)
            if self._setup_channel is not None:
                poll.register(self._setup_channel.fileno(), select.POLLIN)
            ready = {fd for fd, _ in poll.poll()}
            # First, so that nothing is left behind of a server that has just ended.
            self._take_messages()
            if self._signals.fileno() in ready:
                self._notify("STOPPING=1")
                return True
            self._others = [child for child in self._others if not child.reap(0.0)]
            if self._setup.reap(0.0) and self._setup.code != 0:
                return False
            if self._server.reap(0.0):
                return False

    def _take_messages(self) -> None:
        """Heed what has been said: by the setting up first, all of it; by the server, some at a time."""
        try:
            while self._setup_channel is not None and (message := self._setup_channel.receive()) is not None:
                self._heed_setup(message)
        except EOFError:
            self._close_setup_channel()
        try:
            for _ in range(MESSAGES_PER_TURN):
                message = self._channel.receive()
                if message is None:
                    return
                self._heed_server(message)
        except EOFError:
            # It is about to end.
            self._server.reap(STOP_S)

    def _heed_setup(self, message: Message) -> None:
        word, rest, _ = message
        if word == "undo":
            self._undo.append(rest)
        elif word in ("device", "inodes"):
            self._told.append(f"{word} {rest}")
        elif word == "trace-at":
            self._trace = rest
        elif word == "identity":
            uid, _, gid = rest.partition(" ")
            self._identity = int(uid), int(gid)
        elif word == "ready":
            self._ready = True
            self._notify("READY=1")
            self._channel.send("go")

    def _heed_server(self, message: Message) -> None:
        word, _, fds = message
        for fd in fds:
            os.close(fd)
        try:
            if word == "helpers":
                self._start_forker()
            elif word == "trace" and self._trace is not None:
                self._offer_trace(self._trace)
        except OSError as error:
            # There may be no room for another process just now, which is when this one is needed.
            _say(f"WARNING: no process for {word}: {error.strerror}")
            self._channel.send("no-helpers" if word == "helpers" else "no-trace", "again")

    def _close_setup_channel(self) -> None:
        if self._setup_channel is not None:
            self._setup_channel.close()
            self._setup_channel = None

    def _start_forker(self) -> None:
        if self._forker is not None:
            self._forker.kill()
        ours, theirs = Channel.pair()
        keeper_pid = os.getpid()

        def fork_helpers() -> int:
            from memnotify_cuse.fasync.forker import run

            self._channel.close()
            self._signals.close()
            ours.close()
            return run(theirs, keeper_pid, self._told, self._identity)

        self._forker = fork("memnotify-helpers", fork_helpers)
        self._others.append(self._forker)
        theirs.close()
        self._channel.send("helpers", "", (ours.fileno(),))
        ours.close()

    def _offer_trace(self, path: str) -> None:
        """Make a trace instance, in a process of its own: that takes 50 ms, and more than the keeper imports."""
        channel = self._channel

        def make() -> int:
            from memnotify_cuse.keeper.traces import offer_trace

            return offer_trace(channel, path)

        self._undo.append(f"instance {path}")
        self._others.append(fork("memnotify-trace", make))

    def _notify(self, state: str) -> None:
        complaint = notify_service(state)
        if complaint is not None:
            _say(f"WARNING: {complaint}")

    def _end(self) -> None:
        """End the children, and undo what was done for them, within the time that stopping may take."""
        self._channel.send("stop")
        self._setup.end_after_step()
        if not self._server.reap(STOP_S):
            self._server.kill()
            self._server.reap(KILL_S)
        if not self._setup.reap(KILL_S):
            self._setup.kill()
            self._setup.reap(KILL_S)
        self._take_messages()
        self._close_setup_channel()
        for child in self._others:
            child.kill()
        for child in self._others:
            child.reap(KILL_S)
        self._channel.close()
        while self._undo:
            complaint = undo(self._undo.pop())
            if complaint is not None:
                _say(f"WARNING: {complaint}")


def _say(text: str) -> None:
    """A line on stderr, if that does not wait."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(0):
            os.write(2, f"memnotify: {text}\n".encode(errors="replace"))
