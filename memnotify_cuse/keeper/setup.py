"""What root does for a server before it serves: mounts, trace instances. Runs in a process of its own, under the
keeper.

It hands the connections over to the keeper, closes them here, and shows the device, which waits for the server's
answers.
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
from memnotify_cuse.keeper.children import ApartError
from memnotify_cuse.keeper.handover import Given, close_handed_over, hand_over
from memnotify_cuse.keeper.mount import DeviceNode, MountError, check_paths, mount_control
from memnotify_cuse.keeper.rights import Identity, choose_identity, oom_score_is_lowered, too_few_descriptors
from memnotify_cuse.keeper.statefile import create_state
from memnotify_cuse.keeper.traces import open_file_trace, open_flags_trace
from memnotify_cuse.keeper.watch import watch_line
from memnotify_cuse.kernel.capabilities import die_with_parent
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.fdinfo import fdinfo_has_inodes
from memnotify_cuse.kernel.statx import FileId
from memnotify_cuse.logstream import say
from memnotify_cuse.scanner.sources import FirstTrace, open_first_trace, trace_path

log = logging.getLogger(__name__)


INODE_BYTES: Final = 5
INODE_BITS: Final = 16
"""The mount has less than 65,536 inodes, and they stay below 2^56, which all programs can show."""


def set_up(config: Config, log_level: str, channel: Channel, keeper_pid: int) -> None:
    """Make what a server needs, hand it over, and show the device once it serves. Raises ServeError."""
    try:
        _Setup(config, channel, keeper_pid).run(log_level)
    except (MountError, ApartError, KernelFileError) as error:
        raise ServeError(str(error)) from None


class _Setup:
    """One start. What it makes is told to the keeper at once, which will undo it."""

    def __init__(self, config: Config, channel: Channel, keeper_pid: int) -> None:
        self._config = config
        self._channel = channel
        self._keeper_pid = keeper_pid

    def run(self, log_level: str) -> None:
        config = self._config
        die_with_parent(self._keeper_pid, signal.SIGKILL)
        refusal = too_few_descriptors()
        if refusal is not None:
            raise ServeError(refusal)
        check_paths(config.device, config.mount)
        identity = self._choose_identity()
        trace = self._open_trace()
        flags = None
        if config.sigio is SigioMode.STRICT:
            flags = open_flags_trace(self._keeper_pid, self._undo)
        elif config.sigio is SigioMode.AUTO and identity is not None:
            flags = open_file_trace(self._keeper_pid, self._undo)
        cuse_fd = open_cuse(config.device) if config.device is not None and takes_cuse(config) else None
        mount = mount_control(config.mount, self._undo)
        self._tell_device(mount.device)
        self._channel.send("mount", str(config.mount))
        first_inode = choose_first_inode()
        if cuse_fd is None and fdinfo_has_inodes():
            self._channel.send("inodes", str(first_inode))
        given = Given(
            config=config,
            log_level=log_level,
            node="none" if config.device is None else "fuse" if cuse_fd is None else "cuse",
            first_inode=first_inode,
            fuse_fd=mount.fd,
            lock_fd=mount.lock,
            state_fd=create_state(),
            cuse_fd=cuse_fd,
            trace=trace.instance.pipe if trace.instance else None,
            trace_may_come=trace.may_come,
            flags_trace=flags.pipe if flags else None,
            identity=identity,
            refused=_oom_score_refused(),
        )
        hand_over(self._channel, given)
        # What follows waits for answers of the server's, which this process must not be able to keep from ending.
        close_handed_over(given)
        self._show(given.node == "cuse")
        device = config.device or config.mount / "mem_notify"
        shown = "" if config.device is None or cuse_fd is not None else str(config.device)
        self._channel.send("watch", watch_line(mount.device.major, mount.device.minor, str(config.mount), shown))
        say(f"ready: device={device} mount={config.mount} node={given.node}")
        self._channel.send("ready")

    def _undo(self, line: str) -> None:
        self._channel.send("undo", line)

    def _tell_device(self, device: FileId) -> None:
        self._channel.send("device", f"{int(device.is_character_device)} {device.major} {device.minor}")

    def _choose_identity(self) -> Identity | None:
        if os.geteuid() != 0:
            return None
        identity = choose_identity()
        if identity is None:
            raise ServeError("no user id is free for the server")
        self._channel.send("identity", f"{identity[0]} {identity[1]}")
        return identity

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
        if trace.instance is not None or trace.may_come:
            # Where one is made that is asked for later.
            self._channel.send("trace-at", str(trace.instance.path if trace.instance else trace_path(self._keeper_pid)))
        return trace

    def _show(self, is_character_device: bool) -> None:
        """Show the device where it is to be, and see that it can be opened."""
        in_mount = self._config.mount / "mem_notify"
        device = self._config.device
        if device is None:
            device = in_mount
        elif is_character_device:
            shown = CharacterDevice(device)
            shown.open_up(self._undo)
            self._tell_device(shown.file_id)
        else:
            DeviceNode(device, in_mount, self._undo)
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            raise ServeError(f"{device}: cannot be opened: {error.strerror}") from None


def choose_first_inode() -> int:
    """A number above which no other file system has inodes: a random one."""
    return int.from_bytes(os.urandom(INODE_BYTES), "little") << INODE_BITS


def _oom_score_refused() -> tuple[str, ...]:
    """What the keeper was not permitted: it has tried to lower the score of itself and its children."""
    return () if oom_score_is_lowered() else ("oom_score_adj lowered (Permission denied)",)


def takes_cuse(config: Config) -> bool:
    """Whether the device is to be a character device."""
    if config.node is not NodeKind.AUTO:
        return config.node is NodeKind.CUSE
    return config.device is not None and config.device.parent == Path("/dev") and cuse_problem() is None
