"""``memnotify reload``: have the code that is installed now go on where the running server is."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import time
from typing import TYPE_CHECKING

from memnotify_cuse.cli.common import DEFAULT_MOUNT, EXIT_NEGATIVE, EXIT_OK, CommandError
from memnotify_cuse.cli.statusfile import mount_error

if TYPE_CHECKING:
    from memnotify_cuse.cli.main import Subparsers

RELOAD_S = 30.0
"""How long the new server may take until it serves; on a machine that is short of memory a start takes long."""
PAUSE_S = 0.05

_EPILOG = """\
No program notices: open files, mounts and bind mounts stay. Code that does not start is not used; the old server goes
on then, and its log says why. The same as SIGHUP to the server's first process.

exit codes: 0 another server has taken over, 1 none has within 30 seconds, 2 an error.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Describe ``memnotify reload``."""
    parser = subparsers.add_parser(
        "reload",
        help="replace the running server by the code that is installed now",
        description="Start the code that is installed now, and have it take over from the running server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--mount", metavar="DIR", default=DEFAULT_MOUNT, help="the server's mount (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Ask for it, and wait until another process answers."""
    before = _facts(args.mount)
    _ask_for_reload(before["pid"])
    deadline_s = time.monotonic() + RELOAD_S
    while time.monotonic() < deadline_s:
        # Between two servers the question waits.
        after = _facts(args.mount)
        if after["server_pid"] != before["server_pid"]:
            print(f"reloaded: version {before['version']} -> {after['version']}, process {after['server_pid']}")
            return EXIT_OK
        time.sleep(PAUSE_S)
    print("not reloaded: the server's log says why")
    return EXIT_NEGATIVE


def _ask_for_reload(pid: str) -> None:
    """SIGHUP to a server's first process. What a mount says of it may be of another pid namespace, or have ended.

    The process is held by a pidfd from before it is looked at: the signal goes to it, or to none.
    """
    try:
        pidfd = os.pidfd_open(int(pid))
        try:
            with open(f"/proc/{int(pid)}/cmdline", "rb") as file:
                if b"memnotify" not in file.read():
                    raise ProcessLookupError(
                        errno.ESRCH, "no server of ours; it runs in another container, or has ended"
                    )
            signal.pidfd_send_signal(pidfd, signal.SIGHUP)
        finally:
            os.close(pidfd)
    except OSError as error:
        raise CommandError(f"the server (process {pid}): {error.strerror}") from None
    except ValueError:
        raise CommandError(f"the server says that it is process {pid!r}") from None


def _facts(mount: str) -> dict[str, str]:
    """What the file `server` says."""
    try:
        with open(os.path.join(mount, "server"), encoding="ascii") as file:
            words = file.read().split()
    except OSError as error:
        raise mount_error(mount, error) from None
    facts = dict(word.split("=", 1) for word in words if "=" in word)
    if not {"pid", "server_pid", "version"} <= facts.keys():
        raise CommandError(f"{mount}: what is serving there cannot be reloaded")
    return facts
