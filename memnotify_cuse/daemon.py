"""The server: wires scanner, board, device and transport together. Nothing else does."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from memnotify_cuse import __version__
from memnotify_cuse.board import Board
from memnotify_cuse.control import Control, ServerFacts
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.fasync.locate import Locator
from memnotify_cuse.fasync.service import SigioMode, SigioService, device_id
from memnotify_cuse.fasync.strict import AsyncFlags
from memnotify_cuse.fasync.worker import Worker
from memnotify_cuse.kernel.errors import KernelFileError, NoKernelMemoryError
from memnotify_cuse.kernel.files import read_kernel_text
from memnotify_cuse.kernel.lru_gen import read_lru_gen
from memnotify_cuse.kernel.tracefs import find_tracefs
from memnotify_cuse.notify_service import notify_service
from memnotify_cuse.residency import be_first_in_line, settle
from memnotify_cuse.scanner.doorbell import open_doorbell, open_trace
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.fillrate import measure_fill_kb_per_s
from memnotify_cuse.scanner.late import LateDoorbell
from memnotify_cuse.scanner.loop import Scanner
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.sample import Sampler
from memnotify_cuse.transport.cuse import CuseTransport, cuse_problem, open_cuse
from memnotify_cuse.transport.fuse import FuseTransport
from memnotify_cuse.transport.mount import DeviceNode, MountError, mount_control

if TYPE_CHECKING:
    from memnotify_cuse.scanner.recordfile import Recording
    from memnotify_cuse.scanner.replay import Replay

log = logging.getLogger(__name__)

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
STRICT_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)
"""A start in a short shortage of memory gets over it; in a longer one whoever started the server has to know."""


class ServeError(Exception):
    """The server cannot start; the message is one line for the user."""


class NodeKind(Enum):
    """What the device is: a character device, a FUSE file shown at its path, or the first where that can be had."""

    AUTO = "auto"
    CUSE = "cuse"
    FUSE = "fuse"


@dataclass(frozen=True, slots=True)
class Config:
    """What `serve` was asked for. `device` None makes no node outside the mount.

    `replay` is a recording to take the samples from, in place of `proc`; `headroom_kb` None measures it.
    """

    device: Path | None
    mount: Path
    node: NodeKind = NodeKind.AUTO
    proc: Path = Path("/proc")
    replay: Path | None = None
    policy: Policy = field(default_factory=Policy)
    sigio: SigioMode = SigioMode.OWNER
    headroom_kb: int | None = None


class _BoardClock:
    """Calls `board.tick` when something is due."""

    def __init__(self) -> None:
        self._poked = trio.Event()

    def poke(self) -> None:
        self._poked.set()

    async def run(self, board: Board) -> None:
        while True:
            deadline_ns = board.deadline_ns
            due_s = (deadline_ns - time.monotonic_ns()) / 1e9 if deadline_ns is not None else float("inf")
            with trio.move_on_after(max(0.0, due_s)):
                await self._poked.wait()
            self._poked = trio.Event()
            board.tick(time.monotonic_ns())


def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, which are ignored from then on. Raises ServeError if that cannot start."""
    try:
        trio.run(_serve, config)
    except (MountError, RecordingError) as error:
        raise ServeError(str(error)) from None
    except BaseExceptionGroup as group:
        expected, unexpected = group.split((ServeError, MountError, RecordingError))
        if expected is None or unexpected is not None:
            raise
        raise ServeError(str(_first(expected))) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _serve(config: Config) -> None:
    recording = _open_recording(config.replay) if config.replay else None
    machine = recording.header.machine if recording else _this_machine()
    device = Device(machine.page_kb, config.policy)
    clock = _BoardClock()
    board = Board(device, clock.poke)
    # The signals are the outer ones: a second signal must not end the server while it cleans up.
    with _stop_signals() as signals, ExitStack() as stack:
        try:
            scanner: Scanner | Replay
            if recording is not None:
                scanner = _open_replay(board, recording, config.headroom_kb)
                zoneinfo = scanner.zoneinfo
            else:
                scanner = _open_scanner(config, board, machine, stack)
                zoneinfo = partial(read_kernel_text, config.proc / "zoneinfo")
            scanner.first_scan()
        except KernelFileError as error:
            raise ServeError(str(error)) from error
        node: dict[str, str] = {}
        facts = ServerFacts(
            fixed={
                "pid": str(os.getpid()),
                "version": __version__,
                "sigio": config.sigio.value,
                "lru": "mglru" if machine.mglru else "classic",
            },
            changing=lambda: {**node, "doorbell": scanner.doorbell_name, "samples": str(scanner.samples)},
        )
        mount = await trio.to_thread.run_sync(mount_control, config.mount)
        stack.callback(mount.close)
        worker = Worker()
        stack.callback(worker.close)
        identifiers = {worker.thread_id}
        control = Control(board, device, facts, zoneinfo, version=lambda: scanner.samples)
        transport = FuseTransport(mount, device, control, identifiers)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock.run, board)
            nursery.start_soon(_serve_transport, transport, "the control file system", nursery.cancel_scope)
            node.update(await _make_node(config, device, identifiers, nursery, stack))
            if config.sigio is not SigioMode.OFF:
                paths = [config.mount / "mem_notify", *([config.device] if config.device else [])]
                devices = {await worker.run(device_id, path) for path in paths}
                locator = Locator(devices)
                flags = await _open_flags(locator, stack) if config.sigio is SigioMode.STRICT else None
                nursery.start_soon(SigioService(device, locator, worker, flags).run)
            settle()
            await worker.run(_hurry)
            await _announce(config, node["node"])
            # Not earlier: nobody could be told of a recording's first seconds.
            nursery.start_soon(scanner.run)
            async for number in signals:
                log.info("stopping: %s", signal.Signals(number).name)
                break
            notify_service("STOPPING=1")
            nursery.cancel_scope.cancel()


