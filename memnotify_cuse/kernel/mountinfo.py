r"""/proc/self/mountinfo: what is mounted where.

    36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    (1)(2)(3)   (4)   (5)      (6)      (7)   (8) (9)   (10)         (11)

Field 3 is the device, major and minor, as in stat's st_dev. Field 5 is the mount point, with space, tab, newline and
backslash as \040, \011, \012, \134; after the hyphen come file system type and source. All other bytes of a name are as
the file system has them: any user who may mount through fusermount3 can put a form feed, U+2028 or bytes that are not
UTF-8 here. Source: fs/proc_namespace.c, show_mountinfo().
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: its mount point, file system type (with a subtype, as in `fuse.sshfs`), source and device.

    `mount_id` stays when it is moved; `root` is what of the file system is shown, "/" for all of it. `options` are the
    file system's own, such as the controllers of a cgroup v1 hierarchy.
    """

    mount_point: str
    fstype: str
    source: str
    major: int = 0
    minor: int = 0
    mount_id: int = 0
    root: str = "/"
    options: str = ""


def parse_mountinfo(text: str, path: str = "/proc/self/mountinfo") -> list[Mount]:
    """All mounts, in mount order: of several on one mount point the last one is seen. Raises MalformedKernelFileError.

    `text` is as os.fsdecode() gives it, and so are the names in the result.
    """
    mounts = []
    # Not splitlines(), which takes a form feed or U+2028 in a name for the end of a line.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        mounts.append(_parse_line(line, number, path))
    return mounts


def _parse_line(line: str, number: int, path: str) -> Mount:
    fields = line.split(" ")
    try:
        separator = fields.index("-", 6)
        major, minor = map(int, fields[2].split(":"))
        kind, source = fields[separator + 1], _unescape(fields[separator + 2])
        options = fields[separator + 3] if len(fields) > separator + 3 else ""
        return Mount(_unescape(fields[4]), kind, source, major, minor, int(fields[0]), _unescape(fields[3]), options)
    except (ValueError, IndexError):
        raise MalformedKernelFileError(path, number, "not a mount") from None


def read_mountinfo(proc: Path = Path("/proc")) -> list[Mount]:
    """All mounts that can be parsed. Raises KernelFileGoneError."""
    lines, path = _read_lines(proc)
    mounts = []
    for number, line in enumerate(lines, 1):
        with contextlib.suppress(MalformedKernelFileError):
            mounts.append(_parse_line(line, number, path))
    return mounts


def mount_at(mount_point: Path, proc: Path = Path("/proc")) -> Mount | None:
    """The mount that is seen at `mount_point` itself, None if nothing is mounted there. Asks no file system.

    A line that is about another place is skipped, whatever is wrong with it. Raises KernelFileGoneError,
    MalformedKernelFileError.
    """
    lines, path = _read_lines(proc)
    for number in range(len(lines), 0, -1):
        fields = lines[number - 1].split(" ", 5)
        if len(fields) > 4 and _unescape(fields[4]) == str(mount_point):
            return _parse_line(lines[number - 1], number, path)
    return None


def _read_lines(proc: Path) -> tuple[list[str], str]:
    path = proc / "self" / "mountinfo"
    try:
        return os.fsdecode(path.read_bytes()).removesuffix("\n").split("\n"), str(path)
    except OSError as error:
        raise KernelFileGoneError(str(path), error.strerror or str(error)) from error


def _unescape(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)
