"""The state file: what a server must know of the one before it. A memfd that the keeper holds and each server maps.

    header     which layout this is, the FUSE_INIT request, the zones in the order of their inodes, the last number,
               and when the server has last done its work (`heartbeat`)
    files      one slot for each open file of the device: who opened it, how it is woken, what it was told
    records    what is left to read of each
    requests   requests that were received and not answered, as the kernel sent them (`RequestJournal`)
    sample     the scanner's last sample, from which the next server sees what has changed since
    pressure   the zones under pressure, what programs were told of them, and simulations (`carried`)

The server notes each change down when it makes it, so that nothing has to be saved when it is killed. A change and its
reply to the kernel cannot be made at once. So the order is chosen such that a server killed in between repeats a thing
rather than losing it: a poll handle is noted before the reply, everything else after it.

The low bits of an open file's number are its slot. Slots are used again, so that the table is as large as it has to be.
Pages that were never touched take no memory, and reading one through a map would touch it: what the server before has
written is looked for with SEEK_DATA. Readers of a state file check what they find: the server that wrote it may have
been taken over.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from typing import Final, NamedTuple

from memnotify_cuse.keeper import heartbeat

MAGIC: Final = b"memnotify state\0"
LAYOUT: Final = 5
"""Goes up with every change of the layout. A server that finds another one does not go on with it: `reload` refuses,
and a restart of the service makes the device anew."""

SLOT_BITS: Final = 16
SLOTS: Final = 1 << SLOT_BITS
"""Twice as many as there may be open files."""

HEADER_BYTES: Final = 4096
FILE_BYTES: Final = 72
RECORD_BYTES: Final = 768
"""Two records: one that was read in part, and the next one."""

REQUEST_BYTES: Final = 512
"""Longer than a request with the longest name."""
REQUESTS: Final = 40960
"""Of each connection: the requests that wait for their turn, and all reads that may be held."""
CONNECTIONS: Final = 2

_FILES: Final = HEADER_BYTES
_RECORDS: Final = _FILES + SLOTS * FILE_BYTES
_REQUESTS: Final = _RECORDS + SLOTS * RECORD_BYTES
_SAMPLE: Final = _REQUESTS + CONNECTIONS * REQUESTS * REQUEST_BYTES
SAMPLE_BYTES: Final = 256 * 1024
"""Longer than a sample of a machine with a hundred nodes."""

_SAMPLE_END: Final = _SAMPLE + 2 * SAMPLE_BYTES
PRESSURE_BYTES: Final = 32 * 1024
"""Longer than what is to be said of a machine with a hundred nodes."""
_PRESSURE: Final = _SAMPLE_END

STATE_BYTES: Final = _PRESSURE + 2 * PRESSURE_BYTES

NUMBERS_AHEAD: Final = 1024
"""How many numbers are given out for each write of the header. Some are never used after a restart."""

GIVEN_BACK_FROM: Final = 1024
"""The memory of so many slots is given back once none is used."""

NAME_BYTES: Final = 12
MAX_ZONES: Final = 128
MAX_INIT_BYTES: Final = 256
NEVER: Final = -1

_HEADER: Final = struct.Struct("=16sIIQ")
_NUMBERS: Final = struct.Struct("=Q")
_NUMBERS_AT: Final = 24
_COUNT: Final = struct.Struct("=I")
_SAMPLE_NOW_AT: Final = 32
_PRESSURE_NOW_AT: Final = 33
_INIT_AT: Final = 64
_ZONES_AT: Final = 512
_ZONE: Final = struct.Struct(f"=h{NAME_BYTES}s")
_FILE: Final = struct.Struct(f"=QQqIiiHHhBB{NAME_BYTES}sQq")
_NUMBER: Final = struct.Struct("=Q")
_KH: Final = struct.Struct("=Q")
_KH_AT: Final = 8
_TOLD: Final = struct.Struct("=q")
_TOLD_AT: Final = 16
_USER_TID: Final = struct.Struct("=i")
_USER_TID_AT: Final = 32
_LENGTHS: Final = struct.Struct("=HH")
_LENGTHS_AT: Final = 36
_FLAGS_AT: Final = 43
_CGROUP: Final = struct.Struct("=Q")
_CGROUP_AT: Final = 56

Zone = tuple[int, str]
"""A zone's node and name, or what an open file is about instead, where the node is below that of no zone."""


class StateError(ValueError):
    """A state file of another layout, or what is not one."""


