"""``memnotify wait``: wait for one notification and print its record."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from memnotify_cuse import client
from memnotify_cuse.cgroupopen import CgroupError
from memnotify_cuse.cli.common import DEFAULT_DEVICE, EXIT_NEGATIVE, EXIT_OK, CommandError, seconds
from memnotify_cuse.record import Record, RecordError

if TYPE_CHECKING:
    from memnotify_cuse.cli.main import Subparsers

_EPILOG = """\
The record says which zone is short of memory, and how much to free (reclaim_target_kb).

examples:
  memnotify wait && systemctl reload my-cache
  memnotify wait --timeout 60 || echo "no memory pressure for a minute"
  memnotify wait --device /run/mem_notify/zones/node0-Normal
  memnotify wait --device /run/mem_notify/levels/critical
  memnotify wait --cgroup /kubepods/pod1     of the machine, or of that cgroup's limit, or one that it lies in
  memnotify wait --state                     until a zone comes under pressure, or its level changes, or it is over

In a loop, open the device once and read it line by line instead: between two runs of this command
no program is listening. In a shell: while read -r line; do ...; done < /dev/mem_notify

exit codes: 0 told (the record is on stdout), 1 timed out, 2 an error, 130 interrupted with Ctrl-C.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Describe ``memnotify wait``."""
    parser = subparsers.add_parser(
        "wait",
        help="wait for one notification and print its record",
        description="Wait until memory gets tight, print the device's record of it, and exit 0.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device",
        metavar="PATH",
        help=f"the device, or another in the mount (default: {DEFAULT_DEVICE}; with --state {client.DEFAULT_STATE})",
    )
    parser.add_argument(
        "--state",
        action="store_true",
        help="wait for the next change of a zone's state, the end of pressure included, and print each that changed",
    )
    parser.add_argument(
        "--cgroup",
        metavar="PATH",
        help="wait for the limits of this memory cgroup, in place of this process's own: its path as in "
        "/proc/PID/cgroup, or its folder (needs the right to move processes into it)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        help="give up after this long, with exit code 1 (default: wait for ever)",
    )


def run(args: argparse.Namespace) -> int:
    """Wait as ``args`` says. Return 0 when told, 1 when timed out; raise CommandError for the rest."""
    if args.state and args.cgroup:
        raise CommandError("--state tells of zones alone: not with --cgroup")
    device: str = args.device or (client.DEFAULT_STATE if args.state else DEFAULT_DEVICE)
    try:
        if args.state:
            records = _next_changes(device, args.timeout)
        else:
            record = client.wait(args.timeout, device=device, cgroup=args.cgroup)
            if record is not None and not record.pressure:
                raise CommandError(f"{device} tells of the end of pressure, too: use --state")
            records = [record] if record is not None else []
    except (client.DeviceError, CgroupError) as error:
        raise CommandError(str(error)) from None
    except RecordError as error:
        raise CommandError(f"{device} does not send memory notifications: {error}") from None
    except OSError as error:
        raise CommandError(f"cannot wait on {device}: {error.strerror}") from None
    if not records:
        return EXIT_NEGATIVE
    for each in records:
        sys.stdout.write(each.format().decode("ascii"))
    return EXIT_OK


def _next_changes(device: str, timeout: float | None) -> list[Record]:
    """The records of what changes next, none if nothing does within ``timeout``. Raises what the client raises."""
    with client.MemNotify(device) as memory:
        # How it is now, which is no change.
        while memory.wait(0) is not None:
            pass
        records = []
        record = memory.wait(timeout)
        while record is not None:
            records.append(record)
            record = memory.wait(0)
    return records
