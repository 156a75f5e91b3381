"""The wire format of requests on /dev/fuse (and /dev/cuse): a codec, no I/O.

Source: include/uapi/linux/fuse.h, protocol 7.31 and later; all integers in host byte order. Only what an open
device file needs stands here, and what is answered about names and attributes. A request is one message:

    struct fuse_in_header  { u32 len, opcode; u64 unique, nodeid; u32 uid, gid, pid; u16 total_extlen, padding; }
    FUSE_LOOKUP    the name, ended by a zero byte
    FUSE_OPEN      fuse_open_in      { u32 flags, open_flags; }
    FUSE_READ      fuse_read_in      { u64 fh, offset; u32 size, read_flags; u64 lock_owner; u32 flags, padding; }
    FUSE_RELEASE   fuse_release_in   { u64 fh; u32 flags, release_flags; u64 lock_owner; }
    FUSE_POLL      fuse_poll_in      { u64 fh, kh; u32 flags, events; }
    FUSE_INTERRUPT fuse_interrupt_in { u64 unique; }
    FUSE_IOCTL     fuse_ioctl_in     { u64 fh; u32 flags, cmd; u64 arg; u32 in_size, out_size; }

and so is a reply:

    struct fuse_out_header { u32 len; s32 error; u64 unique; }
    FUSE_OPEN      fuse_open_out     { u64 fh; u32 open_flags; s32 backing_id; }
    FUSE_POLL      fuse_poll_out     { u32 revents, padding; }
    FUSE_READ      the bytes
    FUSE_IOCTL     fuse_ioctl_out    { s32 result; u32 flags, in_iovs, out_iovs; } and the data
    FUSE_LOOKUP    fuse_entry_out    { u64 nodeid, generation, entry_valid, attr_valid;
                                       u32 entry_valid_nsec, attr_valid_nsec; struct fuse_attr attr; }
    FUSE_GETATTR   fuse_attr_out     { u64 attr_valid; u32 attr_valid_nsec, dummy; struct fuse_attr attr; }
                   fuse_attr         { u64 ino, size, blocks, atime, mtime, ctime; u32 atimensec, mtimensec, ctimensec,
                                       mode, nlink, uid, gid, rdev, blksize, flags; }

A notification is a reply with unique 0 and the notification's code as its error:

    FUSE_NOTIFY_POLL   fuse_notify_poll_wakeup_out { u64 kh; }
    FUSE_NOTIFY_RESEND none: requests that were received and not answered come again (since Linux 6.9)

/dev/cuse begins with a request of its own. The reply is followed by "DEVNAME=...", ended by a zero byte:

    CUSE_INIT      cuse_init_in      { u32 major, minor, unused, flags; }
                   cuse_init_out     { u32 major, minor, unused, flags, max_read, max_write, dev_major, dev_minor,
                                       spare[10]; }
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

Buffer = bytes | bytearray | memoryview


class Opcode(IntEnum):
    """`enum fuse_opcode`, as far as something is done about it here."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    RELEASEDIR = 29
    ACCESS = 34
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    BATCH_FORGET = 42
    STATX = 52
    CUSE_INIT = 4096


class OpenReply(IntFlag):
    """`FOPEN_*`: what the kernel is asked to do with an open file."""

    DIRECT_IO = 1 << 0
    NONSEEKABLE = 1 << 2
    STREAM = 1 << 4
    NOFLUSH = 1 << 5


POLL_SCHEDULE_NOTIFY: Final = 1 << 0
"""`FUSE_POLL_SCHEDULE_NOTIFY`: somebody waits and is to be notified under this request's kh."""

NOTIFY_POLL: Final = 1
NOTIFY_RESEND: Final = 7

