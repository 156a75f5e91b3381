"""The keeper: the small root process that `memnotify serve` is. It makes the mounts and starts the processes that
serve.

    keeper ── server          answers requests; holds the connections to the kernel; has no rights
         └─── helper(s)       touch other processes for SIGIO; hold nothing of the connections

It answers no request, so no client can reach it. It closes its own descriptors of the connections once the server has
them: a connection ends when its last descriptor is closed, so SIGKILL of the server lets go of every client at once.
What may wait on our own mount is done in a process of its own (`children.apart`).
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from memnotify_cuse.config import Config, NodeKind, ServeError, SigioMode
from memnotify_cuse.fasync import helper
from memnotify_cuse.fasync.attention import Attention, make_page
from memnotify_cuse.keeper.channel import Channel, Message
from memnotify_cuse.keeper.chardev import CharacterDevice, cuse_problem, open_cuse
from memnotify_cuse.keeper.children import STOP_SIGNALS, ApartError, Child, apart, fork
from memnotify_cuse.keeper.mount import DeviceNode, MountError, check_paths, mount_control
from memnotify_cuse.keeper.rights import (
    HELPER,
    Identity,
    choose_identity,
    lower_oom_score,
    raise_limits,
    reduce_child,
    reduce_keeper,
    server_keeps,
)
from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.capabilities import die_with_parent
from memnotify_cuse.kernel.errors import KernelFileError, NoKernelMemoryError
from memnotify_cuse.kernel.statx import FileId
from memnotify_cuse.kernel.tracefs import TraceInstance, find_tracefs
from memnotify_cuse.logstream import say
from memnotify_cuse.notify_service import notify_service
from memnotify_cuse.scanner.doorbell import FirstTrace, open_first_trace, open_trace

log = logging.getLogger(__name__)

START_S: Final = 60.0
ANSWER_S: Final = 20.0
"""How long a server that is up may take for its first answers."""
STOP_S: Final = 1.0
"""How long the server may take to end; together with what else there is to end, it is less than two seconds."""
ABANDON_S: Final = 0.05
MAX_ABANDONED: Final = 16
"""Helpers that not even SIGKILL ends: each is in the hands of another client, whose user is left out for longer."""
STRICT_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)
"""A start in a short shortage of memory gets over it; in a longer one whoever started the server has to know."""


@dataclass(frozen=True, slots=True)
class _Helpers:
    """Helper processes: those that work, and those that were killed and have not ended yet."""

    working: dict[int, Child]
    ending: list[Child]


class _Stopped(Exception):
    """SIGTERM or SIGINT came."""


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT, which are ignored from then on; the exit code. ServeError if that cannot start."""
    with ExitStack() as stack:
        signals = stack.enter_context(_StopSignals())
        try:
            return Keeper(config, signals, stack).run()
        except (MountError, ApartError, KernelFileError) as error:
            raise ServeError(str(error)) from None
        except _Stopped:
            return 0


class _StopSignals:
    """SIGTERM and SIGINT make `fileno()` readable; once the block is left without an error they are ignored for good."""

    def __init__(self) -> None:
        self._ours, self._kernel_s = socket.socketpair()
        self._ours.setblocking(False)
        self._kernel_s.setblocking(False)
        self._before: dict[signal.Signals, object] = {}
        self._wakeup = -1

    def fileno(self) -> int:
        return self._ours.fileno()

    def came(self) -> int | None:
        """The signal that came, None if none did."""
        try:
            return self._ours.recv(1)[0]
        except BlockingIOError:
            return None

    def __enter__(self) -> _StopSignals:
        self._wakeup = signal.set_wakeup_fd(self._kernel_s.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, lambda _number, _frame: None)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        for number in STOP_SIGNALS:
            # Python restores the default ones while it ends, and a second signal would change the exit code.
            signal.signal(number, signal.SIG_IGN if kind is None else self._before[number])  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup)
        self._ours.close()
        self._kernel_s.close()


