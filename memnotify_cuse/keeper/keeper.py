"""The keeper: the small root process that `memnotify serve` is. It starts those that do the work, and outlives them.

    keeper ── server              answers requests; holds the connections to the kernel; has no rights
         ├─── setting up          makes the mounts, and ends
         └─── parent of helpers   starts and ends them (`fasync.forker`)
                └── helper(s)     touch other processes for SIGIO; hold nothing of the connections

It answers no request and touches no client, so no client can reach it. It has a duplicate of each connection, and the
state file: a server that dies, or hangs, is replaced by another one that goes on with them (`kept`, `statefile`). A
connection ends when its last descriptor is closed: SIGKILL of the keeper, with which its children die, lets go of every
client at once. No other child may have one of them, so each closes them first of all.

A start, and what follows it:

    setting up ──given──▶ keeper ──given──▶ server ──prepared──▶ keeper ──take──▶ server: serves requests
    setting up ──ready──▶ keeper ──go─────▶ server: scans

A server that is replaced while it runs (SIGHUP, newer code) is told to retire between `prepared` and `take`. For newer
code the keeper replaces itself first, once that code was seen to start.

It imports next to nothing, since it stays in memory.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import select
import signal
import sys
import time

from memnotify_cuse.keeper import heartbeat
from memnotify_cuse.keeper.channel import Channel
from memnotify_cuse.keeper.children import Child, fork
from memnotify_cuse.keeper.facts import Facts, Recalled
from memnotify_cuse.keeper.kept import Kept
from memnotify_cuse.keeper.lives import DEATHS_S, MAX_DEATHS, Lives
from memnotify_cuse.keeper.rights import lower_oom_score, raise_limits, reduce_keeper
from memnotify_cuse.keeper.say import say
from memnotify_cuse.keeper.signals import Signals
from memnotify_cuse.keeper.store import Store, notify
from memnotify_cuse.keeper.undo import undo
from memnotify_cuse.keeper.watch import MountWatch
from memnotify_cuse.kernel.mappings import drop_clean_file_pages
from memnotify_cuse.notify_service import watchdog_s

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from memnotify_cuse.keeper.channel import Message

    Work = Callable[[Channel, int], int]

EXIT_OK, EXIT_DIED, EXIT_ERROR, EXIT_TAKEN_AWAY, EXIT_OTHER_STATE = 0, 1, 2, 3, 4

STOP_S = 1.0
"""How long the server may take to end; together with what else there is to end, it is less than two seconds."""
KILL_S = 0.25
PROBED_BYTES = 64
"""Of the state file: what says whether other code can go on with it."""
PROBE_S = 20
"""How long new code may take to show that it starts."""
AGAIN_S = 0.1
"""After which a server is started again that could not be: there was no room for a process."""
MESSAGES_PER_TURN = 16
"""Of the server's, which may have been taken over: it must not keep the keeper from a signal."""


def keep(set_up: Work, serve: Work) -> int:
    """Run `set_up` once and one `serve` after the other, each in a child, until SIGTERM or SIGINT; the exit code.

    Both are called with a channel to here, and the id of this process. Where a keeper before has left connections,
    nothing is set up. Signals are ignored from the end on: a second one must not change the exit code.
    """
    signals = Signals()
    kept = Kept.inherited()
    raise_limits()
    with contextlib.suppress(OSError):
        # `set_up` sees whether it was permitted.
        lower_oom_score()
    return _Keeper(set_up, serve, signals, kept).run()