class FileFlag(IntFlag):
    """What is known of an open file."""

    WAITING = 1
    """A program waits on it, in poll or in a held read."""
    PENDING = 2
    ANSWERED = 4
    ANNOUNCED = 8


class Told(NamedTuple):
    """What an open file was told. The fields are those of `OpenFile`; `told_ns` is NEVER for none."""

    told_ns: int
    flags: FileFlag
    queue: bytes
    partial_bytes: int


@dataclass(frozen=True, slots=True)
class KnownFile:
    """An open file of the server before. `kh` 0: no program has waited on it in poll. `cgroup` is the inode of the
    innermost cgroup with a limit that its opener was in, 0 for none; `opened_ns` when it was opened (CLOCK_BOOTTIME).
    """

    number: int
    connection: int
    uid: int
    topic: Zone | None
    opener_tid: int
    user_tid: int
    kh: int
    told: Told
    cgroup: int = 0
    opened_ns: int = 0


def create_state() -> int:
    """A descriptor of a new state file. Its size cannot be changed, so a map of it stays whole."""
    fd = os.memfd_create("memnotify-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, STATE_BYTES)
    os.pwrite(fd, _HEADER.pack(MAGIC, LAYOUT, 0, 0), 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


class StateFile:
    """The state file behind `fd`, which stays open. Until `begin` it is the server's before."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def check(self) -> None:
        """Raise StateError if this code cannot go on with it."""
        check_header(os.pread(self._fd, _HEADER.size, 0))
        if os.fstat(self._fd).st_size != STATE_BYTES:
            raise StateError(f"the state file has {os.fstat(self._fd).st_size} bytes, not {STATE_BYTES}")

    def begin(self) -> None:
        """Take it up where the server before has left it. Raises StateError."""
        self.check()
        self._map = mmap.mmap(self._fd, STATE_BYTES)
        self._sample = _Newest(self._map, _SAMPLE_NOW_AT, _SAMPLE, SAMPLE_BYTES)
        self._pressure = _Newest(self._map, _PRESSURE_NOW_AT, _PRESSURE, PRESSURE_BYTES)
        _, _, _, serial = _HEADER.unpack_from(self._map, 0)
        self._last_serial: int = serial
        self._serials_until: int = serial
        self._slots = _Slots(SLOTS)
        for known in (0, 1):
            for file in self.files(known):
                self._slots.use(file.number % SLOTS)

    # The header.

    @property
    def has_begun(self) -> bool:
        """Whether there was a server before that has served."""
        return bool(self.init_request or self._last_serial)

    @property
    def init_request(self) -> bytes:
        """The FUSE_INIT request of the connection; empty if there was none yet."""
        (length,) = _COUNT.unpack_from(self._map, _INIT_AT)
        start = _INIT_AT + _COUNT.size
        return self._map[start : start + length] if length <= MAX_INIT_BYTES else b""

    def note_init(self, message: bytes) -> None:
        """Take note of the FUSE_INIT request. One that is too long is not kept."""
        if len(message) <= MAX_INIT_BYTES:
            start = _INIT_AT + _COUNT.size
            self._map[start : start + len(message)] = message
            _COUNT.pack_into(self._map, _INIT_AT, len(message))

    @property
    def zones(self) -> list[Zone]:
        """The zones that have an inode, in the order of these."""
        (count,) = _COUNT.unpack_from(self._map, _ZONES_AT)
        start = _ZONES_AT + _COUNT.size
        raw = (_ZONE.unpack_from(self._map, start + index * _ZONE.size) for index in range(min(count, MAX_ZONES)))
        return [(node, _decode(name)) for node, name in raw]

    def note_zone(self, zone: Zone) -> None:
        """One more zone has an inode: the next one."""
        (count,) = _COUNT.unpack_from(self._map, _ZONES_AT)
        if count < MAX_ZONES:
            node, name = zone
            _ZONE.pack_into(self._map, _ZONES_AT + _COUNT.size + count * _ZONE.size, node, name.encode()[:NAME_BYTES])
            _COUNT.pack_into(self._map, _ZONES_AT, count + 1)

    def next_number(self) -> int:
        """A number for a new open file, with a slot of its own: above all that were given out before."""
        slot = self._slots.take()
        if slot is None:
            raise LookupError("there are more open files than slots")
        self._last_serial += 1
        if self._last_serial > self._serials_until:
            self._serials_until = self._last_serial + NUMBERS_AHEAD
            _NUMBERS.pack_into(self._map, _NUMBERS_AT, self._serials_until)
        return self._last_serial << SLOT_BITS | slot

    def has_room_for(self, number: int) -> bool:
        """Whether a file that was opened with that number, before it could be noted, can be noted now."""
        return self._slots.use(number % SLOTS)

    def note_alive(self, now_ns: int) -> None:
        """The server has done its work until now."""
        heartbeat.note(self._map, now_ns)

    # The scanner.

    @property
    def sample(self) -> bytes:
        """The last sample that was noted, empty if there is none."""
        return self._sample.read()

    def note_sample(self, data: bytes) -> None:
        """Take note of a sample. One that is too long is not kept."""
        self._sample.write(data)

    @property
    def pressure(self) -> bytes:
        """What was noted of the pressure last, empty if nothing was."""
        return self._pressure.read()

    def note_pressure(self, data: bytes) -> None:
        """Take note of the pressure. What is too long is not kept."""
        self._pressure.write(data)

    # Open files.

    def note_file(
        self,
        number: int,
        connection: int,
        uid: int,
        topic: Zone | None,
        opener_tid: int,
        user_tid: int,
        cgroup: int = 0,
        opened_ns: int = 0,
    ) -> None:
        """Open file `number` was opened."""
        node, name = topic or (NEVER, "")
        told = (0, 0, node, connection, 0, name.encode()[:NAME_BYTES])
        opener = (uid, opener_tid, user_tid)
        _FILE.pack_into(self._map, _slot(number), number, 0, NEVER, *opener, *told, cgroup, opened_ns)

    def note_cgroup(self, number: int, cgroup: int) -> None:
        """Its opener is in another cgroup now."""
        _CGROUP.pack_into(self._map, _slot(number) + _CGROUP_AT, cgroup)

    def note_waiting(self, number: int, kh: int, user_tid: int) -> None:
        """A program waits on it in poll, to be woken by `kh`; or in a held read, where `kh` is 0."""
        at = _slot(number)
        if kh:
            _KH.pack_into(self._map, at + _KH_AT, kh)
        _USER_TID.pack_into(self._map, at + _USER_TID_AT, user_tid)
        self._map[at + _FLAGS_AT] |= FileFlag.WAITING

    def note_told(self, number: int, told: Told) -> None:
        """What it was told, or has read, has changed."""
        at = _slot(number)
        queue = told.queue if len(told.queue) <= RECORD_BYTES else b""
        if queue:
            # Nothing rather than a record that is cut off, if it ends here.
            _LENGTHS.pack_into(self._map, at + _LENGTHS_AT, 0, 0)
            start = _record(number)
            self._map[start : start + len(queue)] = queue
        _LENGTHS.pack_into(self._map, at + _LENGTHS_AT, len(queue), min(told.partial_bytes, len(queue)))
        _TOLD.pack_into(self._map, at + _TOLD_AT, told.told_ns)
        self._map[at + _FLAGS_AT] = told.flags

    def forget_file(self, number: int) -> None:
        """It was closed."""
        _NUMBER.pack_into(self._map, _slot(number), 0)
        self._slots.give_back(number % SLOTS)
        if not self._slots.used and self._slots.unused_from >= GIVEN_BACK_FROM:
            self._slots = _Slots(SLOTS)
            # Makes a hole of it.
            self._map.madvise(mmap.MADV_REMOVE, _FILES, _REQUESTS - _FILES)

    def files(self, connection: int) -> Iterator[KnownFile]:
        """The open files of a connection. A slot that cannot be one is skipped."""
        for at in _places(self._fd, _FILES, _RECORDS, FILE_BYTES):
            if not _NUMBER.unpack_from(self._map, at)[0]:
                continue
            fields = _FILE.unpack_from(self._map, at)
            number, kh, told_ns, uid, opener, user, length, partial, node, on, flags, name, *origin = fields
            if _slot(number) != at or on != connection or partial > length or length > RECORD_BYTES:
                continue
            start = _record(number)
            told = Told(told_ns, FileFlag(flags & 15), self._map[start : start + length], partial)
            topic = None if node == NEVER else (node, _decode(name))
            yield KnownFile(number, on, uid, topic, opener, user, kh, told, *origin)

    def journal(self, connection: int) -> RequestJournal:
        """The requests of a connection that were not answered."""
        return RequestJournal(self._fd, self._map, _REQUESTS + connection * REQUESTS * REQUEST_BYTES)


class _Newest:
    """Bytes that replace those before as a whole: they are written beside them, and a single byte says which holds.

    That byte is at `now_at`: 0 where nothing was written. Of the two places of `size` bytes each the first is `at`.
    """

    def __init__(self, shared: mmap.mmap, now_at: int, at: int, size: int) -> None:
        self._map = shared
        self._now_at = now_at
        self._places = (at, at + size)
        self._size = size - _COUNT.size

    def read(self) -> bytes:
        """What was written last, empty if there is nothing, or it cannot be that."""
        now = self._map[self._now_at]
        if now not in (1, 2):
            return b""
        at = self._places[now - 1]
        (length,) = _COUNT.unpack_from(self._map, at)
        start = at + _COUNT.size
        return self._map[start : start + length] if length <= self._size else b""

    def write(self, data: bytes) -> None:
        """Put `data` in place of it; nothing if it is too long."""
        if len(data) > self._size:
            self._map[self._now_at] = 0
            return
        other = 2 if self._map[self._now_at] == 1 else 1
        at = self._places[other - 1]
        start = at + _COUNT.size
        _COUNT.pack_into(self._map, at, len(data))
        self._map[start : start + len(data)] = data
        self._map[self._now_at] = other


class _Slots:
    """Which of `count` slots are free. One that was used is used again before another."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = array("H")
        self.unused_from = 0
        self.used = 0

    def take(self) -> int | None:
        """A free slot, None if there is none."""
        if self._free:
            slot = self._free.pop()
        elif self.unused_from < self._count:
            slot = self.unused_from
            self.unused_from += 1
        else:
            return None
        self.used += 1
        return slot

    def use(self, slot: int) -> bool:
        """Take that slot; False if it is taken already."""
        if slot >= self.unused_from:
            self._free.extend(range(self.unused_from, slot))
            self.unused_from = slot + 1
        elif slot in self._free:
            self._free.remove(slot)
        else:
            return False
        self.used += 1
        return True

    def give_back(self, slot: int) -> None:
        """It is free again."""
        self._free.append(slot)
        self.used -= 1


class RequestJournal:
    """Requests that were received and not answered, for kernels that cannot be asked for them again.

    A request is read right into an entry. So it is here from the moment in which the kernel takes it for received. An
    entry is free when the length in its first four bytes is 0.
    """

    def __init__(self, fd: int, shared: mmap.mmap, offset: int) -> None:
        self._view = memoryview(shared)[offset : offset + REQUESTS * REQUEST_BYTES]
        self._slots = _Slots(REQUESTS)
        self.left: list[tuple[int, bytes]] = []
        """The entries that the server before has left, and what is in each: the first bytes of a long request."""
        for at in _places(fd, offset, offset + REQUESTS * REQUEST_BYTES, REQUEST_BYTES):
            (length,) = _COUNT.unpack_from(shared, at)
            index = (at - offset) // REQUEST_BYTES
            if length and self._slots.use(index):
                self.left.append((index, bytes(self.entry(index)[: min(length, REQUEST_BYTES)])))

    def take(self) -> int | None:
        """A free entry, None if there is none. It is to be cleared, or given back if nothing was put in."""
        return self._slots.take()

    def entry(self, index: int) -> memoryview:
        """Its bytes."""
        start = index * REQUEST_BYTES
        return self._view[start : start + REQUEST_BYTES]

    def clear(self, index: int) -> None:
        """It was answered."""
        _COUNT.pack_into(self._view, index * REQUEST_BYTES, 0)
        self._slots.give_back(index)

    def give_back(self, index: int) -> None:
        """Nothing was put in."""
        self._slots.give_back(index)


def _places(fd: int, start: int, end: int, step: int) -> Iterator[int]:
    """The multiples of `step` from `start` to `end` where something was ever written."""
    at = start
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
            hole = os.lseek(fd, at, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        yield from range(at, min(hole, end), step)
        at = hole


def check_header(header: bytes) -> None:
    """Raise StateError if this code cannot go on with a state file that begins like this.

    The kind of table that follows is not the only thing that counts: so is its size. Change `LAYOUT` with either.
    """
    if len(header) < _HEADER.size:
        raise StateError("the state file has no header")
    magic, layout, _, _ = _HEADER.unpack_from(header)
    if (magic, layout) != (MAGIC, LAYOUT):
        raise StateError(f"the state file has layout {layout}, not {LAYOUT}")


def _slot(number: int) -> int:
    return _FILES + number % SLOTS * FILE_BYTES


def _record(number: int) -> int:
    return _RECORDS + number % SLOTS * RECORD_BYTES


def _decode(name: bytes) -> str:
    return name.rstrip(b"\0").decode("ascii", "replace")
