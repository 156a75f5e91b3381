"""Open the device from within a memory cgroup, for a program that watches over it from outside.

    python -m memnotify_cuse.cgroupopen DEVICE CGROUP SOCKET

An open file is told of the limits of the cgroup that it was opened in, wherever it is used. So this process joins the
cgroup, opens the device, and passes the open file on by the socket. That takes the right to move processes into the
cgroup: the kernel decides. What went wrong goes the same way: with the device or with the cgroup, an errno, a sentence.

A cgroup of v2 that has others below it takes no process. Then one is made in it for that moment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

from memnotify_cuse.kernel.cgroup import Hierarchy, find_hierarchy, parse_cgroup
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.mountinfo import read_mountinfo

_MESSAGE_BYTES = 1024
_CGROUP, _DEVICE = "cgroup", "device"


class CgroupError(OSError):
    """The cgroup is not there, or may not be joined. ``str()`` is one line that names it."""

    def __str__(self) -> str:
        return str(self.strerror)


def open_in_cgroup(device: str, cgroup: str) -> int:
    """A descriptor of `device`, opened in `cgroup`: its path as in /proc/PID/cgroup, or its folder.

    Raises CgroupError for what is wrong with the cgroup, OSError for what is wrong with the device.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = [sys.executable, "-m", __name__, device, cgroup, str(theirs.fileno())]
        # The package may be where only this program's path leads.
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        subprocess.run(
            command,
            pass_fds=(theirs.fileno(),),
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        message, fds, _, _ = socket.recv_fds(ours, _MESSAGE_BYTES, 1)
    if fds:
        os.set_inheritable(fds[0], False)
        return fds[0]
    if not message:
        raise CgroupError(errno.EIO, f"the process that was to open {device} in {cgroup} has ended")
    what, code, reason = message.decode("utf-8", "surrogateescape").split(" ", 2)
    raise CgroupError(int(code), reason) if what == _CGROUP else OSError(int(code), reason, device)


def main(arguments: list[str]) -> int:
    """Do it. The exit code is 0 if the descriptor was sent."""
    device, cgroup, number = arguments
    with socket.socket(fileno=int(number)) as channel:
        try:
            fd = _open(device, cgroup)
        except OSError as error:
            what = _CGROUP if isinstance(error, CgroupError) else _DEVICE
            reason = f"{what} {error.errno or errno.EIO} {error.strerror or error}"
            channel.send(reason.encode("utf-8", "surrogateescape")[:_MESSAGE_BYTES])
            return 1
        socket.send_fds(channel, [b"0"], [fd])
    return 0


def _open(device: str, cgroup: str) -> int:
    with contextlib.ExitStack() as stack:
        folder = _folder(cgroup)
        try:
            join(folder)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
                raise CgroupError(
                    error.errno or errno.EIO, f"cannot join the cgroup {cgroup}: {error.strerror}"
                ) from None
            own = Path("/proc/self/cgroup").read_text()
            below = folder / f"memnotify-{os.getpid()}"
            try:
                below.mkdir()
                stack.callback(_remove, below, _folder_of(own))
                join(below)
            except OSError as refused:
                raise CgroupError(
                    refused.errno or errno.EIO, f"cannot join a cgroup in {cgroup}: {refused.strerror}"
                ) from None
        return os.open(device, os.O_RDONLY | os.O_NONBLOCK)


def join(folder: Path) -> None:
    """Move this process there. Raises OSError."""
    (folder / "cgroup.procs").write_text("0")


def _remove(folder: Path, back: Path) -> None:
    with contextlib.suppress(OSError):
        join(back)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _hierarchy() -> Hierarchy:
    try:
        hierarchy = find_hierarchy(read_mountinfo())
    except KernelFileError as error:
        raise CgroupError(errno.ENOENT, str(error)) from None
    if hierarchy is None:
        raise CgroupError(errno.ENOENT, "memory cgroups are not mounted here")
    return hierarchy


def _folder(cgroup: str) -> Path:
    hierarchy = _hierarchy()
    if Path(cgroup).is_relative_to(hierarchy.mount_point):
        folder: Path | None = Path(cgroup)
    else:
        # As /proc/PID/cgroup has it: a character for each byte.
        folder = hierarchy.directory("/" + str(os.fsencode(cgroup.strip("/")), "latin-1"))
    if folder is None or not folder.is_dir():
        raise CgroupError(errno.ENOENT, f"there is no memory cgroup {cgroup}")
    return folder


def _folder_of(text: str) -> Path:
    hierarchy = _hierarchy()
    return hierarchy.directory(parse_cgroup(text, unified=hierarchy.unified)) or hierarchy.mount_point


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
