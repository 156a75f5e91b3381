"""What all programs here do that measure natively: end cleanly on a signal, and make the text of a part."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

from benchmarks import machine
from benchmarks.processes import Workshop, workshop
from benchmarks.report import CannotRunError, Part

Measure = Callable[[Workshop], Part]


def end_on_signals() -> None:
    """Have SIGTERM, SIGHUP and SIGINT put everything back on their way out."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    # Also where a shell has set it to be ignored, as for jobs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run_part(title: str, measure: Measure) -> tuple[str, Part]:
    """Measure a part, or say why it cannot be; its text, and what it came to."""
    load = machine.load()
    try:
        with workshop() as place:
            part = measure(place)
    except CannotRunError as error:
        part = Part(title, [], not_run=str(error))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    return f"## {title}\n\n{part.body()}\n\nLoad average before: {load}.", part


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
