"""``memnotify explain``: why a notice was given at a moment, or why not."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memnotify_cuse.cli.common import EXIT_NEGATIVE, EXIT_OK, CommandError, seconds

if TYPE_CHECKING:
    from memnotify_cuse.cli.main import Subparsers
    from memnotify_cuse.scanner.explain import Moment
    from memnotify_cuse.scanner.machine import Machine
    from memnotify_cuse.scanner.sample import Sample

LIVE_S = 1.0
LIVE_EVERY_S = 0.05

_EPILOG = """\
Of a recording it is the first moment at which a zone came under pressure, or, where none did, the one nearest to it.
Without a recording it is this machine now, after a second of watching it.

Sizes are of memory. Each rule is shown with its conditions: `ok` holds, `--` does not. Of the rules that say yes the
last one gives the reason; a zone is raised by it if it is short itself. docs/detection-rules.md says why.

examples:
  memnotify explain                                this machine
  memnotify explain trouble.jsonl.gz               the first notice of a recording
  memnotify explain trouble.jsonl.gz --at 12.5     12.5 s after its beginning
  memnotify explain trouble.jsonl.gz --time-ns N   the moment of a record: its time_ns
  memnotify explain trouble.jsonl.gz --raise 3     the third time that a zone came under pressure

exit codes: 0 a zone gave evidence at that moment, 1 none did, 2 an error.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Describe ``memnotify explain``."""
    parser = subparsers.add_parser(
        "explain",
        help="say by which rule a zone came under pressure, or what was missing for it",
        description="Show the counters at a moment, what each rule made of them, and what was missing for it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="RECORDING", nargs="?", help="what memnotify record wrote (default: live)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--at", type=seconds, metavar="SECONDS", help="so long after the first sample")
    which.add_argument("--time-ns", type=int, metavar="N", help="at the time_ns of a record")
    which.add_argument(
        "--raise", type=int, metavar="N", dest="nth", help="when a zone came under pressure, counted from 1"
    )
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


class _Found(NamedTuple):
    moment: Moment
    began_ns: int
    raises: int


def run(args: argparse.Namespace) -> int:
    """Explain as ``args`` says. Return 0 or 1, or raise CommandError."""
    from memnotify_cuse.kernel.errors import KernelFileError
    from memnotify_cuse.scanner.errors import RecordingError
    from memnotify_cuse.scanner.explain import as_object, as_text

    if args.file is None and (args.at, args.time_ns, args.nth) != (None, None, None):
        raise CommandError("--at, --time-ns and --raise need a recording")
    try:
        found = _of_this_machine() if args.file is None else _of_recording(args)
    except (RecordingError, KernelFileError) as error:
        raise CommandError(str(error)) from None
    if args.json:
        print(json.dumps({"raises": found.raises, **as_object(found.moment)}, indent=2))
    else:
        times = "once" if found.raises == 1 else f"{found.raises} times"
        print(f"a zone came under pressure {times} in all" if found.raises else "no zone came under pressure")
        print(as_text(found.moment, found.began_ns))
    return EXIT_OK if found.moment.scan.moved else EXIT_NEGATIVE


def _of_recording(args: argparse.Namespace) -> _Found:
    from memnotify_cuse.scanner.recordingfile import Recording

    recording = Recording(Path(args.file))
    return _choose(recording.samples(), recording.header.machine, args)


def _of_this_machine() -> _Found:
    from memnotify_cuse.scanner.explain import moments
    from memnotify_cuse.scanner.sample import Sampler

    sampler = Sampler()
    try:
        first, *_, last = seen = list(moments(_watch(sampler.sample), sampler.machine))
        return _Found(last, first.time_ns, sum(bool(moment.raised) for moment in seen))
    finally:
        sampler.close()


def _watch(sample: Callable[[], Sample]) -> Iterator[Sample]:
    yield sample()
    for _ in range(round(LIVE_S / LIVE_EVERY_S)):
        time.sleep(LIVE_EVERY_S)
        yield sample()


def _choose(samples: Iterator[Sample], machine: Machine, args: argparse.Namespace) -> _Found:
    """The moment that was asked for. Raises CommandError where there is none."""
    from memnotify_cuse.scanner.explain import moments

    chosen: Moment | None = None
    began_ns: int | None = None
    raises = 0
    last_ns = 0
    for moment in moments(samples, machine):
        began_ns = moment.time_ns if began_ns is None else began_ns
        last_ns = moment.time_ns
        raises += bool(moment.raised)
        if args.at is not None:
            is_it = chosen is None or moment.time_ns - began_ns <= args.at * 1e9
        elif args.time_ns is not None:
            is_it = moment.time_ns <= args.time_ns
        elif args.nth is not None:
            is_it = bool(moment.raised) and raises == args.nth
        elif raises:
            is_it = raises == 1 and bool(moment.raised)
        else:
            is_it = chosen is None or moment.nearest < chosen.nearest
        chosen = moment if is_it else chosen
    if began_ns is None:
        raise CommandError(f"{args.file}: holds no sample")
    if args.nth is not None and chosen is None:
        raise CommandError(f"{args.file}: a zone came under pressure {raises} times, there is no number {args.nth}")
    if chosen is None or (args.time_ns is not None and args.time_ns > last_ns):
        raise CommandError(f"{args.file}: time_ns goes from {began_ns} to {last_ns}")
    if args.at is not None and args.at * 1e9 > last_ns - began_ns:
        raise CommandError(f"{args.file}: ends {(last_ns - began_ns) / 1e9:.3f} s after the first sample")
    return _Found(chosen, began_ns, raises)