_HEADER: Final = struct.Struct("=IIQQIIIHH")
_OPEN: Final = struct.Struct("=II")
_READ: Final = struct.Struct("=QQIIQI")
_RELEASE: Final = struct.Struct("=Q")
_POLL: Final = struct.Struct("=QQII")
_INTERRUPT: Final = struct.Struct("=Q")
_IOCTL: Final = struct.Struct("=QIIQII")
_CUSE_INIT: Final = struct.Struct("=IIII")
_OUT: Final = struct.Struct("=IiQ")
_OPEN_OUT: Final = struct.Struct("=IiQQIi")
_POLL_OUT: Final = struct.Struct("=IiQII")
_IOCTL_OUT: Final = struct.Struct("=iIII")
_ATTR: Final = "QQQQQQIIIIIIIIII"
_ENTRY_OUT: Final = struct.Struct("=IiQQQQQII" + _ATTR)
_ATTR_OUT: Final = struct.Struct("=IiQQII" + _ATTR)
_UNIQUE: Final = struct.Struct("=8xQ")
_CUSE_INIT_OUT: Final = struct.Struct("=8I40x")
_NOTIFY_POLL_OUT: Final = struct.Struct("=IiQQ")

HEADER_BYTES: Final = _HEADER.size
INTERRUPT_BYTES: Final = HEADER_BYTES + _INTERRUPT.size
PROTOCOL_MAJOR: Final = 7
PROTOCOL_MINOR: Final = 31
CUSE_MAX_TRANSFER_BYTES: Final = 64 * 1024


class WireError(ValueError):
    """A message that is not a request of this protocol, or shorter than its opcode needs."""


class RequestHeader(NamedTuple):
    """`struct fuse_in_header`. `opcode` is a plain int: most are not ours. `pid` is a thread id, 0 if unseen."""

    length_bytes: int
    opcode: int
    unique: int
    inode: int
    uid: int
    gid: int
    pid: int


class ReadRequest(NamedTuple):
    """A read of `size_bytes` from open file `fh`; `flags` are the file's flags now, F_SETFL included."""

    fh: int
    size_bytes: int
    flags: int


class PollRequest(NamedTuple):
    """A poll of open file `fh`; `kh` names it in notifications, which `waiting` says are wanted."""

    fh: int
    kh: int
    waiting: bool


class IoctlRequest(NamedTuple):
    """ioctl `command` on open file `fh`; `out_bytes` is the most that its answer may have."""

    fh: int
    command: int
    out_bytes: int


class Attributes(NamedTuple):
    """What stat(2) says of an inode; its three times are all `time_ns` (CLOCK_REALTIME)."""

    inode: int
    mode: int
    links: int
    uid: int
    gid: int
    time_ns: int
    block_bytes: int


class CuseInit(NamedTuple):
    """What the kernel offers on a new connection to /dev/cuse."""

    major: int
    minor: int
    flags: int


def decode_header(message: Buffer, *, whole: bool = True) -> RequestHeader:
    """The header of a request; a message shorter than its header, or (`whole`) its own length, is a `WireError`."""
    if len(message) < HEADER_BYTES:
        raise WireError(f"a message of {len(message)} bytes is shorter than its header")
    length, opcode, unique, inode, uid, gid, pid, _, _ = _HEADER.unpack_from(message)
    if whole and length != len(message):
        raise WireError(f"a message of {len(message)} bytes says that it has {length}")
    return RequestHeader(length, opcode, unique, inode, uid, gid, pid)


def decode_lookup(message: Buffer) -> bytes:
    """The name that is looked up in the directory of the header's inode."""
    name, ended, _ = bytes(message[HEADER_BYTES:]).partition(b"\0")
    if not ended:
        raise WireError("a name has no end")
    return name


def decode_open(message: Buffer) -> int:
    """The flags of open(2)."""
    flags, _ = _body(_OPEN, message)
    return int(flags)


def decode_read(message: Buffer) -> ReadRequest:
    fh, _offset, size, _read_flags, _lock_owner, flags = _body(_READ, message)
    return ReadRequest(fh, size, flags)


def decode_release(message: Buffer) -> int:
    """The fh of the open file whose last descriptor was closed."""
    (fh,) = _body(_RELEASE, message)
    return int(fh)


def decode_poll(message: Buffer) -> PollRequest:
    fh, kh, flags, _events = _body(_POLL, message)
    return PollRequest(fh, kh, bool(flags & POLL_SCHEDULE_NOTIFY))


