"""Making a mount of ours again that was taken away. Runs in a child of the keeper, under `keeper.watch`.

A mount that was moved is shown at its own path again, and taken away from where it was moved to. A file system that is
in use lives on when it is unmounted (`umount -l`). mount(2) with the descriptor of its connection mounts the same one
again: fs/fuse/inode.c, fuse_get_tree(), since Linux 5.10.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memnotify_cuse.keeper.channel import Channel
from memnotify_cuse.keeper.children import ApartError, whole_step
from memnotify_cuse.keeper.mount import (
    MountError,
    make_directory,
    mount_connection,
    refuse_file,
    remove_if_dead,
    show_device,
    why_not_at,
)
from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.capabilities import die_with_parent
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.mountid import mount_seen_at
from memnotify_cuse.kernel.mountinfo import Mount, mount_at, read_mountinfo

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0


class MountLostError(Exception):
    """The mount cannot be made again by this server; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A mount that was at `path`, of the file system with the device `number` (major, minor).

    `mount` is where the control file system is when the device is missing, None when it is missing itself. `mount_id`
    is the one that the mount had, if known. `connection` is a descriptor of the connection to /dev/fuse, if there is
    one.
    """

    path: str
    mount: str | None
    number: tuple[int, int]
    mount_id: int | None
    connection: int | None


def make_again(missing: Missing, channel: Channel, keeper_pid: int, pause_s: float) -> int:
    """Make the mount again, after `pause_s`, and try until it is there; the exit code.

    Sends to the keeper: `undo LINE`; then `made MOUNT-ID PATH`, or `lost WHY`; and `failed WHY` at the first failure
    only.
    """
    die_with_parent(keeper_pid, signal.SIGKILL)
    time.sleep(pause_s)
    next_pause_s = FIRST_PAUSE_S
    failed = False
    while True:
        try:
            _bring_back(missing, lambda line: channel.send("undo", line))
            channel.send("made", f"{mount_seen_at(missing.path)[2] or 0} {missing.path}")
        except MountLostError as error:
            channel.send("lost", str(error))
            return 1
        except (MountError, ApartError, KernelFileError, OSError) as error:
            if not failed:
                channel.send("failed", str(error))
            failed = True
        else:
            return 0
        time.sleep(next_pause_s)
        next_pause_s = min(LONGEST_PAUSE_S, 2 * next_pause_s)


def _bring_back(missing: Missing, undo: Callable[[str], object]) -> None:
    if _is_ours(missing, missing.path):
        return
    moved = [mount for mount in read_mountinfo() if (mount.major, mount.minor) == missing.number]
    if missing.mount is not None:
        _show_device_again(Path(missing.path), Path(missing.mount, "mem_notify"), missing, undo)
    else:
        _mount_control_again(missing, [mount for mount in moved if mount.root == "/"], undo)
    for mount in moved:
        # Not one that another program has bound from ours.
        if mount.mount_id == missing.mount_id and mount.mount_point != missing.path:
            libc.unmount(mount.mount_point)


def _is_ours(missing: Missing, path: str) -> bool:
    try:
        return mount_seen_at(path)[:2] == missing.number
    except OSError:
        return False


def _show_device_again(path: Path, node: Path, missing: Missing, undo: Callable[[str], object]) -> None:
    mounted = mount_at(path)
    if mounted is not None and (mounted.major, mounted.minor) == missing.number:
        # It is there, but hidden under what was mounted above it.
        refuse_file(path)
    else:
        remove_if_dead(path)
        refusal = why_not_at(path)
        if refusal is not None:
            raise MountError(refusal)
    show_device(path, node, undo)


def _mount_control_again(missing: Missing, elsewhere: list[Mount], undo: Callable[[str], object]) -> None:
    path = Path(missing.path)
    if os.geteuid() != 0 or (missing.connection is None and not elsewhere):
        raise MountLostError(f"{path}: the control file system was unmounted; restart the server to have it again")
    with whole_step():
        if make_directory(path):
            undo(f"rmdir {path}")
    if elsewhere:
        libc.mount(elsewhere[-1].mount_point, missing.path, None, libc.MS_BIND)
    elif missing.connection is not None:
        mount_connection(path, missing.connection)
        if not _is_ours(missing, missing.path):
            # Another file system than before: the kernel did not know the connection any more.
            libc.unmount(missing.path)
            raise MountLostError(f"{path}: the connection has ended with its last mount; restart the server")
