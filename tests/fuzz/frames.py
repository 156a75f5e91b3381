"""Mutated frames: to the codec (`wire`), and by Connection.receive to the FUSE and the CUSE transport.

The transports are the real ones, on a socket in place of /dev/fuse or /dev/cuse, and without pyfuse3, which would get
what `FuseTransport` forwards. What has to hold:

- the decoders raise WireError and nothing else;
- no frame leads to EIO but by a WireError, which is the documented way;
- a request that wants a reply gets exactly one, or is forwarded, or is a held read; a held read gets one in the end;
- after a RELEASE of every open file none is left, and no read is held.

The number of a request (`unique`) is the kernel's, which never gives one to two requests in flight: it is made anew
after mutation. So is the length in the header, in nine of ten frames, since a wrong one ends in decode_header.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Final, cast
from unittest import mock

import trio
from pyfuse3 import RequestContext

from memnotify_cuse.board import Board, ZoneState
from memnotify_cuse.control import Control, ServerFacts
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.connection import NO_REPLY, Connection
from memnotify_cuse.transport.controlfs import DEVICE, FIRST_ZONE, STATUS, ZONES
from memnotify_cuse.transport.cuse import CuseTransport
from memnotify_cuse.transport.fuse import FuseTransport
from memnotify_cuse.transport.mount import ControlMount
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
MAX_FILES: Final = 200
TOO_LARGE_BYTES: Final = 100_000

_HEADER: Final = struct.Struct("=IIQQIIIHH")
_UNIQUE: Final = struct.Struct("=Q")
_LENGTH: Final = struct.Struct("=I")
_OUT: Final = struct.Struct("=IiQ")
_INTERRUPT_BYTES: Final = wire.HEADER_BYTES + 8
_RELEASE_BYTES: Final = wire.HEADER_BYTES + 8
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

    `forwarded_fd` is pyfuse3's end of FuseTransport, None for CUSE, `device_inodes` those that the endpoint serves
    (None: all).
    """

    def __init__(
        self,
        name: str,
        device: Device,
        connection: Connection,
        end: socket.socket,
        forwarded: socket.socket | None = None,
        device_inodes: frozenset[int] | None = None,
    ) -> None:
        self.name = name
        self.device = device
        self.files: list[int] = []
        self._connection = connection
        self._end = end
        self._forwarded = forwarded
        self._device_inodes = device_inodes
        self._unique = 0
        self._held: dict[int, int] = {}
        self.held_ever = 0

    def new_unique(self) -> int:
        self._unique += 2
        return self._unique

    @property
    def has_no_inodes(self) -> bool:
        """True for CUSE: the kernel has none to forget there, and CuseTransport would answer a FORGET with EINVAL."""
        return self._device_inodes is None

    @property
    def held(self) -> dict[int, int]:
        """Reads without a reply so far: unique → fh."""
        return self._held

    def sends(self, frame: bytes) -> list[str]:
        """What was wrong with the answer to `frame`, nothing if all was well."""
        self._connection.receive(memoryview(frame))
        if len(frame) < wire.HEADER_BYTES or _LENGTH.unpack_from(frame)[0] != len(frame):
            return self._take(None)
        _, opcode, unique, inode, *_ = _HEADER.unpack_from(frame)
        problems = self._take((opcode, unique) if opcode not in NO_REPLY else None)
        named = int.from_bytes(frame[40:48], sys.byteorder) if len(frame) >= _INTERRUPT_BYTES else None
        if opcode == wire.Opcode.INTERRUPT and named in self._held:
            problems.append("a held read was not answered when it was interrupted")
        for_device = self._device_inodes is None or inode in self._device_inodes
        fh = int.from_bytes(frame[40:48], sys.byteorder)
        if problems == ["no reply"]:
            problems = []
            if opcode == wire.Opcode.READ and for_device:
                self._held[unique] = fh
                self.held_ever += 1
            else:
                problems = [f"no reply to opcode {opcode}"]
        if opcode == wire.Opcode.RELEASE and for_device and len(frame) >= _RELEASE_BYTES:
            # The kernel releases a file when no request on it is left.
            self._held = {each: file for each, file in self._held.items() if file != fh}
            if fh in self.files:
                self.files.remove(fh)
        return problems

    def take_replies(self) -> list[str]:
        """What was wrong with replies that came of themselves, as after a notification."""
        return self._take(None)

    def _take(self, request: tuple[int, int] | None) -> list[str]:
        """Receive all there is. `request` is the opcode and the unique of the one that has to be answered."""
        problems: list[str] = []
        answers = 0
        opcode, unique = request or (0, 0)
        for reply in _messages(self._end):
            length, error, answered = _OUT.unpack_from(reply)
            if length != len(reply):
                problems.append("a reply with a wrong length")
            if not answered:
                problems += [] if error > 0 else ["a notification without its code"]
                continue
            if not -_KERNEL_MAX_ERRNO <= error <= 0:
                problems.append(f"a reply with error {error}, which the kernel refuses")
            if answered == unique:
                answers += 1
                if opcode == wire.Opcode.OPEN and not error:
                    self.files.append(int.from_bytes(reply[16:24], sys.byteorder))
            elif self._held.pop(answered, None) is None:
                problems.append("a reply to no request")
        if self._forwarded is not None:
            answers += len(_messages(self._forwarded))
        if request is not None and answers != 1:
            problems.append("no reply" if not answers else f"{answers} replies to opcode {opcode}")
        return problems


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
        transport = FuseTransport(cast(ControlMount, SimpleNamespace(fd=theirs.fileno())), device, control)
        # The device of a zone has an inode from its first lookup on.
        trio.run(transport._control_fs.lookup, ZONES, str(ZONE).encode(), cast(RequestContext, None))
        with transport._ours, socket.socket(fileno=int(init.call_args.args[1].rpartition("/")[2])) as forwarded:
            forwarded.setblocking(False)
            inodes = frozenset(transport._control_fs.device_inodes)
            yield Kernel("FUSE", device, transport._connection, ours, forwarded, inodes)


