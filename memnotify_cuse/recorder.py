"""Recording: the scanner at work as in the server, with a writer of its samples in place of a device."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from memnotify_cuse.board import Board, BoardListener
from memnotify_cuse.kernel.errors import KernelFileError, KernelFileGoneError
from memnotify_cuse.kernel.files import read_kernel_text
from memnotify_cuse.residency import Realtime, lock_memory, warn_of_refusals
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.loop import Scanner
from memnotify_cuse.scanner.recording import Header
from memnotify_cuse.scanner.recordingfile import RecordingSource, RecordingWriter
from memnotify_cuse.scanner.sample import Sampler
from memnotify_cuse.scanner.sources import open_psi, open_source

END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""All that would end the process, and leave its trace instance behind; but for those of a programming error."""


class RecorderError(Exception):
    """Nothing, or no more, can be recorded; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class RecorderConfig:
    """What `record` was asked for. `seconds` None: until a signal. `say` writes a line for the user."""

    file: Path
    proc: Path = Path("/proc")
    seconds: float | None = None
    replace: bool = False
    say: Callable[[str], None] = print


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of it. `raised`: how often a zone came under pressure."""

    samples: int
    size_bytes: int
    raised: int


def record(config: RecorderConfig) -> Recorded:
    """Record until one of `END_SIGNALS`, or for as long as asked. Raises RecorderError."""
    try:
        return trio.run(_record, config)
    except (KernelFileError, RecordingError) as error:
        raise RecorderError(str(error)) from error


async def _record(config: RecorderConfig) -> Recorded:
    # A terminal that closes sends SIGHUP, which nohup has ignored.
    ends = [number for number in END_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    with trio.open_signal_receiver(*ends) as signals, ExitStack() as stack:
        sampler = Sampler(config.proc)
        stack.callback(sampler.close)
        # A machine that cannot be sampled must not cost the user the file that is to be replaced.
        sampler.sample()
        wakeup = open_source(config.proc)
        if wakeup is not None:
            stack.callback(wakeup.close)
        header = Header(
            machine=sampler.machine,
            kernel=_kernel_release(config.proc),
            wakeup=wakeup.name if wakeup is not None else "timer",
        )
        writer = RecordingWriter(config.file, header, replace=config.replace)
        board = Board(BoardListener())
        with writer:
            realtime = Realtime()
            source = RecordingSource(sampler, writer)
            scanner = Scanner(
                board,
                source,
                wakeup,
                header.machine,
                open_spare=partial(open_psi, config.proc, spare=True),
                on_active=realtime.reclaiming,
            )
            stack.callback(scanner.close)
            scanner.first_scan()
            # As the server: or it would see less, and later, just when there is something to see.
            warn_of_refusals([lock_memory(), realtime.check()])
            config.say(f"recording: file={config.file} wakeup={header.wakeup}")
            with trio.move_on_after(float("inf") if config.seconds is None else config.seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_scan, scanner, nursery.cancel_scope)
                    async for _number in signals:
                        nursery.cancel_scope.cancel()
            if writer.failure is not None:
                raise writer.failure
    return Recorded(writer.samples, writer.size_bytes, sum(state.raised for state in board.states.values()))


async def _scan(scanner: Scanner, scope: trio.CancelScope) -> None:
    """Scan until the recording cannot go on, which `writer.failure` tells."""
    try:
        await scanner.run()
    except* RecordingError:
        scope.cancel()


def _kernel_release(proc: Path) -> str | None:
    """The release of the kernel that `proc` is of; not in every folder that stands in for it."""
    try:
        return read_kernel_text(proc / "sys" / "kernel" / "osrelease").strip()
    except KernelFileGoneError:
        return None
