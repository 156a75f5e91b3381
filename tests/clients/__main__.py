"""`python -m tests.clients`: install, build and run the programs of the list; print the table.

With --write it is docs/clients.md. Exit code 0; 1 when a program was not told of a notification, 2 for wrong use.
"""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.clients.build import CannotBuildError, Place, command_of
from tests.clients.course import (
    NOTIFICATIONS,
    NotReadyError,
    new_server,
    nobody_waits,
    notify_often,
    spare_files,
    start,
    take_all,
    wait_until_waiting,
)
from tests.clients.packages import install
from tests.clients.page import Row, page, standing_out, summary, table
from tests.clients.stack import Stack
from tests.clients.stacks import STACKS
from tests.support.mounted import facts, wait_until
from tests.support.server import mount_problem

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / "build" / "clients"
PAGE: Final = ROOT / "docs" / "clients.md"


class Progress:
    """One line for each stack on stderr, with how far it is."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._began_s = time.monotonic()

    def say(self, text: str) -> None:
        with self._lock:
            print(text, file=sys.stderr, flush=True)

    def done(self, row: Row) -> None:
        with self._lock:
            self._done += 1
            passed_s = time.monotonic() - self._began_s
            left_s = passed_s / self._done * (self._total - self._done)
            said = row.reason or "; ".join(row.problems()) or "told"
            print(
                f"[{self._done}/{self._total}, {left_s / 60:.0f} min left] {row.stack.title}: {said}",
                file=sys.stderr,
                flush=True,
            )


def measure(stack: Stack, place: Place) -> Row:
    """Run one program, in both modes, against a server of its own."""
    try:
        command = command_of(stack, place)
    except (CannotBuildError, OSError) as error:
        return Row(stack, reason=str(error))
    try:
        with tempfile.TemporaryDirectory(prefix="memnotify-clients-") as name:
            return _measured(stack, command, place, Path(name))
    except (NotReadyError, AssertionError, OSError, RuntimeError) as error:
        return Row(stack, reason=str(error).split("\n")[0] or type(error).__name__)


def _measured(stack: Stack, command: Sequence[str], place: Place, directory: Path) -> Row:
    polling = None
    with new_server(directory) as server, spare_files(server):
        at_rest = facts(server)["open_files"]
        if not stack.blocks:
            with start(stack, command, place, server, "poll") as program:
                wait_until_waiting(server, [program])
                (polling,) = notify_often(server, [program])
            wait_until(lambda: facts(server)["open_files"] == at_rest, "its file closed")
        with start(stack, command, place, server, "read") as program:
            (outcome,) = take_all(server, [program])
    return Row(stack, outcome, polling)


def idle_ns() -> int:
    """What NOTIFICATIONS notifications cost a server on which nobody waits, in nanoseconds."""
    with (
        tempfile.TemporaryDirectory(prefix="memnotify-clients-") as name,
        new_server(Path(name)) as server,
        spare_files(server),
    ):
        return nobody_waits(server)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description="Run programs in many languages.")
    parser.add_argument("word", nargs="*", metavar="WORD", help="only stacks with one of these words in their titles")
    parser.add_argument("--write", action="store_true", help="write docs/clients.md; only with all stacks")
    parser.add_argument("--no-install", action="store_true", help="run what is installed already")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time (default: one a CPU)")
    options = parser.parse_args(arguments)
    words = [word.lower() for word in options.word]
    stacks = [stack for stack in STACKS if not words or any(word in stack.title.lower() for word in words)]
    if not stacks:
        parser.error("no stack has such a title")
    if options.write and words:
        parser.error("--write needs all stacks: the page is about one run")
    problem = mount_problem()
    if problem is not None:
        parser.error(f"the device cannot be mounted: {problem}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    rows, idle, began = run_all(stacks, options.jobs, installs=not options.no_install)
    print("\n\n".join([table(rows), summary(rows), "\n".join(standing_out(rows))]))
    if options.write:
        PAGE.write_text(page(rows, idle, began))
        print(f"\nwritten: {PAGE.relative_to(ROOT)}")
    told = [row.outcome.reading.told == NOTIFICATIONS for row in rows if row.outcome is not None]
    return int(not told or not all(told))


def run_all(stacks: Sequence[Stack], jobs: int, *, installs: bool) -> tuple[list[Row], int, datetime.datetime]:
    BUILD.mkdir(parents=True, exist_ok=True)
    place = Place(BUILD / "programs", BUILD)
    progress = Progress(len(stacks))
    if installs:
        install(stacks, BUILD, progress.say)
    began = datetime.datetime.now(datetime.UTC)
    idle = idle_ns()

    def row_of(stack: Stack) -> Row:
        row = measure(stack, place)
        progress.done(row)
        return row

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(row_of, stacks)), idle, began
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    sys.exit(main())