@contextmanager
def _stop_signals() -> Iterator[AsyncIterator[int]]:
    """Receive SIGTERM and SIGINT; once the block is left without an error they are ignored for good.

    trio's receiver hands what nobody asked it for to the handlers from before, and Python restores the default ones
    while it ends: either way a second signal would end a server that has cleaned up with an exit code other than 0.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # Blocked, so that none is lost until the receiver is there.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        for number in STOP_SIGNALS:
            signal.signal(number, lambda _number, _frame: None)
        with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            yield signals
    except BaseException:
        for number, handler in before.items():
            signal.signal(number, handler)
        raise
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _this_machine() -> Machine:
    return Machine(mglru=bool(read_lru_gen()), page_kb=os.sysconf("SC_PAGE_SIZE") // 1024)


def _open_scanner(config: Config, board: Board, machine: Machine, stack: ExitStack) -> Scanner:
    """The scanner of this machine."""
    sampler = Sampler(config.proc)
    stack.callback(sampler.close)
    doorbell, trace_may_come = open_doorbell(config.proc)
    late = LateDoorbell(open_trace) if trace_may_come else None
    scanner = Scanner(
        board,
        sampler,
        doorbell,
        machine,
        late,
        headroom_kb=config.headroom_kb,
        fill_kb_per_s=measure_fill_kb_per_s(),
    )
    stack.callback(scanner.close)
    return scanner


# Only a server that replays is to have in memory what that takes.


def _open_recording(path: Path) -> Recording:
    from memnotify_cuse.scanner.recordfile import Recording

    return Recording(path)


def _open_replay(board: Board, recording: Recording, headroom_kb: int | None) -> Replay:
    from memnotify_cuse.scanner.replay import Replay

    return Replay(board, recording, headroom_kb)


def _hurry() -> None:
    # `settle` has said so if it is not permitted.
    with suppress(OSError):
        be_first_in_line()


async def _make_node(
    config: Config, device: Device, identifiers: Collection[int], nursery: trio.Nursery, stack: ExitStack
) -> dict[str, str]:
    """Make the device node that was asked for; what `server` says of it."""
    if config.device is None:
        return {"node": "none"}
    if not _takes_cuse(config):
        shown = await trio.to_thread.run_sync(DeviceNode, config.device, config.mount / "mem_notify")
        stack.callback(shown.close)
        return {"node": "fuse"}
    fd = await trio.to_thread.run_sync(open_cuse, config.device)
    transport = CuseTransport(config.device, fd, device, identifiers)
    stack.callback(transport.close)
    nursery.start_soon(_serve_transport, transport, "the character device", nursery.cancel_scope)
    await transport.wait_ready()
    major, minor = transport.number
    return {"node": "cuse", "major": str(major), "minor": str(minor)}


def _takes_cuse(config: Config) -> bool:
    if config.node is not NodeKind.AUTO:
        return config.node is NodeKind.CUSE
    return config.device is not None and config.device.parent == Path("/dev") and cuse_problem() is None


async def _open_flags(locator: Locator, stack: ExitStack) -> AsyncFlags:
    tracefs = find_tracefs()
    if tracefs is None:
        raise ServeError("--sigio strict needs tracefs, which is not mounted, or not for us to see")
    pauses = iter(STRICT_PAUSES_S)
    while True:
        try:
            flags = AsyncFlags(tracefs, locator)
            break
        except KernelFileError as error:
            pause_s = next(pauses, None) if isinstance(error, NoKernelMemoryError) else None
            if pause_s is None:
                raise ServeError(f"--sigio strict: {error}") from error
        await trio.sleep(pause_s)
    stack.callback(flags.close)
    return flags


async def _serve_transport(transport: FuseTransport | CuseTransport, what: str, scope: trio.CancelScope) -> None:
    await transport.serve()
    log.warning("%s was taken away from outside; stopping", what)
    scope.cancel()


async def _announce(config: Config, node: str) -> None:
    """Say that the device can be opened, once it can."""
    device = config.device or config.mount / "mem_notify"

    def try_open() -> None:
        os.close(os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    try:
        await trio.to_thread.run_sync(try_open, abandon_on_cancel=True)
    except OSError as error:
        raise ServeError(f"{device}: cannot be opened: {error.strerror}") from error
    print(f"ready: device={device} mount={config.mount} node={node}", file=sys.stderr, flush=True)
    notify_service("READY=1")
