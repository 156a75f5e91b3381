"""Mutated frames: to the codec (`wire`), and over a connection to the FUSE and the CUSE transport.

The transports are the real ones, on a socket in place of /dev/fuse or /dev/cuse, and without pyfuse3, in whose place
what `FuseTransport` forwards is answered at once. Frames come one by one, and now and then some at once, which then are
queued and served in turn by user. What has to hold:

- the decoders raise WireError and nothing else;
- no frame leads to EIO but by a WireError, which is the documented way;
- a request that wants a reply gets exactly one, or is a held read; a held read gets one in the end;
- after a RELEASE of every open file none is left, no read is held, and nothing waits or is counted.

The number of a request (`unique`) is the kernel's, and replies are told apart by it: it is made anew after mutation,
but for some frames that come alone, which have that of a held read. So is the length in the header, in nine of ten
frames, since a wrong one ends in decode_header.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from random import Random
from typing import Final, NamedTuple
from unittest import mock

from memnotify_cuse.board import Board, ZoneState
from memnotify_cuse.control import Control, ServerFacts
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.connection import NO_REPLY, _Got
from memnotify_cuse.transport.cuse import CuseTransport
from memnotify_cuse.transport.errorlog import ErrorLog
from memnotify_cuse.transport.fuse import FuseTransport
from memnotify_cuse.transport.tree import DEVICE, FIRST_ZONE, STATUS, ZONES
from tests.fuzz.findings import Findings, Outcome
from tests.fuzz.mutate import mutated

ZONE: Final = ZoneId(0, "Normal")
MAX_OPCODE: Final = 55
"""A little more than the last one that kernels know (FUSE_STATX, 52)."""

BODY_BYTES: Final = {
    1: 9,  # LOOKUP: a name
    2: 8,  # FORGET
    3: 16,  # GETATTR
    4: 88,  # SETATTR
    17: 0,  # STATFS
    20: 16,  # FSYNC
    21: 24,  # SETXATTR
    22: 24,  # GETXATTR
    26: 64,  # INIT
    27: 8,  # OPENDIR
    28: 40,  # READDIR
    31: 48,  # GETLK
    34: 8,  # ACCESS
    35: 32,  # CREATE
    39: 32,  # IOCTL
    42: 24,  # BATCH_FORGET
    43: 32,  # FALLOCATE
    44: 40,  # READDIRPLUS
    46: 24,  # LSEEK
    47: 56,  # COPY_FILE_RANGE
    52: 24,  # STATX
}
"""Of the requests that are not an open device file's, from include/uapi/linux/fuse.h; 40 for those not named."""

FRAMES_PER_NOTIFICATION: Final = 400
FRAMES_AT_ONCE: Final = 8
SHARE_AT_ONCE: Final = 0.05
"""In so many of all cases some frames come at once; about a third of all frames do."""

STEPS: Final = 100
"""More than it takes to serve what comes at once."""

MAX_FILES: Final = 200
TOO_LARGE_BYTES: Final = 100_000

_HEADER: Final = struct.Struct("=IIQQIIIHH")
_UNIQUE: Final = struct.Struct("=Q")
_LENGTH: Final = struct.Struct("=I")
_OUT: Final = struct.Struct("=IiQ")
_FH_END: Final = 24
_log: Final = logging.getLogger("memnotify_cuse.fuzz")
_DECODERS: Final = {name: value for name, value in sorted(vars(wire).items()) if name.startswith("decode_")}
_KERNEL_MAX_ERRNO: Final = 511
"""fs/fuse/dev.c, fuse_dev_do_write(): a reply with a larger one, or a positive error, is refused."""