def decode_interrupt(message: Buffer) -> int:
    """The unique of the request to be interrupted."""
    (unique,) = _body(_INTERRUPT, message)
    return int(unique)


def decode_ioctl(message: Buffer) -> IoctlRequest:
    fh, _flags, command, _arg, _in_bytes, out_bytes = _body(_IOCTL, message)
    return IoctlRequest(fh, command, out_bytes)


def unique_of_reply(reply: Buffer) -> int:
    """The unique of the request that a reply answers; 0 for a notification."""
    if len(reply) < _OUT.size:
        raise WireError(f"a reply of {len(reply)} bytes is shorter than its header")
    return int(_UNIQUE.unpack_from(reply)[0])


def decode_cuse_init(message: Buffer) -> CuseInit:
    """The protocol that the kernel speaks; another major than ours is a `WireError`."""
    major, minor, _unused, flags = _body(_CUSE_INIT, message)
    if major != PROTOCOL_MAJOR:
        raise WireError(f"the kernel speaks protocol {major}.{minor}, not {PROTOCOL_MAJOR}.x")
    return CuseInit(major, minor, flags)


def encode_cuse_init(unique: int, request: CuseInit, name: str) -> bytes:
    """The reply that makes the kernel create the character device `name`, with a major and minor of its choice."""
    limit = CUSE_MAX_TRANSFER_BYTES
    reply = _CUSE_INIT_OUT.pack(PROTOCOL_MAJOR, min(request.minor, PROTOCOL_MINOR), 0, 0, limit, limit, 0, 0)
    return encode_data(unique, reply + b"DEVNAME=" + name.encode() + b"\0")


def encode_error(unique: int, errno: int) -> bytes:
    """The reply to `unique` that it failed with `errno` (positive), or that it succeeded without data (0)."""
    return _OUT.pack(_OUT.size, -errno, unique)


def encode_data(unique: int, data: bytes) -> bytes:
    return _OUT.pack(_OUT.size + len(data), 0, unique) + data


def encode_open(unique: int, fh: int, flags: OpenReply) -> bytes:
    return _OPEN_OUT.pack(_OPEN_OUT.size, 0, unique, fh, int(flags), 0)


def encode_poll(unique: int, revents: int) -> bytes:
    return _POLL_OUT.pack(_POLL_OUT.size, 0, unique, revents, 0)


def encode_ioctl(unique: int, data: bytes) -> bytes:
    """The reply to an ioctl that succeeded with result 0 and gives `data`."""
    return encode_data(unique, _IOCTL_OUT.pack(0, 0, 0, 0) + data)


def encode_entry(unique: int, attributes: Attributes, timeout_s: int) -> bytes:
    """The reply to a lookup: the entry, which the kernel may take for valid for `timeout_s`."""
    attr = _attr(attributes)
    return _ENTRY_OUT.pack(_ENTRY_OUT.size, 0, unique, attributes.inode, 0, timeout_s, timeout_s, 0, 0, *attr)


def encode_attributes(unique: int, attributes: Attributes, timeout_s: int) -> bytes:
    """The reply to GETATTR, which the kernel may take for valid for `timeout_s`."""
    return _ATTR_OUT.pack(_ATTR_OUT.size, 0, unique, timeout_s, 0, 0, *_attr(attributes))


def encode_notify_poll(kh: int) -> bytes:
    return _NOTIFY_POLL_OUT.pack(_NOTIFY_POLL_OUT.size, NOTIFY_POLL, 0, kh)


def encode_notify_resend() -> bytes:
    return _OUT.pack(_OUT.size, NOTIFY_RESEND, 0)


def _attr(of: Attributes) -> tuple[int, ...]:
    s, ns = divmod(of.time_ns, 1_000_000_000)
    return (of.inode, 0, 0, s, s, s, ns, ns, ns, of.mode, of.links, of.uid, of.gid, 0, of.block_bytes, 0)


def _body(layout: struct.Struct, message: Buffer) -> tuple[int, ...]:
    if len(message) < HEADER_BYTES + layout.size:
        raise WireError(f"a message of {len(message)} bytes is too short for its opcode")
    return layout.unpack_from(message, HEADER_BYTES)
