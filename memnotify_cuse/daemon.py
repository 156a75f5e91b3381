"""The server: wires scanner, board, device and transport together. Nothing else does.

It is forked by the keeper, and handed the connections by `keeper.setup`. It opens what it reads, and then gives up its
rights; from then on it waits for nothing but the kernel and its own clock.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from memnotify_cuse import __version__
from memnotify_cuse.accounts import Users
from memnotify_cuse.board import Board, BoardListener, ChangesTold, ZoneState
from memnotify_cuse.config import Config, ServeError, SigioMode
from memnotify_cuse.control import Control, ServerFacts
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.domain import CgroupId, Scope
from memnotify_cuse.fasync.exact import FileCalls
from memnotify_cuse.fasync.pool import HelperPool
from memnotify_cuse.fasync.service import SigioService
from memnotify_cuse.fasync.strict import AsyncFlags
from memnotify_cuse.keeper.channel import Channel, Message
from memnotify_cuse.keeper.handover import Given
from memnotify_cuse.keeper.keeper import EXIT_TAKEN_AWAY
from memnotify_cuse.keeper.rights import reduce_child, server_keeps
from memnotify_cuse.keeper.statefile import StateFile
from memnotify_cuse.kernel.capabilities import die_with_parent
from memnotify_cuse.kernel.cgroup import find_hierarchy
from memnotify_cuse.kernel.errors import KernelFileError, KernelFileGoneError, NoKernelMemoryError
from memnotify_cuse.kernel.mountinfo import read_mountinfo
from memnotify_cuse.kernel.tracefs import TracePipe
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.pressurelog import PressureLog
from memnotify_cuse.residency import Realtime, lock_memory, warn_of_refusals
from memnotify_cuse.scanner.cgroupleaves import Place
from memnotify_cuse.scanner.cgroups import CgroupScanner
from memnotify_cuse.scanner.deferred import DeferredSource
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.fillrate import measure_fill_kb_per_s
from memnotify_cuse.scanner.health import TRACE, Health
from memnotify_cuse.scanner.loop import Scanner
from memnotify_cuse.scanner.sample import Sample, Sampler
from memnotify_cuse.scanner.sources import TraceSource, WakeupSource, open_psi
from memnotify_cuse.succession import Succession
from memnotify_cuse.transport.cuse import CuseTransport
from memnotify_cuse.transport.fuse import FuseTransport
from memnotify_cuse.transport.idle import IdleServing, epoll_of_this_loop
from memnotify_cuse.transport.notes import FUSE, FileNotes

if TYPE_CHECKING:
    from memnotify_cuse.scanner.replay import Replay

log = logging.getLogger(__name__)

MAX_STATUS_CHARS: Final = 256
"""Of what the service manager shows."""

TRACE_ANSWER_S: Final = 60.0
"""How long the keeper may take to make a trace instance, which takes 50 ms on a machine that is not short of memory."""


REVIEW_S: Final = 2.0
"""How often it is looked, with a sample, whether programs were moved to other cgroups, or limits set."""

ANSWER_S: Final = 1.0
"""How long the mount may take to answer a helper that asks whether it does; then it is asked again."""

BUSY_ALIVE_S: Final = 1.0
ALIVE_S: Final = 3.0
LATEST_ALIVE_S: Final = 5.1
"""How often this process sees to it that its work is noted: with a sample, which takes no wake-up of its own, or by
itself in time for the keeper's last look, even if the answer takes long (`keeper.lives`). Oftener where it has served
requests meanwhile: that shows as much as asking our own mount, which takes long on a machine that is slow or busy."""


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


class _Hurrying(BoardListener):
    """Tells the device what the board tells, with real-time priority from the first notification on."""

    def __init__(self, device: Device, realtime: Realtime) -> None:
        self._device = device
        self._realtime = realtime
        self._pressed: set[ZoneId] = set()

    def follow(self, states: Mapping[ZoneId, ZoneState]) -> None:
        self._device.follow(states)

    def changed(self, zones: tuple[ZoneId, ...]) -> ChangesTold:
        try:
            return self._device.changed(zones)
        except Exception:
            log.exception("unexpected error in telling of a change")
            return ChangesTold(0, more=False)

    def awaits(self, zones: tuple[ZoneState, ...]) -> bool:
        try:
            return self._device.awaits(zones)
        except Exception:
            log.exception("unexpected error in a look at the programs that wait")
            return False

    def notified(self, zones: tuple[ZoneState, ...], now_ns: int) -> None:
        # A cgroup that runs short is no reason: every user may have one that does all day.
        self._pressed.update(state.zone for state in zones if not isinstance(state.zone, CgroupId))
        self._realtime.pressed(bool(self._pressed))
        try:
            self._device.notified(zones, now_ns)
        except Exception:
            # The scanner must go on, and with it the next notification.
            log.exception("unexpected error in a notification")

    def resumed(self, zones: tuple[ZoneState, ...]) -> None:
        """The server before has told of these."""
        if zones:
            self._pressed.update(state.zone for state in zones)
            self._realtime.pressed(True)
            self._device.resumed(zones)

    def pressure_ended(self, zones: tuple[ZoneId, ...], now_ns: int) -> None:
        self._device.pressure_ended(zones, now_ns)
        self._pressed.difference_update(zones)
        self._realtime.pressed(bool(self._pressed))


def serve(given: Given, channel: Channel, keeper_pid: int) -> int:
    """Serve until the keeper says stop or retire; the exit code. Raises ServeError if it cannot start."""
    with ExitStack() as stack:
        try:
            server = _Server(given, channel, keeper_pid, stack)
        except (KernelFileError, RecordingError) as error:
            raise ServeError(str(error)) from None
        not_locked = lock_memory()
        if not reduce_child(given.identity, server_keeps()):
            log.warning("this machine has no user id %s; the server stays root, without its rights", given.identity)
        # Changing the user undoes this, so it comes after that.
        die_with_parent(keeper_pid, signal.SIGKILL)
        server.refusals = [not_locked, *given.refused, server.realtime.check()]
        trio.run(server.run)
        return server.code


class _Server:
    """All rooms of the server. Made with the rights that it starts with, run without them."""

    def __init__(self, given: Given, channel: Channel, keeper_pid: int, stack: ExitStack) -> None:
        config = given.config
        self._given = given
        self._keeper_pid = keeper_pid
        self._channel = channel
        self.code = os.EX_OK
        self.refusals: list[str | None] = []
        self._status = ""
        self._begun = False
        self._sampled = trio.Event()
        self._alive_s = 0.0
        self._served = 0
        self._state = StateFile(given.state_fd)
        self._succession = Succession(self._state)
        # While the server before still serves.
        self._state.check()
        self._fill_kb_per_s = measure_fill_kb_per_s()
        self._restarts = 0
        self._take = trio.Event()
        self._go = trio.Event()
        self._trace_answer: Callable[[Message], None] | None = None
        self.realtime = Realtime()
        self._clock = _BoardClock()
        self._health = Health()
        self._transports: list[tuple[FuseTransport | CuseTransport, str]] = []
        self._service: SigioService | None = None
        self._cgroups: CgroupScanner | None = None
        self._reviewed_s = 0.0
        self._open_scanner(config, stack)
        identifiers: set[int] = set()
        if given.cuse_fd is not None and config.device is not None:
            cuse = CuseTransport(
                config.device.name,
                given.cuse_fd,
                self._device,
                identifiers,
                users=self._device.users,
                on_flood=partial(self.realtime.flood, "cuse"),
                state=self._state,
            )
            self._transports.append((cuse, "the character device"))
        self._pool = HelperPool(partial(self._channel.send, "helpers"), identifiers)
        self._flags: AsyncFlags | None = None
        self._calls: FileCalls | None = None
        if config.sigio is not SigioMode.OFF:
            if given.flags_trace is not None and config.sigio is SigioMode.AUTO:
                # While there is the right to.
                given.flags_trace.watch_events()
                self._calls = FileCalls(given.flags_trace, lambda number: self._device.file(number) is not None)
            elif given.flags_trace is not None:
                self._flags = AsyncFlags(given.flags_trace)
            self._service = SigioService(self._device, self._pool, self._flags, self._calls)
        control = Control(
            self._board,
            self._device,
            self._facts(config),
            self._zoneinfo,
            version=lambda: self._scanner.samples,
            cgroups=self._cgroups.describe if self._cgroups is not None else list,
        )
        fuse = FuseTransport(
            given.fuse_fd,
            self._device,
            control,
            identifiers,
            users=self._device.users,
            # Before the server changes its user.
            owner=(os.geteuid(), os.getegid()),
            first_inode=given.first_inode,
            on_flood=partial(self.realtime.flood, "fuse"),
            state=self._state,
        )
        self._transports.insert(0, (fuse, "the control file system"))

    def _open_scanner(self, config: Config, stack: ExitStack) -> None:
        """Open what the scanner reads, first of all, so that no client can take these descriptors away."""
        if config.replay is not None:
            # Only a server that replays is to have in memory what that takes.
            from memnotify_cuse.scanner.recordingfile import Recording
            from memnotify_cuse.scanner.replay import Replay

            recording = Recording(config.replay)
            self._machine = recording.header.machine
            self._make_board(config)
            replay = Replay(self._board, recording, config.headroom_kb)
            self._scanner: Scanner | Replay = replay
            self._zoneinfo = replay.zoneinfo
        else:
            sampler = Sampler(config.proc, self._health)
            stack.callback(sampler.close)
            self._machine = sampler.machine
            self._make_board(config)
            # What stands in for the trace is opened while there is the right to.
            spare = open_psi(config.proc, spare=self._given.trace is not None)
            if self._given.trace is not None:
                self._given.trace.watch_events()
            elif self._given.trace_may_come:
                self._health.failed(TRACE, "memory was short when the server started", quiet=True)
            scanner = Scanner(
                self._board,
                sampler,
                TraceSource(self._given.trace) if self._given.trace is not None else None,
                self._machine,
                self._late_source(),
                spare=spare,
                open_spare=partial(open_psi, config.proc, spare=True),
                health=self._health,
                headroom_kb=config.headroom_kb,
                fill_kb_per_s=self._fill_kb_per_s,
                on_active=self.realtime.reclaiming,
                on_sample=self._note_sample,
            )
            stack.callback(scanner.close)
            self._scanner = scanner
            self._zoneinfo = sampler.zoneinfo_text
            self._cgroups = self._open_cgroups(config, sampler, stack)
        self._succession.of(self._board, self._scanner, self._pressure_log)
        self._scanner.first_scan()

    def _open_cgroups(self, config: Config, sampler: Sampler, stack: ExitStack) -> CgroupScanner | None:
        """What looks at the cgroups of programs that open the device; None where memory cgroups cannot be seen."""
        try:
            hierarchy = find_hierarchy(read_mountinfo(config.proc))
        except KernelFileError:
            # A /proc that is not a whole one.
            return None
        if hierarchy is None:
            return None
        cgroups = CgroupScanner(
            hierarchy,
            self._machine,
            lambda pressed, moved: self._board.publish_cgroups(pressed, moved, time.monotonic_ns()),
            self._opener_moved,
            fill_kb_per_s=self._fill_kb_per_s,
            swap_free_kb=lambda: sampler.swap_free_kb,
            proc=config.proc,
        )
        stack.callback(cgroups.close)

        def scope_of(file: OpenFile) -> Scope:
            place = cgroups.follow(file.number, file.opener_tid, file.user, file.cgroup, file.opened_ns)
            file.cgroup = place.inode
            return place.scope

        self._device.scope_of = scope_of
        self._device.forget_scope = lambda file: cgroups.forget(file.number)
        self._device.users.on_learned(cgroups.count_to)
        return cgroups

    def _opener_moved(self, number: int, place: Place) -> None:
        """The opener of an open file was moved, or there is another limit where it is."""
        file = self._device.file(number)
        if file is not None:
            file.cgroup = place.inode
            self._state.note_cgroup(number, place.inode)
            self._device.set_scope(file, place.scope)

    def _make_board(self, config: Config) -> None:
        device = Device(self._machine.page_kb, config.policy, Users(), lambda: self._state.next_number())
        device.on_changed = FileNotes(self._state, FUSE, device).told
        pressure_log = PressureLog(self._machine.page_kb)

        def watch(states: Mapping[ZoneId, ZoneState], now_ns: int) -> None:
            self._deliver()
            pressure_log.told(device.told, now_ns)
            pressure_log.changed(states, now_ns)
            self._succession.note()

        self._device = device
        self._hurrying = _Hurrying(device, self.realtime)
        self._board = Board(self._hurrying, self._clock.poke, watch)
        self._pressure_log = pressure_log

    def _deliver(self) -> None:
        """What follows on a tick in which programs were told: answers for those that were woken, and then signals."""
        if not self._device.take_told():
            return
        for transport, _ in self._transports:
            try:
                transport.answer_woken()
            except Exception:
                # The scanner must go on, and with it the next notification.
                log.exception("unexpected error in the answers after a notification")
        if self._service is not None:
            self._service.notified(may_wait=self._device.told_of_cgroups_alone)

    def _late_source(self) -> DeferredSource | None:
        """What asks the keeper for another trace, where there was one, or is to be one."""
        if self._given.trace is None and not self._given.trace_may_come:
            return None
        return DeferredSource(self._ask_for_trace, wanted=self._given.trace is None)

    def _say_health(self) -> None:
        words = ", ".join(f"{each.source} ({each.reason})" for each in self._health.failures)
        state = self._health.level.value + (f": {words}" if words else "")
        status = f"{state}; woken by {self._scanner.wakeup_name}"
        if status != self._status:
            self._status = status
            self._channel.send("status", status[:MAX_STATUS_CHARS])

    def _facts(self, config: Config) -> ServerFacts:
        node = {"node": self._given.node}
        scanner = self._scanner
        return ServerFacts(
            fixed={
                "pid": str(self._keeper_pid),
                "version": __version__,
                "sigio": config.sigio.value,
            },
            changing=lambda: {
                **node,
                "health": self._health.level.value,
                "lru": "mglru" if scanner.mglru else "classic",
                "lost_events": str(scanner.lost_events),
                "wakeup": scanner.wakeup_name,
                "samples": str(scanner.samples),
                "server_pid": str(os.getpid()),
                "restarts": str(self._restarts),
                "o_async": self._how_o_async_is_seen(),
                "helpers": str(self._pool.helpers),
                "realtime": str(int(self.realtime.held)),
            },
            failing=lambda: [
                {"failing": each.source, "since_s": f"{self._health.age_s(each):.1f}", "reason": each.reason}
                for each in self._health.failures
            ],
        )

    def _how_o_async_is_seen(self) -> str:
        if self._calls is not None and self._calls.works:
            return "kprobe"
        return "syscall" if self._flags is not None else "unseen"

    async def run(self) -> None:
        """Serve until the keeper says stop, or is gone, or a connection ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_over, nursery)
            self._channel.send("prepared")
            await self._listen_to_keeper()
            nursery.cancel_scope.cancel()

    async def _take_over(self, nursery: trio.Nursery) -> None:
        """Serve the connections, from when the server before is gone."""
        await self._take.wait()
        if self._restarts and self._flags is not None:
            self._flags.assume_lost()
        if self._restarts and self._calls is not None:
            self._calls.assume_lost()
        if not self._restarts:
            warn_of_refusals(self.refusals)
        self._state.begin()
        self._begun = True
        # Before the files are open that were told of it.
        self._hurrying.resumed(self._succession.go_on(time.monotonic_ns()))
        for transport, _ in self._transports:
            transport.resume()
        self._board.tick(time.monotonic_ns())
        connections = [transport.connection for transport, _ in self._transports]
        IdleServing(connections, await epoll_of_this_loop()).begin()
        for transport, what in self._transports:
            nursery.start_soon(self._serve_transport, transport, what, nursery.cancel_scope)
        nursery.start_soon(self._clock.run, self._board)
        nursery.start_soon(self._begin)
        nursery.start_soon(self._prove_alive)

    def _note_sample(self, sample: Sample) -> None:
        self._succession.note_sample(sample)
        if not self._begun:
            return
        if self._cgroups is not None and trio.current_time() - self._reviewed_s >= REVIEW_S:
            self._cgroups.review()
            self._reviewed_s = trio.current_time()
        since_s = trio.current_time() - self._alive_s
        if since_s >= ALIVE_S or (since_s >= BUSY_ALIVE_S and self._has_served):
            self._sampled.set()

    @property
    def _has_served(self) -> bool:
        """Whether requests were served since it was noted that this process is alive."""
        return self._requests_served != self._served

    @property
    def _requests_served(self) -> int:
        return sum(transport.connection.served for transport, _ in self._transports)

    async def _prove_alive(self) -> None:
        """Let the keeper know, by and by, that this process does its work."""
        said = False
        while True:
            # None: there is no helper to ask, which is no sign of anything.
            if not self._has_served and await self._pool.sees_answers(ANSWER_S) is False:
                await trio.lowlevel.checkpoint()
                continue
            self._state.note_alive(time.monotonic_ns())
            if not said:
                # It has waited for a start, which may take longer than what comes now.
                self._channel.send("alive")
                said = True
            self.realtime.started()
            self._alive_s = trio.current_time()
            self._served = self._requests_served
            self._sampled = trio.Event()
            with trio.move_on_after(LATEST_ALIVE_S):
                await self._sampled.wait()

    async def _begin(self) -> None:
        """Scan and signal, once the device can be opened: not earlier, since no program could be told."""
        await self._go.wait()
        self._health.on_change = self._say_health
        self._say_health()
        async with trio.open_nursery() as nursery:
            if self._service is not None:
                nursery.start_soon(self._pool.run)
                nursery.start_soon(self._service.run)
            if self._cgroups is not None:
                nursery.start_soon(self._cgroups.run)
            await self._scanner.run()

    async def _serve_transport(
        self, transport: FuseTransport | CuseTransport, what: str, scope: trio.CancelScope
    ) -> None:
        await transport.serve()
        log.error("%s was ended from outside: unmounted, or its connection aborted", what)
        self.code = EXIT_TAKEN_AWAY
        scope.cancel()

    async def _listen_to_keeper(self) -> None:
        """Take in what the keeper sends, until it says stop."""
        while True:
            await trio.lowlevel.wait_readable(self._channel)
            try:
                message = self._channel.receive()
            except EOFError:
                return
            match message:
                case None:
                    continue
                case ("stop", _, _):
                    if self._go.is_set():
                        log.info("stopping")
                    await self._end()
                    return
                case ("take", restarts, _):
                    self._restarts = int(restarts)
                    self._take.set()
                case ("retire", _, _):
                    # At once: whatever was not answered yet is the next server's.
                    os._exit(os.EX_OK)
                case ("go", _, _):
                    self._go.set()
                case ("helpers", _, (fd,)):
                    self._pool.connect(Channel.of(fd))
                case ("no-helpers", _, _):
                    self._pool.none_to_be_had()
                case (("trace" | "no-trace"), _, fds):
                    if self._trace_answer is not None:
                        self._trace_answer(message)
                        self._trace_answer = None
                    else:
                        # It came too late.
                        for fd in fds:
                            os.close(fd)
                case (word, _, _):
                    log.error("the keeper said what was not understood: %s", word)

    async def _end(self) -> None:
        """Tell those who wait that this is the end, if they were served."""
        if self._begun:
            async with trio.open_nursery() as nursery:
                for transport, _ in self._transports:
                    nursery.start_soon(transport.end)

    async def _ask_for_trace(self) -> WakeupSource:
        answered = trio.Event()
        answers: list[Message] = []

        def take(message: Message) -> None:
            answers.append(message)
            answered.set()

        self._trace_answer = take
        self._channel.send("trace")
        with trio.move_on_after(TRACE_ANSWER_S):
            await answered.wait()
        if not answers:
            self._trace_answer = None
            raise KernelFileGoneError("trace", "the keeper does not answer")
        match answers[0]:
            case ("trace", path, (pipe, switch, *events)):
                trace = TracePipe(Path(path), pipe, switch, *events)
                trace.watch_events()
                return TraceSource(trace)
            case (_, why, _):
                again, _, reason = why.partition(" ")
                kind = NoKernelMemoryError if again == "again" else KernelFileGoneError
                raise kind("trace", reason)