class Keeper:
    """One run of `serve`. What it makes is undone by `stack`, last first."""

    def __init__(self, config: Config, signals: _StopSignals, stack: ExitStack) -> None:
        self._config = config
        self._signals = signals
        self._stack = stack
        self._helpers = _Helpers({}, [])
        self._identity: Identity | None = None
        self._instance: TraceInstance | None = None
        self._devices: list[FileId] = []
        self._channel: Channel

    def run(self) -> int:
        """Set up, serve, and clean up. Raises MountError, ServeError, ApartError, KernelFileError."""
        config = self._config
        check_paths(config.device, config.mount)
        refused = self._prepare()
        trace = self._open_trace()
        flags = self._open_flags() if config.sigio is SigioMode.STRICT else None
        cuse_fd = open_cuse(config.device) if config.device is not None and _takes_cuse(config) else None
        try:
            mount = mount_control(config.mount)
        except BaseException:
            if cuse_fd is not None:
                os.close(cuse_fd)
            raise
        self._stack.callback(mount.close)
        self._devices.append(mount.device)
        self._channel, theirs = Channel.pair()
        node = "none" if config.device is None else "fuse" if cuse_fd is None else "cuse"
        keeper_pid = os.getpid()

        def serve_in_child() -> int:
            gc.enable()
            from memnotify_cuse import daemon

            self._channel.close()
            mount.release_lock()
            given = daemon.Given(
                keeper_pid=keeper_pid,
                channel=theirs,
                fuse_fd=mount.fd,
                cuse_fd=cuse_fd,
                node=node,
                trace=trace.instance.pipe if trace.instance else None,
                trace_may_come=trace.may_come,
                flags_trace=flags.pipe if flags else None,
                identity=self._identity,
                keep=server_keeps(),
                refused=refused,
            )
            return daemon.serve(config, given)

        _share_memory_with_children()
        server = fork("memnotify-serve", serve_in_child)
        # From here on the connections are the server's alone, and end with it.
        theirs.close()
        mount.release_connection()
        if cuse_fd is not None:
            os.close(cuse_fd)
        for instance in (trace.instance, flags):
            if instance is not None:
                instance.pipe.close()
        self._stack.callback(self._end_children, server)
        reduce_keeper()
        self._await_word("up", server, START_S)
        if cuse_fd is not None and config.device is not None:
            self._await_word("cuse", server, ANSWER_S)
            device = CharacterDevice(config.device)
            self._stack.callback(device.close)
            device.open_up()
            self._devices.append(device.file_id)
        elif config.device is not None:
            shown = DeviceNode(config.device, mount.path / "mem_notify")
            self._stack.callback(shown.close)
        if config.sigio is not SigioMode.OFF:
            self._start_helper()
        self._announce(node)
        self._channel.send("go")
        return self._watch(server)

    def _prepare(self) -> tuple[str, ...]:
        """Raise limits, and choose who server and helpers are to be; what was not permitted."""
        raise_limits()
        if os.geteuid() == 0:
            answer = apart(_identity_text, ANSWER_S, "the name service")
            uid, gid = map(int, answer.split())
            self._identity = Identity(uid, gid)
        try:
            lower_oom_score()
        except OSError as error:
            return (f"oom_score_adj lowered ({error.strerror})",)
        return ()

    def _open_trace(self) -> FirstTrace:
        if self._config.replay is not None:
            return FirstTrace(None)
        trace = open_first_trace()
        if trace.instance is not None:
            self._stack.callback(_remove, trace.instance)
        return trace

    def _open_flags(self) -> TraceInstance:
        from memnotify_cuse.fasync.strict import EVENTS

        tracefs = find_tracefs()
        if tracefs is None:
            raise ServeError("--sigio strict needs tracefs, which is not mounted, or not for us to see")
        pauses = iter(STRICT_PAUSES_S)
        while True:
            try:
                instance = TraceInstance.create(tracefs, f"memnotify-fcntl-{os.getpid()}", EVENTS)
                break
            except KernelFileError as error:
                pause_s = next(pauses, None) if isinstance(error, NoKernelMemoryError) else None
                if pause_s is None:
                    raise ServeError(f"--sigio strict: {error}") from error
            if self._wait([], pause_s):
                raise _Stopped
        self._stack.callback(_remove, instance)
        return instance

    # While it runs.

    def _wait(self, fds: list[int], timeout_s: float | None) -> set[int]:
        """Which of the descriptors, and of the stop signals', are readable within the time."""
        poll = select.poll()
        for fd in (*fds, self._signals.fileno()):
            poll.register(fd, select.POLLIN)
        return {fd for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)}

    def _await_word(self, word: str, server: Child, limit_s: float) -> None:
        """Wait for a message of the server's. ServeError if it cannot start, _Stopped if a signal comes first."""
        deadline_s = time.monotonic() + limit_s
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise ServeError(f"the server is not ready within {limit_s:g} s")
            ready = self._wait([self._channel.fileno()], left_s)
            if self._signals.fileno() in ready:
                self._say_stopping()
                raise _Stopped
            try:
                message = self._channel.receive() if ready else None
            except EOFError:
                server.reap(STOP_S)
                raise ServeError(f"the server {_how_it_ended(server)}") from None
            if message is None:
                continue
            if message.word == word:
                return
            if message.word == "failed":
                raise ServeError(message.rest)
            self._answer(message)

    def _watch(self, server: Child) -> int:
        """Until a signal comes, or the server ends; the exit code."""
        while True:
            fds = [
                self._channel.fileno(),
                server.fileno(),
                *(child.fileno() for child in self._helpers.working.values()),
            ]
            ready = self._wait(fds, 1.0 if self._helpers.ending else None)
            self._reap_helpers(0.0)
            if self._signals.fileno() in ready:
                self._say_stopping()
                return 0
            if server.fileno() in ready and server.reap(0.0):
                if server.code == 0:
                    return 0
                log.error("the server %s; stopping", _how_it_ended(server))
                return 1
            try:
                while (message := self._channel.receive()) is not None:
                    self._answer(message)
            except EOFError:
                server.reap(STOP_S)

    def _say_stopping(self) -> None:
        number = self._signals.came()
        if number is not None:
            log.info("stopping: %s", signal.Signals(number).name)
        notify_service("STOPPING=1")

    def _answer(self, message: Message) -> None:
        match message:
            case Message("helper"):
                self._start_helper()
            case Message("replace", pid):
                self._replace_helper(pid)
            case Message("trace"):
                self._offer_trace()
            case _:
                log.error("the server said what was not understood: %s", message.word)

    def _offer_trace(self) -> None:
        try:
            instance = open_trace()
        except NoKernelMemoryError as error:
            self._channel.send("no-trace", f"again {error}")
        except (KernelFileError, OSError) as error:
            self._channel.send("no-trace", f"never {error}")
        else:
            self._stack.callback(_remove, instance)
            self._channel.send("trace", str(instance.path), (instance.pipe.pipe, instance.pipe.switch))
            instance.pipe.close()

    # Helpers.

    def _start_helper(self) -> None:
        if len(self._helpers.ending) >= MAX_ABANDONED:
            log.error("%d SIGIO helpers hang and cannot be ended; no more are started", len(self._helpers.ending))
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        page = make_page()
        keeper_pid = os.getpid()

        def help_in_child() -> int:
            self._channel.close()
            ours.close()
            lock_memory_if_permitted()
            reduce_child(self._identity, HELPER)
            die_with_parent(keeper_pid, signal.SIGKILL)
            return helper.run(theirs, Attention(page), self._devices)

        child = fork("memnotify-sigio", help_in_child)
        theirs.close()
        self._helpers.working[child.pid] = child
        self._channel.send("helper", str(child.pid), (ours.fileno(), page))
        ours.close()
        os.close(page)

    def _replace_helper(self, pid: str) -> None:
        child = self._helpers.working.pop(int(pid), None) if pid.isdecimal() else None
        if child is not None:
            child.kill()
            if not child.reap(ABANDON_S):
                self._helpers.ending.append(child)

    def _reap_helpers(self, timeout_s: float) -> None:
        for pid, child in list(self._helpers.working.items()):
            if child.reap(0.0):
                del self._helpers.working[pid]
        self._helpers.ending[:] = [child for child in self._helpers.ending if not child.reap(timeout_s)]

    # The beginning and the end.

    def _announce(self, node: str) -> None:
        """Say that the device can be opened, once it can."""
        config = self._config
        device = config.device or config.mount / "mem_notify"
        try:
            apart(partial(_try_open, device), ANSWER_S, str(device))
        except ApartError as error:
            raise ServeError(f"{device}: cannot be opened: {error}") from None
        say(f"ready: device={device} mount={config.mount} node={node}")
        notify_service("READY=1")

    def _end_children(self, server: Child) -> None:
        """End the server and the helpers, within the time that stopping may take."""
        self._channel.send("stop")
        if not server.reap(STOP_S):
            log.warning("the server does not end; killing it")
            server.kill()
            if not server.reap(STOP_S / 4):
                log.error("the server does not end")
        for child in (*self._helpers.working.values(), *self._helpers.ending):
            child.kill()
        for child in (*self._helpers.working.values(), *self._helpers.ending):
            child.reap(ABANDON_S)
        self._channel.close()


def _share_memory_with_children() -> None:
    """What is in memory by now stays shared: a collection of garbage would write to all of it, in each process anew.

    Neither keeper nor helpers make cycles worth collecting.
    """
    gc.collect()
    gc.freeze()
    gc.disable()


def lock_memory_if_permitted() -> None:
    """Keep a helper in memory, where it may: it is needed when memory is short."""
    try:
        libc.lock_memory()
    except OSError as error:
        log.debug("a SIGIO helper is not locked into memory: %s", error.strerror)


def _takes_cuse(config: Config) -> bool:
    if config.node is not NodeKind.AUTO:
        return config.node is NodeKind.CUSE
    return config.device is not None and config.device.parent == Path("/dev") and cuse_problem() is None


def _identity_text() -> str:
    identity = choose_identity()
    if identity is None:
        raise ServeError("no user id is free for the server")
    return f"{identity.uid} {identity.gid}"


def _try_open(device: Path) -> None:
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise ServeError(error.strerror) from None


def _remove(instance: TraceInstance) -> None:
    try:
        instance.close()
    except KernelFileError as error:
        log.warning("a trace instance stays behind: %s", error)


def _how_it_ended(server: Child) -> str:
    code = server.code
    if code is None:
        return "does not answer"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