@contextmanager
def cuse_kernel() -> Iterator[Kernel]:
    """A CuseTransport."""
    device = Device(4, _policy())
    with _socketpair() as (ours, theirs):
        transport = CuseTransport(Path("/dev/mem_notify_fuzz"), theirs.fileno(), device)
        yield Kernel("CUSE", device, transport._connection, ours)


def _policy() -> Policy:
    """Everybody may be told at any notification, so that held reads come and go, whatever the clock says."""
    times = {each.name: 0 for each in fields(Policy) if each.name in ("guard_step_ns", "hold_ns")}
    return replace(Policy(), **times)


def _zone_state(status: int) -> ZoneState:
    return ZoneState(ZONE, status, free_pages=1, high_pages=9, reserve_pages=0, reason="anon_scan", time_ns=1)


def valid_frame(kernel: Kernel, random: Random) -> bytes:
    """A request as the kernel writes it: of every opcode, most of them on open device files."""
    inode = random.choice((DEVICE, DEVICE, DEVICE, FIRST_ZONE, STATUS, 1, 0, random.getrandbits(64)))
    files = kernel.files
    fh = random.choice(files) if files and random.random() < 0.9 else random.getrandbits(64)
    opcode = random.choice((*_DEVICE_OPCODES, random.randint(0, MAX_OPCODE)))
    if kernel.has_no_inodes and opcode in _FORGETS:
        opcode = wire.Opcode.POLL
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


_FORGETS: Final = frozenset({wire.Opcode.FORGET, wire.Opcode.BATCH_FORGET})
_DEVICE_OPCODES: Final = (
    *(wire.Opcode.OPEN, wire.Opcode.OPEN, wire.Opcode.READ, wire.Opcode.READ, wire.Opcode.POLL, wire.Opcode.POLL),
    *(wire.Opcode.RELEASE, wire.Opcode.FLUSH, wire.Opcode.INTERRUPT, wire.Opcode.CUSE_INIT),
)


def frame_for(kernel: Kernel, random: Random) -> bytes:
    """The next frame: three in ten as they are, the others mutated, with a number of their own."""
    frame = valid_frame(kernel, random)
    if random.random() < 0.3:
        return frame
    # A FORGET is never so large: that would take 4,096 inodes at once, and there is one for each zone and text.
    if random.random() < 0.001 and int.from_bytes(frame[4:8], sys.byteorder) not in _FORGETS:
        frame += bytes(TOO_LARGE_BYTES)
    changed = bytearray(mutated(frame, random))
    if len(changed) >= wire.HEADER_BYTES:
        changed[8:16] = _UNIQUE.pack(kernel.new_unique())
        # Mutated into one, the frame stands as it was.
        may_not = kernel.has_no_inodes or len(changed) > TOO_LARGE_BYTES // 2
        if may_not and int.from_bytes(changed[4:8], sys.byteorder) in _FORGETS:
            return frame
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
        for number in range(count):
            kernel = kernels[number % len(kernels)]
            frame = frame_for(kernel, random)
            _decode(frame, findings)
            problems = kernel.sends(frame)
            if number % FRAMES_PER_NOTIFICATION < len(kernels):
                problems += _notify(kernel, random)
                facts["notifications"] += 1
            problems += _complaints(logged, facts)
            for problem in problems:
                findings.add(f"{kernel.name}: {problem}", f"frame {number} of seed {seed}: {frame[:256].hex()}")
        for kernel in kernels:
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
