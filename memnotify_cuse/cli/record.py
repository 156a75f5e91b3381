"""``memnotify record``: write down what the scanner sees, for ``memnotify serve --replay`` and for tests."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memnotify_cuse.cli.common import EXIT_OK, CommandError, seconds
from memnotify_cuse.cli.streams import complain

if TYPE_CHECKING:
    from memnotify_cuse.cli.main import Subparsers

_EPILOG = """\
Samples are taken as the server takes them: seldom at rest, every 20 to 50 ms while the kernel reclaims. Each is
in the file at once, so that what was recorded can be read even if the recorder is killed. Trace events need root;
everything else does not.

examples:
  sudo memnotify record trouble.jsonl.gz                  until Ctrl-C
  memnotify record --seconds 60 minute.jsonl.gz
  memnotify serve --replay trouble.jsonl.gz --device '' --mount ~/mem
  zcat trouble.jsonl.gz | head -1                         which machine it is of

exit codes: 0 recorded (to the end, or until SIGINT, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2), 2 an error.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Describe ``memnotify record``."""
    parser = subparsers.add_parser(
        "record",
        help="write what the kernel's counters do to a file, for serve --replay",
        description="Record what the scanner sees, sample by sample.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="where to; it must not exist")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--proc", default="/proc", metavar="DIR", help="where to read zoneinfo and vmstat (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=seconds, metavar="N", help="end after this long (default: when a signal such as SIGINT comes)"
    )


def run(args: argparse.Namespace) -> int:
    """Record as ``args`` says. Return 0, or raise CommandError."""
    if os.path.lexists(args.file) and not args.force:
        raise CommandError(f"{args.file} exists; --force replaces it")
    from memnotify_cuse.recorder import RecorderConfig, RecorderError, record

    logging.basicConfig(stream=sys.stderr, level="WARNING", format="memnotify: %(levelname)s: %(message)s")
    logging.raiseExceptions = False
    config = RecorderConfig(Path(args.file), Path(args.proc), args.seconds, replace=args.force, say=complain)
    try:
        done = record(config)
    except RecorderError as error:
        raise CommandError(str(error)) from None
    pressure = {0: "no zone came under pressure", 1: "a zone came under pressure once"}
    seen = pressure.get(done.raised, f"zones came under pressure {done.raised} times")
    print(f"{args.file}: {done.samples} samples, {done.size_bytes} bytes; {seen}")
    return EXIT_OK
