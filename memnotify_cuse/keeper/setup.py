"""What root does for a server before it is one: mounts, trace instances, limits. Runs in the process that will serve.

What waits for an answer of the server's, the bind mount and the first open, is done by a child that holds nothing of
the connections, while the server serves already.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Final

from memnotify_cuse.config import Config, NodeKind, ServeError, SigioMode
from memnotify_cuse.keeper.channel import Channel
from memnotify_cuse.keeper.chardev import CharacterDevice, cuse_problem, open_cuse
from memnotify_cuse.keeper.children import ApartError, apart, fork
from memnotify_cuse.keeper.mount import ControlMount, DeviceNode, MountError, check_paths, mount_control
from memnotify_cuse.keeper.rights import Identity, choose_identity, lower_oom_score, server_keeps
from memnotify_cuse.keeper.traces import open_flags_trace
from memnotify_cuse.kernel.capabilities import die_with_parent
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.fdinfo import fdinfo_has_inodes
from memnotify_cuse.kernel.statx import FileId
from memnotify_cuse.lean import import_lean
from memnotify_cuse.logstream import say
from memnotify_cuse.scanner.doorbell import FirstTrace, open_first_trace, trace_path

log = logging.getLogger(__name__)

ANSWER_S: Final = 20.0
"""How long the name service may take, and a server for its first answers."""

LONGEST_REASON: Final = 4000

INODE_BYTES: Final = 5
INODE_BITS: Final = 16
"""The mount has less than 65,536 inodes, and they stay below 2^56, which all programs can show."""


def set_up_and_serve(config: Config, channel: Channel, keeper_pid: int) -> int:
    """Become the server; the exit code. Raises ServeError if that cannot start."""
    try:
        return _Setup(config, channel, keeper_pid).run()
    except (MountError, ApartError, KernelFileError) as error:
        raise ServeError(str(error)) from None


class _Setup:
    """One start. What it makes is told to the keeper at once, which will undo it."""

    def __init__(self, config: Config, channel: Channel, keeper_pid: int) -> None:
        self._config = config
        self._channel = channel
        self._keeper_pid = keeper_pid

    def run(self) -> int:
        config = self._config
        # Not yet as the server does, which changes its user: but a start must not outlive its keeper either.
        die_with_parent(self._keeper_pid, signal.SIGKILL)
        check_paths(config.device, config.mount)
        refused = _lower_oom_score()
        identity = self._choose_identity()
        trace = self._open_trace()
        flags = None
        if config.sigio is SigioMode.STRICT:
            flags = open_flags_trace(self._keeper_pid, self._undo)
        cuse_fd = open_cuse(config.device) if config.device is not None and _takes_cuse(config) else None
        mount = mount_control(config.mount, self._undo)
        self._tell_device(mount.device)
        first_inode = choose_first_inode()
        if cuse_fd is None and fdinfo_has_inodes():
            self._channel.send("inodes", str(first_inode))
        node = "none" if config.device is None else "fuse" if cuse_fd is None else "cuse"
        self._show_device(mount, cuse_fd, node)
        # Not earlier: the memory that it takes is not for the child.
        import_lean()
        from memnotify_cuse import daemon

        given = daemon.Given(
            keeper_pid=self._keeper_pid,
            channel=self._channel,
            fuse_fd=mount.fd,
            cuse_fd=cuse_fd,
            node=node,
            trace=trace.instance.pipe if trace.instance else None,
            trace_may_come=trace.may_come,
            flags_trace=flags.pipe if flags else None,
            identity=identity,
            keep=server_keeps(),
            first_inode=first_inode,
            refused=refused,
        )
        return daemon.serve(config, given)

    def _undo(self, line: str) -> None:
        self._channel.send("undo", line)

    def _tell_device(self, device: FileId) -> None:
        self._channel.send("device", f"{int(device.is_character_device)} {device.major} {device.minor}")

    def _choose_identity(self) -> Identity | None:
        if os.geteuid() != 0:
            return None
        # The name service may load a library for each of its sources, and ask the network.
        uid, gid = map(int, apart(_identity_text, ANSWER_S, "the name service").split())
        self._channel.send("identity", f"{uid} {gid}")
        return uid, gid

    def _open_trace(self) -> FirstTrace:
        if self._config.replay is not None:
            return FirstTrace(None)
        expected = trace_path(self._keeper_pid)
        if expected is not None:
            # Not afterwards: making it takes so long that a start may be ended meanwhile.
            self._undo(f"instance {expected}")
        trace = open_first_trace(self._keeper_pid)
        if trace.instance is not None and trace.instance.path != expected:
            self._undo(f"instance {trace.instance.path}")
        elif trace.may_come:
            self._channel.send("trace-at", str(trace_path(self._keeper_pid)))
        return trace

    def _show_device(self, mount: ControlMount, cuse_fd: int | None, node: str) -> None:
        """Have a child show the device where it is to be, once the server answers, and say that it is ready."""
        parent = os.getpid()

        def show() -> int:
            die_with_parent(parent, signal.SIGKILL)
            mount.release()
            if cuse_fd is not None:
                os.close(cuse_fd)
            try:
                self._show(mount.path, cuse_fd is not None)
            except (MountError, ApartError, ServeError) as error:
                self._channel.send("failed", str(error)[:LONGEST_REASON])
                return 1
            config = self._config
            device = config.device or config.mount / "mem_notify"
            say(f"ready: device={device} mount={config.mount} node={node}")
            self._channel.send("ready")
            return 0

        # It says itself what comes of it, so that nobody waits for it, and the kernel may forget it at its end.
        os.close(fork("memnotify-show", show).fileno())
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def _show(self, mount: Path, is_character_device: bool) -> None:
        device = self._config.device
        if device is None:
            device = mount / "mem_notify"
        elif is_character_device:
            shown = CharacterDevice(device)
            shown.open_up(self._undo)
            self._tell_device(shown.file_id)
        else:
            DeviceNode(device, mount / "mem_notify", self._undo)
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            raise ServeError(f"{device}: cannot be opened: {error.strerror}") from None


def choose_first_inode() -> int:
    """A number above which no other file system has inodes: a random one."""
    return int.from_bytes(os.urandom(INODE_BYTES), "little") << INODE_BITS


def _lower_oom_score() -> tuple[str, ...]:
    try:
        lower_oom_score()
    except OSError as error:
        return (f"oom_score_adj lowered ({error.strerror})",)
    return ()


def _identity_text() -> str:
    identity = choose_identity()
    if identity is None:
        raise ServeError("no user id is free for the server")
    return f"{identity[0]} {identity[1]}"


def _takes_cuse(config: Config) -> bool:
    if config.node is not NodeKind.AUTO:
        return config.node is NodeKind.CUSE
    return config.device is not None and config.device.parent == Path("/dev") and cuse_problem() is None