class _Records(logging.Handler):
    """What the transports log, in place of writing it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _EveryError(ErrorLog):
    """Each error is logged, not only the first of its kind: it has to be explained by the frame that it came with."""

    def __init__(self) -> None:
        super().__init__(_log)

    def unexpected(self, what: str, error: BaseException) -> None:
        _log.error(what, exc_info=error)


@contextmanager
def _logged() -> Iterator[_Records]:
    logger = logging.getLogger("memnotify_cuse")
    records = _Records()
    before = logger.propagate
    logger.addHandler(records)
    logger.propagate = False
    try:
        yield records
    finally:
        logger.removeHandler(records)
        logger.propagate = before


class Kernel:
    """The other end of one transport: sends frames, and knows which of its requests are in flight.

    `device_inodes` are those that the endpoint serves (None: all). `forwarded` is pyfuse3's end of FuseTransport and
    `replied` takes note of its reply to a request; both are None for CUSE.
    """

    def __init__(
        self,
        name: str,
        device: Device,
        transport: FuseTransport | CuseTransport,
        end: socket.socket,
        device_inodes: frozenset[int] | None = None,
        forwarded: socket.socket | None = None,
        replied: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self.device = device
        self.files: list[int] = []
        self.answer_woken = transport.answer_woken
        self._connection = transport.connection
        self._connection._errors = _EveryError()
        self._end = end
        self._forwarded = forwarded
        self._replied = replied
        self._device_inodes = device_inodes
        self._unique = 0
        self._held: dict[int, int] = {}
        self.held_ever = 0
        self.queued_ever = 0

    def new_unique(self) -> int:
        self._unique += 2
        return self._unique

    @property
    def held(self) -> dict[int, int]:
        """Reads without a reply so far: unique → fh."""
        return self._held

    def sends(self, *frames: bytes) -> list[str]:
        """What was wrong with the answers to `frames`, which come at once; nothing if all was well."""
        for frame in frames:
            self._end.send(frame)
        requests = [_Request.of(frame) for frame in frames if _is_whole(frame)]
        opcodes = {each.unique: each.opcode for each in requests if each.opcode not in NO_REPLY}
        before = dict(self._held)
        problems, answers = self._take(opcodes)
        interrupted = {each.first for each in requests if each.opcode == wire.Opcode.INTERRUPT and each.has_first}
        released = {each.first for each in requests if each.opcode == wire.Opcode.RELEASE and self._for_device(each)}
        # The kernel releases a file when no request on it is left: what came with its release may be dropped.
        still_held = {unique for unique in before if self._held.get(unique) not in (None, *released)}
        if still_held & (interrupted - opcodes.keys()):
            problems.append("a held read was not answered when it was interrupted")
        for each in requests:
            count = answers[each.unique]
            if each.opcode in NO_REPLY or count == 1:
                continue
            if count:
                problems.append(f"{count} replies to opcode {each.opcode}")
            elif each.opcode != wire.Opcode.READ or not self._for_device(each):
                problems.append(f"no reply to opcode {each.opcode}")
            else:
                self._held[each.unique] = each.first
                self.held_ever += 1
        self._held = {unique: fh for unique, fh in self._held.items() if fh not in released}
        self.files = [fh for fh in self.files if fh not in released]
        return problems

    def take_replies(self) -> list[str]:
        """What was wrong with replies that came of themselves, as after a notification."""
        return self._take({})[0]

    def _for_device(self, request: _Request) -> bool:
        return request.has_first and (self._device_inodes is None or request.inode in self._device_inodes)

    def _take(self, opcodes: Mapping[int, int]) -> tuple[list[str], Counter[int]]:
        """Have the connection served, and receive all there is: problems, and how many answers each request got.

        `opcodes` are those of the requests that are to be answered, by their unique.
        """
        problems: list[str] = []
        answers: Counter[int] = Counter()
        for _ in range(STEPS):
            got = self._connection._step()
            self.queued_ever += self._connection.queued > 0
            self._answer_forwarded()
            if got is _Got.NOTHING and not self._connection.queued:
                break
        else:
            problems.append("the connection does not come to rest")
        for reply in _messages(self._end):
            length, error, answered = _OUT.unpack_from(reply)
            if length != len(reply):
                problems.append("a reply with a wrong length")
            if not answered:
                problems += [] if error > 0 else ["a notification without its code"]
                continue
            if not -_KERNEL_MAX_ERRNO <= error <= 0:
                problems.append(f"a reply with error {error}, which the kernel refuses")
            if answered in opcodes:
                answers[answered] += 1
                if opcodes[answered] == wire.Opcode.OPEN and not error and len(reply) >= _FH_END:
                    self.files.append(int.from_bytes(reply[16:_FH_END], sys.byteorder))
            elif self._held.pop(answered, None) is None:
                problems.append("a reply to no request")
        return problems, answers

    def _answer_forwarded(self) -> None:
        """As pyfuse3 would, which can be asked for more then."""
        if self._forwarded is None or self._replied is None:
            return
        while messages := _messages(self._forwarded):
            for message in messages:
                unique = _Request.of(message).unique
                # Not by the task that passes replies on, which needs an event loop.
                self._connection.send(wire.encode_error(unique, errno.ENOSYS))
                self._replied(unique)


class _Request(NamedTuple):
    """A frame as the kernel knows it. `first` is the first field of its body, if that is so long: often a file."""

    opcode: int
    unique: int
    inode: int
    first: int
    has_first: bool

    @classmethod
    def of(cls, frame: bytes) -> _Request:
        _, opcode, unique, inode, *_ = _HEADER.unpack_from(frame)
        return cls(opcode, unique, inode, int.from_bytes(frame[40:48], sys.byteorder), len(frame) >= 48)


def _is_whole(frame: bytes) -> bool:
    """Whether it is as long as it says; else it is no request."""
    return len(frame) >= wire.HEADER_BYTES and _LENGTH.unpack_from(frame)[0] == len(frame)


def _messages(end: socket.socket) -> list[bytes]:
    """All that waits in a non-blocking socket."""
    found: list[bytes] = []
    with suppress(BlockingIOError):
        while message := end.recv(1 << 18):
            found.append(message)
    return found


@contextmanager
def _socketpair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@contextmanager
def fuse_kernel() -> Iterator[Kernel]:
    """A FuseTransport with the device of all zones and that of one."""
    device = Device(4, _policy())
    board = Board(device)
    board.publish([_zone_state(0)], [], 0)
    control = Control(board, device, ServerFacts({}, dict), lambda: "")
    with _socketpair() as (ours, theirs), mock.patch("pyfuse3.init") as init:
        transport = FuseTransport(theirs.fileno(), device, control)
        # The device of a zone has an inode from its first lookup on.
        transport._tree.lookup(ZONES, str(ZONE).encode())
        forwarder = transport._forwarder
        with socket.socket(fileno=int(init.call_args.args[1].rpartition("/")[2])) as forwarded:
            forwarded.setblocking(False)
            inodes = frozenset(transport._tree.device_inodes)
            yield Kernel("FUSE", device, transport, ours, inodes, forwarded, forwarder._replied)
            assert not forwarder.waiting
            forwarder.close()


@contextmanager
def cuse_kernel() -> Iterator[Kernel]:
    """A CuseTransport."""
    device = Device(4, _policy())
    with _socketpair() as (ours, theirs):
        transport = CuseTransport("mem_notify_fuzz", theirs.fileno(), device)
        yield Kernel("CUSE", device, transport, ours)


def _policy() -> Policy:
    """Everybody may be told at any notification, so that held reads come and go, whatever the clock says."""
    return replace(Policy(), guard_step_ns=0)


def _zone_state(status: int) -> ZoneState:
    return ZoneState(ZONE, status, free_pages=1, high_pages=9, reserve_pages=0, reason="anon_scan", time_ns=1)


def valid_frame(kernel: Kernel, random: Random) -> bytes:
    """A request as the kernel writes it: of every opcode, most of them on open device files."""
    inode = random.choice((DEVICE, DEVICE, DEVICE, FIRST_ZONE, STATUS, 1, 0, random.getrandbits(64)))
    files = kernel.files
    fh = random.choice(files) if files and random.random() < 0.9 else random.getrandbits(64)
    opcode = random.choice((*_DEVICE_OPCODES, random.randint(0, MAX_OPCODE)))
    if opcode == wire.Opcode.OPEN and len(files) >= MAX_FILES:
        opcode = wire.Opcode.RELEASE
    match opcode:
        case wire.Opcode.OPEN:
            body = struct.pack("=II", random.choice((0, 0, 0, os.O_NONBLOCK, os.O_RDWR, random.getrandbits(32))), 0)
        case wire.Opcode.READ:
            size = random.choice((0, 1, 4096, 1 << 20, random.getrandbits(32)))
            flags = random.choice((0, os.O_NONBLOCK, os.O_NONBLOCK, random.getrandbits(32)))
            body = struct.pack("=QQIIQII", fh, random.getrandbits(40), size, 0, 0, flags, 0)
        case wire.Opcode.POLL:
            body = struct.pack("=QQII", fh, random.getrandbits(64), random.getrandbits(2), random.getrandbits(16))
        case wire.Opcode.RELEASE | wire.Opcode.FLUSH:
            body = struct.pack("=QIIQ", fh, 0, 0, 0)
        case wire.Opcode.INTERRUPT:
            held = kernel.held
            # INTERRUPT is not given a reply, and its own number is not looked at.
            body = _UNIQUE.pack(random.choice(list(held)) if held else random.getrandbits(64))
        case wire.Opcode.CUSE_INIT:
            body = struct.pack("=IIII", 7, random.getrandbits(6), 0, random.getrandbits(32))
        case _:
            body = random.randbytes(BODY_BYTES.get(opcode, 40))
    uid = random.choice((0, 1000, 65534, random.getrandbits(32)))
    length = wire.HEADER_BYTES + len(body)
    return _HEADER.pack(length, opcode, kernel.new_unique(), inode, uid, uid, random.getrandbits(22), 0, 0) + body


_DEVICE_OPCODES: Final = (
    *(wire.Opcode.OPEN, wire.Opcode.OPEN, wire.Opcode.READ, wire.Opcode.READ, wire.Opcode.POLL, wire.Opcode.POLL),
    *(wire.Opcode.RELEASE, wire.Opcode.FLUSH, wire.Opcode.INTERRUPT, wire.Opcode.CUSE_INIT),
)


def frame_for(kernel: Kernel, random: Random, *, alone: bool = True) -> bytes:
    """The next frame: three in ten as they are, the others mutated, with a number of their own.

    One that comes `alone` may have the number of a held read.
    """
    frame = valid_frame(kernel, random)
    if random.random() < 0.3:
        return frame
    if random.random() < 0.001:
        frame += bytes(TOO_LARGE_BYTES)
    changed = bytearray(mutated(frame, random))
    if len(changed) >= wire.HEADER_BYTES:
        held = list(kernel.held) if alone and random.random() < 0.05 else []
        changed[8:16] = _UNIQUE.pack(random.choice(held) if held else kernel.new_unique())
        if random.random() < 0.9:
            changed[0:4] = _LENGTH.pack(len(changed))
    return bytes(changed)


def _decode(frame: bytes, findings: Findings) -> None:
    for name, decode in _DECODERS.items():
        try:
            decode(frame)
        except wire.WireError:
            pass
        except Exception as error:
            findings.add(f"{name} raised {type(error).__name__}", frame.hex())


def _close_all(kernel: Kernel) -> list[str]:
    """What is not as it should be once every read was interrupted and every file released."""
    problems: list[str] = []
    for unique in list(kernel.held):
        body = _UNIQUE.pack(unique)
        header = _HEADER.pack(48, wire.Opcode.INTERRUPT, kernel.new_unique(), DEVICE, 0, 0, 1, 0, 0)
        problems += kernel.sends(header + body)
    for fh in list(kernel.files):
        header = _HEADER.pack(64, wire.Opcode.RELEASE, kernel.new_unique(), DEVICE, 0, 0, 1, 0, 0)
        problems += kernel.sends(header + struct.pack("=QIIQ", fh, 0, 0, 0))
    if kernel.device.open_files or kernel.device.watchers:
        problems.append("open files or watchers are left after all was released")
    return problems


def fuzz_frames(count: int, seed: int) -> Outcome:
    """Feed `count` mutated frames, the same ones for the same seed, to the codec and in turn to both transports."""
    random = Random(seed)
    findings = Findings()
    facts: Counter[str] = Counter()
    start_s = time.monotonic()
    with ExitStack() as stack:
        logged = stack.enter_context(_logged())
        kernels = [stack.enter_context(fuse_kernel()), stack.enter_context(cuse_kernel())]
        number = 0
        while number < count:
            kernel = random.choice(kernels)
            at_once = min(FRAMES_AT_ONCE, count - number) if random.random() < SHARE_AT_ONCE else 1
            frames = [frame_for(kernel, random, alone=at_once == 1) for _ in range(at_once)]
            for frame in frames:
                _decode(frame, findings)
            problems = kernel.sends(*frames)
            if random.random() < 1 / FRAMES_PER_NOTIFICATION:
                problems += _notify(kernel, random)
                facts["notifications"] += 1
            problems += _complaints(logged, facts)
            for problem in problems:
                shown = " ".join(frame[:256].hex() for frame in frames)
                findings.add(f"{kernel.name}: {problem}", f"frame {number} of seed {seed}: {shown}")
            number += at_once
        for kernel in kernels:
            facts["times frames were queued"] += kernel.queued_ever
            facts["open files at the end"] += kernel.device.open_files
            facts["reads were held"] += kernel.held_ever
            for problem in [*_close_all(kernel), *_complaints(logged, facts)]:
                findings.add(f"{kernel.name}: {problem}", f"seed {seed}")
    return Outcome("frames", count, time.monotonic() - start_s, findings, facts)


def _notify(kernel: Kernel, random: Random) -> list[str]:
    """Pressure, for a moment or longer: what was wrong with that. An exception would end the server's scanner."""
    now_ns = time.monotonic_ns()
    try:
        kernel.device.notified((_zone_state(1),), now_ns)
        kernel.answer_woken()
        if random.random() < 0.8:
            kernel.device.pressure_ended((ZONE,), now_ns)
    except Exception as error:
        return [f"a notification raised {type(error).__name__}", *kernel.take_replies()]
    return kernel.take_replies()


def _complaints(logged: _Records, facts: Counter[str]) -> list[str]:
    """What was logged that a malformed message does not explain."""
    problems: list[str] = []
    for record in logged.records:
        kind = record.exc_info[0] if record.exc_info else None
        if kind is not None and issubclass(kind, wire.WireError):
            facts["frames were refused by a WireError"] += 1
        elif record.levelno >= logging.WARNING:
            problems.append(f"logged {record.msg!r}" + (f", by {kind.__name__}" if kind else ""))
    logged.records.clear()
    return problems
