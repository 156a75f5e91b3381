"""What the subcommands share: exit codes, default paths, argument types, and the error told in one line."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from memnotify_cuse.client import DEFAULT_DEVICE as DEFAULT_DEVICE

EXIT_OK = 0
EXIT_NEGATIVE = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

DEFAULT_MOUNT = "/run/mem_notify"


class CommandError(Exception):
    """An error the user can do something about; ``main`` prints it as ``memnotify: …`` and exits 2."""


def seconds(text: str) -> float:
    """Argument type: a finite number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 up")
    return value


def mount_path(path: str) -> Path:
    """`path` as the kernel will show it in mountinfo: absolute, without symbolic links and `..`.

    Raises CommandError for no path at all.
    """
    if not path:
        raise CommandError("--mount '': there has to be a folder for the control file system")
    return Path(os.path.realpath(path))


def device_path(path: str) -> Path:
    """The same, but for a symbolic link in the last place, which would be a file that is not ours."""
    parent, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        return mount_path(path)
    return mount_path(parent or ".") / name