class _Server:
    """A server that was started: its process, and the channel to it."""

    def __init__(self, child: Child, channel: Channel) -> None:
        self.child = child
        self.channel = channel
        self.prepared = False
        self.serves = False
        self.killed = False
        self.forker: Child | None = None
        self.heard_s = self.looked_s = time.monotonic()
        self.waited_before_s = 0.0

    def heard(self, at_s: float) -> None:
        """It has proved at `at_s` that it is alive, which is seen now."""
        self.heard_s = at_s
        self.looked_s, self.waited_before_s = time.monotonic(), self.waited_s()

    def waited_s(self) -> float:
        """For how long it has waited for a processor, since it began (Documentation/scheduler/sched-stats.rst)."""
        try:
            with open(f"/proc/{self.child.pid}/schedstat") as file:
                return int(file.read().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0


class _Keeper:
    """Looks after the children until the end."""

    def __init__(self, set_up: Work, serve: Work, signals: Signals, kept: Kept) -> None:
        self._set_up = set_up
        self._serve = serve
        self._signals = signals
        self._kept = kept
        self._server: _Server | None = None
        self._retiring: _Server | None = None
        self._retire_by_s = 0.0
        self._setup: Child | None = None
        self._setup_channel: Channel | None = None
        self._probe: Child | None = None
        self._others: list[Child] = []
        self._ready = False
        self._mounts: MountWatch | None = None
        self._lives = Lives()
        self._code = EXIT_OK
        self._facts = Facts()
        self._store = Store()
        self._server_due_s = math.inf
        self._comes_back = False
        self._service_watchdog_s = watchdog_s()
        self._told_watchdog_s = 0.0
        self._reload_again = False

    def run(self) -> int:
        """The exit code."""
        resumed = bool(self._kept.fds) and self._recall()
        if resumed:
            reduce_keeper()
        # What is in memory by now stays shared with the children: a collection would write to all of it.
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            if self._begin(resumed=resumed):
                drop_clean_file_pages()
                self._watch()
        finally:
            self._signals.ignore()
            self._end()
        return self._code

    def _begin(self, *, resumed: bool) -> bool:
        """Start the first children, and serve what is there already; False if that cannot be done."""
        if resumed:
            self._start_next_server()
            self._watch_mounts()
            self._note_ready()
            return True
        try:
            self._start_server()
            self._start_setup()
        except OSError as error:
            say(f"ERROR: no process for the server: {error.strerror}")
            self._code = EXIT_ERROR
            return False
        reduce_keeper()
        return True

    # Children.

    def _fork(self, name: str, body: Callable[[], int], *own: Channel, in_steps: bool = False) -> Child:
        """Run `body` in a child that has `own`, and nothing else of the keeper's."""

        def run() -> int:
            # First of all: no client may find a way to a process that holds a connection.
            self._kept.close()
            if self._mounts is not None:
                self._mounts.let_go()
            gc.enable()
            ours = [server.channel for server in (self._server, self._retiring) if server is not None]
            for channel in (*ours, self._setup_channel):
                if channel is not None and channel not in own:
                    channel.close()
            self._signals.close()
            return body()

        return fork(name, run, in_steps=in_steps)

    def _start_server(self) -> None:
        ours, theirs = Channel.pair()
        keeper_pid = os.getpid()

        in_place = self._lives.count > 0

        def serve() -> int:
            ours.close()
            if in_place:
                # Programs wait for it, on a machine that may be busy. It gives this up once it serves.
                with contextlib.suppress(OSError):
                    os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
            return self._serve(theirs, keeper_pid)

        child = self._fork("memnotify-serve", serve)
        theirs.close()
        self._server = _Server(child, ours)

    def _start_next_server(self) -> None:
        """Start one that goes on with what is kept, as soon as there is room for a process."""
        try:
            self._start_server()
        except OSError as error:
            if self._retiring is not None:
                self._keep_old(self._retiring, str(error.strerror))
                return
            if math.isinf(self._server_due_s):
                say(f"ERROR: no process for another server: {error.strerror}; it is tried again until there is")
            self._server, self._server_due_s = None, time.monotonic() + AGAIN_S
        else:
            self._server_due_s = math.inf
            self._give()

    def _start_setup(self) -> None:
        ours, theirs = Channel.pair()
        keeper_pid = os.getpid()

        def set_up() -> int:
            ours.close()
            return self._set_up(theirs, keeper_pid)

        self._setup = self._fork("memnotify-setup", set_up, in_steps=True)
        theirs.close()
        self._setup_channel = ours

    def _start_forker(self, server: _Server) -> None:
        if server.forker is not None:
            server.forker.kill()
        ours, theirs = Channel.pair()
        keeper_pid = os.getpid()

        def fork_helpers() -> int:
            from memnotify_cuse.fasync.forker import run

            ours.close()
            return run(theirs, keeper_pid, self._facts.told, self._facts.identity)

        server.forker = self._fork("memnotify-helpers", fork_helpers)
        self._others.append(server.forker)
        theirs.close()
        server.channel.send("helpers", "", (ours.fileno(),))
        ours.close()

    def _offer_trace(self, server: _Server, path: str) -> None:
        """Make a trace instance, in a process of its own: that takes 50 ms, and more than the keeper imports."""
        channel = server.channel
        self._drop_trace()

        def make() -> int:
            from memnotify_cuse.keeper.traces import offer_trace

            return offer_trace(channel, path)

        self._note(f"instance {path}")
        self._others.append(self._fork("memnotify-trace", make, channel))

    def _drop_trace(self) -> None:
        """Let go of the trace instance that cannot be used any more: it can be removed once no process has it open."""
        for name in ("trace_pipe", "trace_switch"):
            if name in self._kept.fds:
                os.close(self._kept.fds.pop(name))
                self._store.remove(name)
        self._facts.forget_trace(self._kept)
        self._remember()

    # The watch.

    def _watch(self) -> None:
        """Until a signal comes, or there is no server any more; `_code` is the exit code then."""
        while True:
            poll = select.poll()
            for each in self._watched():
                poll.register(each.fileno(), select.POLLIN)
            patience_s = self._patience_s()
            ready = {fd for fd, _ in poll.poll(patience_s * 1000 + 1 if patience_s < math.inf else None)}
            # First, so that nothing is left behind of a server that has just ended.
            self._take_messages()
            self._tell_watchdog()
            wanted = self._signals.came() if self._signals.fileno() in ready else set()
            if "stop" in wanted:
                notify("STOPPING=1")
                self._comes_back = self._is_to_come_back()
                return
            if "reload" in wanted:
                self._probe_new_code()
            self._reap_others()
            if self._mounts is not None and self._mounts.fileno() in ready:
                self._mounts.check()
            if self._setup is not None and self._setup.code is None and self._setup.reap(0.0) and self._is_in_vain():
                return
            if not self._look_after_server(time.monotonic()):
                return

    def _is_in_vain(self) -> bool:
        """Whether the setting up has ended and left nothing to serve: it has said why, or was asked for help only."""
        code = self._setup.code if self._setup is not None else 0
        if code:
            self._code = code if code > 0 else EXIT_DIED
            return True
        # What it said last may have come since.
        self._take_messages()
        return not self._facts.given

    def _watched(self) -> list[Channel | Child | MountWatch | Signals]:
        servers = [server for server in (self._server, self._retiring) if server is not None]
        children = [*(server.child for server in servers), self._setup, self._probe, *self._others]
        channels = [*(server.channel for server in servers), self._setup_channel]
        alive = [child for child in children if child is not None and child.code is None]
        others = [*channels, self._mounts]
        return [self._signals, *alive, *(each for each in others if each is not None)]

    def _patience_s(self) -> float:
        now_s = time.monotonic()
        # One that was killed is waited for by its pidfd.
        left_s = [max(0.0, self._server_due_s - now_s)]
        if self._server is not None and not self._server.killed:
            left_s.append(self._lives.left_s(now_s))
        if self._retiring is not None and not self._retiring.killed:
            left_s.append(max(0.0, self._retire_by_s - now_s))
        if self._service_watchdog_s is not None:
            left_s.append(self._service_watchdog_s / 2)
        return min(left_s)

    def _tell_watchdog(self) -> None:
        """Tell the service manager that this process is alive; whether the server is, is looked after here."""
        now_s = time.monotonic()
        if self._service_watchdog_s is not None and now_s - self._told_watchdog_s >= self._service_watchdog_s / 3:
            self._told_watchdog_s = now_s
            notify("WATCHDOG=1")

    def _look_after_server(self, now_s: float) -> bool:
        """Replace a server that has died, or hangs; False if this is the end, of which `_code` tells."""
        retiring = self._retiring
        if retiring is not None:
            if now_s >= self._retire_by_s and not retiring.killed:
                retiring.killed = True
                retiring.child.kill()
            if retiring.child.reap(0.0):
                retiring.channel.close()
                self._retiring = None
                self._let_serve()
        server = self._server
        if server is None:
            if now_s >= self._server_due_s:
                self._start_next_server()
            return True
        self._look_for_heartbeat(server, now_s)
        if self._lives.hangs(now_s) and not server.killed and not self._is_starved(server, now_s):
            say(f"ERROR: the server was silent for {now_s - server.heard_s:.1f} s, and is ended")
            server.killed = True
            server.child.kill()
            server.child.reap(KILL_S)
        if not server.child.reap(0.0):
            return True
        if self._retiring is not None:
            self._keep_old(self._retiring, _ended(server.child.code or 0))
            return True
        return self._replace(server, now_s)

    def _is_starved(self, server: _Server, now_s: float) -> bool:
        """Whether a silent server wants for nothing but a processor: to replace it would make that worse."""
        waited_s = server.waited_s()
        if waited_s - server.waited_before_s < (now_s - server.looked_s) / 2:
            return False
        server.waited_before_s, server.looked_s = waited_s, now_s
        self._lives.heard(now_s)
        return True

    def _keep_old(self, old: _Server, why: str) -> None:
        """The new server has not come up: the old one goes on."""
        say(f"ERROR: the new server did not start ({why}); the old one goes on")
        if self._server is not None:
            self._server.channel.close()
        self._server, self._retiring = old, None
        self._lives.heard(time.monotonic())

    def _replace(self, server: _Server, now_s: float) -> bool:
        """The server has ended by itself; whether there is another one now."""
        code = server.child.code or 0
        if code == EXIT_TAKEN_AWAY:
            # It has said what was.
            self._code = EXIT_DIED
            return False
        if code == EXIT_OTHER_STATE and self._ready:
            return self._make_anew(server)
        if not self._ready:
            self._code = code if code > 0 else EXIT_DIED
            if code <= 0:
                say(f"ERROR: the server {_ended(code)} before it was ready")
            return False
        if not self._lives.died(now_s):
            say(f"ERROR: the server {_ended(code)}, the {MAX_DEATHS}th within {DEATHS_S:g} s; this is the end")
            self._code = EXIT_DIED
            return False
        say(f"WARNING: the server {_ended(code)}; another one takes its place")
        server.channel.close()
        self._start_next_server()
        return True

    def _make_anew(self, server: _Server) -> bool:
        """What the keeper before has left cannot be used by this code: end it, and begin at the beginning."""
        say("WARNING: this version cannot go on with what the one before has left: the device is made anew")
        server.channel.close()
        self._end_all_served()
        return self._begin(resumed=False)

    def _end_all_served(self) -> None:
        """Let go of all that was served, also in the service manager's store, and undo what was done for it."""
        if self._mounts is not None:
            self._mounts.close()
            self._mounts = None
        self._store.remove_all()
        self._kept.close()
        self._undo_all()
        self._facts, self._ready, self._lives = Facts(), False, Lives()

    def _reap_others(self) -> None:
        self._others = [child for child in self._others if not child.reap(0.0)]
        if self._probe is not None and self._probe.reap(0.0):
            code, self._probe = self._probe.code, None
            if code == 0:
                self._become_new()
            else:
                why = f"does not start ({_ended(code or 0)})"
                if code == EXIT_OTHER_STATE:
                    why = "cannot take over from this version (only a restart can change to it)"
                say(f"ERROR: reload: the new code {why}; the old server goes on")
                notify("READY=1")
        if self._reload_again and self._ready and self._probe is None and self._retiring is None:
            # It was asked for while the one before was under way, and newer code may have come since.
            self._reload_again = False
            self._probe_new_code()

    # Messages.

    def _take_messages(self) -> None:
        """Heed what has been said: by the setting up first, all of it; by the server, some at a time."""
        try:
            while self._setup_channel is not None and (message := self._setup_channel.receive()) is not None:
                self._heed_setup(message)
        except EOFError:
            self._close_setup_channel()
        for server in (self._retiring, self._server):
            if server is None or server.child.code is not None:
                continue
            try:
                for _ in range(MESSAGES_PER_TURN):
                    message = server.channel.receive()
                    if message is None:
                        break
                    self._heed_server(server, message)
            except EOFError:
                # It is about to end.
                if not server.child.reap(STOP_S):
                    server.child.kill()
                    server.child.reap(KILL_S)

    def _heed_setup(self, message: Message) -> None:
        word, rest, fds = message
        if word == "undo":
            self._note(rest)
        elif word == "watch":
            self._facts.watch = rest
            self._watch_mounts()
        elif word in ("device", "inodes", "mount"):
            self._facts.told.append(f"{word} {rest}")
        elif word == "trace-at":
            self._facts.trace = rest
        elif word == "identity":
            uid, _, gid = rest.partition(" ")
            self._facts.identity = int(uid), int(gid)
        elif word == "given":
            self._facts.given = rest
            self._kept.fds = dict(zip(self._facts.given_names, fds, strict=True))
            self._give()
        elif word == "ready":
            self._note_ready()
            if self._server is not None:
                self._server.channel.send("go")

    def _note(self, line: str) -> None:
        """Take note of what is to be undone."""
        self._facts.add_undo(line)
        self._remember()

    def _watch_mounts(self) -> None:
        if not self._facts.watch:
            return
        try:
            self._mounts = MountWatch(self._facts.watch, say, self._note, self._kept.fds.get("fuse"))
        except OSError as error:
            say(f"WARNING: mounts that are taken away are not noticed: {error}")
        else:
            self._mounts.check()

    def _heed_server(self, server: _Server, message: Message) -> None:
        word, rest, fds = message
        for fd in fds:
            os.close(fd)
        try:
            if word == "alive":
                self._heard(server, time.monotonic())
            elif word == "prepared" and server is self._server and not server.prepared:
                server.prepared = True
                self._let_serve()
            elif word == "status" and server is self._server:
                # One line, which says nothing else to the service manager.
                notify("STATUS=" + "".join(char if char.isprintable() else "?" for char in rest))
            elif word == "helpers":
                self._start_forker(server)
            elif word == "trace" and self._facts.trace is not None:
                self._offer_trace(server, self._facts.trace)
        except OSError as error:
            # There may be no room for another process just now, which is when this one is needed.
            say(f"WARNING: no process for {word}: {error.strerror}")
            server.channel.send("no-helpers" if word == "helpers" else "no-trace", "again")

    def _heard(self, server: _Server, at_s: float) -> None:
        server.heard(at_s)
        if server is self._server:
            self._lives.heard(at_s)

    def _look_for_heartbeat(self, server: _Server, now_s: float) -> None:
        """Once the server is due: whether it has done its work meanwhile. What is noted before its first word is of
        the server before it.
        """
        if self._lives.serves and self._lives.left_s(now_s) <= 0:
            at_s = heartbeat.last_s(self._kept.fds["state"])
            if at_s > server.heard_s:
                self._heard(server, at_s)

    def _give(self) -> None:
        """Give the server what it serves."""
        if self._server is not None:
            fds = tuple(self._kept.fds[name] for name in self._facts.given_names)
            self._server.channel.send("given", self._facts.given, fds)
            self._lives.started(time.monotonic())

    def _let_serve(self) -> None:
        """Have the server take over, once the one before it is gone."""
        server = self._server
        if server is None or not server.prepared or server.serves:
            return
        if self._retiring is not None:
            self._retiring.channel.send("retire")
            self._retire_by_s = time.monotonic() + STOP_S
            return
        server.serves = True
        server.channel.send("take", str(self._lives.count - 1))
        if self._ready:
            server.channel.send("go")

    def _close_setup_channel(self) -> None:
        if self._setup_channel is not None:
            self._setup_channel.close()
            self._setup_channel = None

    def _note_ready(self) -> None:
        """All is set up, and there is a server to be told."""
        self._ready = True
        notify("READY=1")
        self._remember()
        if self._store.is_there:
            self._store.put(self._kept)

    # What the next keeper gets.

    def _remember(self) -> None:
        """Write down what the service manager's next keeper has to know, once there is something to go on with."""
        if self._ready and self._store.is_there:
            self._facts.lives = self._lives.count
            self._facts.write(self._kept)

    def _recall(self) -> bool:
        """Take up what the keeper before has written down, and its children, if this process was that keeper.

        False if this one is to serve something else: then what was served is ended.
        """
        recalled = Recalled(self._kept)
        self._facts = recalled.facts
        self._lives.count = recalled.facts.lives
        for pid in recalled.children:
            with contextlib.suppress(OSError):
                self._others.append(Child(pid))
        channel = self._kept.fds.pop("channel", None)
        if recalled.server is not None and channel is not None:
            self._retiring = _Server(Child(recalled.server), Channel.of(channel))
            # When the new one is prepared.
            self._retire_by_s = math.inf
            return True
        self._store.names = set(self._kept.named())
        if recalled.options != sys.argv[1:]:
            say("INFO: the options have changed: the device is made anew")
        elif set(self._facts.given_names) != self._kept.fds.keys():
            say("WARNING: the service manager has not kept all that is needed: the device is made anew")
        else:
            return True
        self._end_all_served()
        return False

    def _probe_new_code(self) -> None:
        """See whether the code that is installed now starts, before this process becomes it."""
        if not self._ready or self._server is None or self._probe is not None or self._retiring is not None:
            self._reload_again = True
            return
        # All that a keeper and a server are, by the way in which this process began.
        way = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]
        state = os.pread(self._kept.fds["state"], PROBED_BYTES, 0).hex()
        argv = [sys.executable, *way, "serve", "--probe", state]
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

        def run() -> int:
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PROBE_S)
            os.execv(argv[0], argv)

        try:
            self._probe = self._fork("memnotify-probe", run)
        except OSError as error:
            say(f"ERROR: reload: no process to try the new code: {error.strerror}; the old server goes on")
            notify("READY=1")

    def _become_new(self) -> None:
        """Become the code that is installed now. The server goes on meanwhile, until the next one takes over."""
        server = self._server
        if server is None:
            return
        self._kept.fds["channel"] = server.channel.fileno()
        if self._mounts is not None:
            # With what its child has made: that is to be undone, too.
            self._mounts.close()
        self._facts.lives = self._lives.count
        children = [*self._others, *([self._setup] if self._setup is not None else [])]
        alive = tuple(child.pid for child in children if child.code is None)
        self._facts.write(self._kept, server.child.pid, alive)
        self._signals.block()
        try:
            self._kept.pass_on([sys.executable, *sys.orig_argv[1:]])
        except OSError as error:
            say(f"ERROR: reload: {sys.executable}: {error.strerror}; the old server goes on")
        finally:
            del self._kept.fds["channel"]
            self._signals.unblock()
            self._watch_mounts()
            notify("READY=1")

    # The end.

    def _end(self) -> None:
        """End the children, and undo what was done for them, within the time that stopping may take."""
        if self._mounts is not None:
            self._mounts.close()
        servers = [server for server in (self._server, self._retiring) if server is not None]
        for server in servers:
            server.channel.send("retire" if self._comes_back else "stop")
        if self._setup is not None:
            self._setup.end_after_step()
        for server in servers:
            if not server.child.reap(STOP_S):
                server.child.kill()
                server.child.reap(KILL_S)
        # What the setting up waits for is the server's, or the connection's, end.
        self._take_messages()
        if not self._comes_back:
            self._store.remove_all()
        self._kept.close()
        if self._setup is not None and not self._setup.reap(KILL_S):
            self._setup.kill()
            self._setup.reap(KILL_S)
        self._take_messages()
        self._close_setup_channel()
        others = [*self._others, *([self._probe] if self._probe is not None else [])]
        for child in others:
            child.kill()
        for child in others:
            child.reap(KILL_S)
        for server in servers:
            server.channel.close()
        if not self._comes_back:
            self._undo_all()

    def _is_to_come_back(self) -> bool:
        from memnotify_cuse.keeper.manager import comes_back

        return self._ready and bool(self._store.names) and comes_back(len(self._store.names))

    def _undo_all(self) -> None:
        while self._facts.undo:
            complaint = undo(self._facts.undo.pop())
            if complaint is not None:
                say(f"WARNING: {complaint}")


def _ended(code: int) -> str:
    """How a child ended, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
