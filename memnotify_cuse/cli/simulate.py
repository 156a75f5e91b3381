"""``memnotify simulate``: have the server tell its watchers, as if memory were tight."""

from __future__ import annotations

import argparse
import errno
import os
import re
from typing import TYPE_CHECKING

from memnotify_cuse.cli.common import DEFAULT_MOUNT, EXIT_OK, CommandError, seconds
from memnotify_cuse.cli.statusfile import IGNORED, mount_error, read_status
from memnotify_cuse.record import LEVEL_LOW, LEVELS, MAX_SIMULATION_S

if TYPE_CHECKING:
    from memnotify_cuse.cli.main import Subparsers

DEFAULT_SECONDS = 1.0

_ZONE = re.compile(r"all|node[0-9]+-[A-Za-z0-9_]+", re.ASCII)

_EPILOG = """\
A simulation takes the same way through the server as real pressure does, and its records say
reason=simulated. Programs do free their caches, so mind where you try it.

examples:
  sudo memnotify simulate                            every zone, for one second
  sudo memnotify simulate --zone node0-Normal --for 5
  sudo memnotify simulate --level critical           as if the OOM killer were near
  memnotify simulate --mount ~/memnotify             a server of your own

Without this command: echo "all 1 critical" > /run/mem_notify/simulate

exit codes: 0 the server has accepted it (and goes on by itself), 2 an error.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Describe ``memnotify simulate``."""
    parser = subparsers.add_parser(
        "simulate",
        help="tell the watchers, as if memory were tight",
        description="Raise simulated memory pressure on one zone or all of them, for a while.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--mount", metavar="DIR", default=DEFAULT_MOUNT, help="the server's mount (default: %(default)s)"
    )
    parser.add_argument(
        "--zone",
        metavar="all|nodeN-NAME",
        type=_zone,
        default="all",
        help="which zone; 'memnotify status' lists them (default: %(default)s)",
    )
    parser.add_argument(
        "--for",
        dest="seconds",
        metavar="SECONDS",
        type=_seconds,
        default=DEFAULT_SECONDS,
        help=f"how long the pressure lasts, {MAX_SIMULATION_S:.0f} s at most; 0 ends one (default: %(default)s)",
    )
    parser.add_argument(
        "--level",
        choices=LEVELS,
        default=LEVEL_LOW,
        help="the level of the pressure (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the request that ``args`` describe. Return 0, or raise CommandError."""
    mount: str = args.mount
    path = os.path.join(mount, "simulate")
    request = f"{args.zone} {_decimal(args.seconds)}"
    if args.level != LEVEL_LOW:
        # Not said where it is not needed: an older server knows no levels.
        request += f" {args.level}"
    try:
        # Not open(): its O_CREAT would leave a file behind in a directory that is no mount.
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, f"{request}\n".encode("ascii"))
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _refused(mount, args.zone, request) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise CommandError(
                f"no permission to simulate on {mount}: only root or the owner of the mount may (try sudo)"
            ) from None
        raise mount_error(mount, error) from None
    print(f"simulating pressure on {'all zones' if args.zone == 'all' else args.zone} for {args.seconds:g} s")
    return EXIT_OK


def _refused(mount: str, zone: str, request: str) -> CommandError:
    """Say why the server would not take ``request``: most often there is no such zone, or it is too small to count."""
    zones = read_status(mount).zones
    names = [f"node{each['node']}-{each['zone']}" for each in zones if each.get("status") != IGNORED]
    if zone == "all" or zone in names:
        return CommandError(f"the server refuses {request!r}; its log says why")
    return CommandError(f"there is no zone {zone} to simulate; there are: {', '.join(names) or 'none'}")


def _seconds(text: str) -> float:
    """Argument type: how long a simulation lasts."""
    found = seconds(text)
    if found > MAX_SIMULATION_S:
        raise argparse.ArgumentTypeError(f"{text} is more than {MAX_SIMULATION_S:.0f} s")
    return found


def _zone(text: str) -> str:
    """Argument type: ``all`` or a zone's name; whether the zone exists is for the server to say."""
    if not _ZONE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'all' nor of the form nodeN-NAME")
    return text


def _decimal(value: float) -> str:
    """Return ``value`` in plain decimal notation (never 1e-05), as the simulate file takes it."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
