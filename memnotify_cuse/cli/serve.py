"""``memnotify serve``: serve the device in the foreground until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from memnotify_cuse.cli.common import (
    DEFAULT_DEVICE,
    DEFAULT_MOUNT,
    EXIT_ERROR,
    EXIT_OK,
    CommandError,
    device_path,
    mount_path,
)
from memnotify_cuse.keeper.start import serve

if TYPE_CHECKING:
    from memnotify_cuse.cli.main import Subparsers
    from memnotify_cuse.config import Config
    from memnotify_cuse.keeper.channel import Channel

_LEVELS = ("debug", "info", "warning", "error")

_PROC = "/proc"

_EPILOG = """\
examples:
  sudo memnotify serve                              /dev/mem_notify, for every program
  memnotify serve --device '' --mount ~/mem         an ordinary user's own: ~/mem/mem_notify
  memnotify serve --device '' --mount ~/mem --replay trouble.jsonl.gz
                                                    the same, fed from a recording

Prints "ready: device=... mount=... node=..." on stderr once the device can be opened.
exit codes: 0 stopped by SIGTERM or SIGINT; 1 the server ended by itself; 2 it could not start.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "serve",
        help="serve the device",
        description="Serve the device in the foreground.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device",
        default=str(DEFAULT_DEVICE),
        metavar="PATH",
        help="where programs find the device (default: %(default)s); '' for the one in the mount alone",
    )
    parser.add_argument(
        "--mount",
        default=DEFAULT_MOUNT,
        metavar="DIR",
        help="where to mount the control file system (default: %(default)s)",
    )
    parser.add_argument(
        "--node",
        choices=("auto", "cuse", "fuse", "none"),
        default="auto",
        help="what the device is: a character device (cuse; needs /dev/cuse and a name directly under /dev), a file "
        "shown at its path (fuse), the first of these that can be had (auto), or only the one in the mount (none); "
        "default: %(default)s",
    )
    parser.add_argument("--proc", metavar="DIR", help=f"where to read zoneinfo and vmstat (default: {_PROC})")
    parser.add_argument(
        "--replay",
        metavar="FILE",
        help="take the counters from a recording (memnotify record), at its own pace, in place of this machine's",
    )
    parser.add_argument(
        "--sigio",
        choices=("auto", "owner", "strict", "off"),
        default="auto",
        help="who gets SIGIO: programs that set an owner with F_SETOWN, until they clear O_ASYNC, where the kernel has "
        "kprobe events to see that (auto), or whatever they do with it (owner); only those that set O_ASYNC as well "
        "(strict; makes every system call of the machine a little slower); nobody (off); default: %(default)s",
    )
    parser.add_argument(
        "--headroom",
        type=_headroom_kb,
        metavar="SIZE",
        help="how much memory must be left when swap and page cache run out, as in 64M or 1G; default: measured, "
        "from how fast memory is being taken",
    )
    parser.add_argument(
        "--log-level",
        choices=_LEVELS,
        default="info",
        metavar="LEVEL",
        help=f"{', '.join(_LEVELS)}; default: %(default)s",
    )
    parser.add_argument(
        "--no-herd-control",
        action="store_true",
        help="wake every watcher at each notification instead of one in sixteen (for measurements)",
    )


def _headroom_kb(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([KMG])", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512K, 64M or 1G")
    return int(match[1]) * {"K": 1, "M": 1024, "G": 1024 * 1024}[match[2]]


def run(args: argparse.Namespace) -> int:
    """Serve, under a keeper that is this process."""
    from memnotify_cuse.keeper.keeper import keep
    from memnotify_cuse.keeper.rights import raise_limits, too_few_descriptors

    raise_limits()
    refusal = too_few_descriptors()
    if refusal is not None:
        raise CommandError(refusal)
    return keep(partial(set_up, args), serve)


def set_up(args: argparse.Namespace, channel: Channel, keeper_pid: int) -> int:
    """Set the server up; the exit code. What keeps it from starting is one line on stderr."""
    from memnotify_cuse.config import ServeError
    from memnotify_cuse.keeper import setup
    from memnotify_cuse.logstream import log_to_stderr, say

    log_to_stderr(args.log_level)
    try:
        setup.set_up(_config(args), args.log_level, channel, keeper_pid)
    except (CommandError, ServeError) as error:
        say(f"memnotify: {error}")
        return EXIT_ERROR
    return EXIT_OK


def _config(args: argparse.Namespace) -> Config:
    from memnotify_cuse.config import Config, NodeKind, SigioMode
    from memnotify_cuse.device.policy import Policy

    device = None
    if args.node != "none" and args.device:
        device = device_path(args.device)
    if device is None and args.node in ("cuse", "fuse"):
        raise CommandError(f"--node {args.node} makes a device, and --device '' says that there is to be none")
    if args.replay is not None and args.proc is not None:
        raise CommandError("--replay and --proc both say where the counters come from: name one of them")
    policy = Policy(herd_divisor=None) if args.no_herd_control else Policy()
    return Config(
        device=device,
        mount=mount_path(args.mount),
        node=NodeKind.AUTO if args.node == "none" else NodeKind(args.node),
        proc=Path(args.proc or _PROC).absolute(),
        replay=None if args.replay is None else Path(args.replay),
        policy=policy,
        sigio=SigioMode(args.sigio),
        headroom_kb=args.headroom,
    )
