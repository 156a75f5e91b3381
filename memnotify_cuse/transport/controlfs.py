"""The control file system, served by pyfuse3: directory, attributes, and the text files.

    mem_notify           the device, any zone              0444
    zones/nodeN-NAME     the device of one zone            0444
    status               one key=value line per zone       0444
    server               one key=value line                0444
    zoneinfo             /proc/zoneinfo and the status     0444
    simulate             takes commands                    0200

The device files are only looked up here: open, read and poll of them go to the endpoint and never reach these
handlers (see `fuse`). A text is made once, at open, so that a program reading in pieces sees one state.
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import select
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from memnotify_cuse.board import UnknownZoneError
from memnotify_cuse.control import CommandError, Control
from memnotify_cuse.kernel.zoneinfo import ZoneId

log = logging.getLogger(__name__)

ROOT: Final = pyfuse3.ROOT_INODE
DEVICE: Final = InodeT(2)
ZONES: Final = InodeT(3)
STATUS: Final = InodeT(4)
SERVER: Final = InodeT(5)
ZONEINFO: Final = InodeT(6)
SIMULATE: Final = InodeT(7)
FIRST_ZONE: Final = 16

MAX_READ_BYTES: Final = 32 * 1024
MAX_COMMAND_BYTES: Final = 4096
MAX_LOGGED_CHARS: Final = 160
ATTR_TIMEOUT_S: Final = 60.0
READY: Final = select.POLLIN | select.POLLRDNORM | select.POLLOUT | select.POLLWRNORM

_HANDLERS: Final = ("lookup", "getattr", "setattr", "open", "read", "write", "poll", "opendir", "readdir", "statfs")
_REFUSED: Final = {
    **dict.fromkeys(("create", "mknod", "mkdir", "symlink", "link"), errno.EACCES),
    **dict.fromkeys(("unlink", "rmdir", "rename"), errno.EPERM),
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Node:
    """An entry of the tree."""

    inode: InodeT
    mode: int


def _guarded(handler: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Answer EIO for an unexpected exception: anything but FUSEError would end pyfuse3's main loop."""

    @functools.wraps(handler)
    async def answer(*args: Any, **kwargs: Any) -> T:  # noqa: ANN401 - passes on what pyfuse3 passes
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except Exception:
            log.exception("unexpected error in %s; answered with EIO", handler.__name__)
            raise FUSEError(errno.EIO) from None

    return answer


def _refusing(code: int) -> Callable[..., Awaitable[NoReturn]]:
    async def refuse(*args: object) -> NoReturn:
        raise FUSEError(code)

    return refuse


def _one_line(error: Exception) -> str:
    """What is wrong with a command, which can be any bytes, short and printable."""
    text = str(error)
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_LOGGED_CHARS])


class ControlFs(pyfuse3.Operations):
    """pyfuse3 operations over `Control`. Every handler is guarded against unexpected exceptions.

    `device_inodes` maps the inode of each device file to its zone (None: of all zones).
    """

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(self, control: Control) -> None:
        super().__init__()
        for name in _HANDLERS:
            setattr(self, name, _guarded(getattr(self, name)))
        for name, code in _REFUSED.items():
            setattr(self, name, _refusing(code))
        self._control = control
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._born_ns = time.time_ns()
        self._zone_inodes: dict[ZoneId, InodeT] = {}
        self.device_inodes: dict[int, ZoneId | None] = {DEVICE: None}
        self._handles = itertools.count(1)
        self._texts: dict[int, bytes] = {}
        self._simulate_handles: set[int] = set()

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        if name == b".":
            return self._attributes(self._node(parent_inode))
        if name == b"..":
            return self._attributes(self._node(ROOT))
        for entry, node in self._children(parent_inode):
            if entry == name:
                return self._attributes(node)
        raise FUSEError(errno.ENOENT)

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(self._node(inode))

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        # A shell's `echo all 5 > simulate` truncates first.
        only_size = fields.update_size and not (fields.update_mode or fields.update_uid or fields.update_gid)
        if only_size and inode == SIMULATE:
            return self._attributes(self._node(inode))
        raise FUSEError(errno.EACCES if only_size else errno.EPERM)

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        wants = flags & os.O_ACCMODE
        if wants != (os.O_WRONLY if inode == SIMULATE else os.O_RDONLY):
            raise FUSEError(errno.EACCES)
        if flags & os.O_TRUNC and inode != SIMULATE:
            raise FUSEError(errno.EACCES)
        number = next(self._handles)
        match inode:
            case _ if inode == STATUS:
                self._texts[number] = self._control.status().encode()
            case _ if inode == SERVER:
                self._texts[number] = self._control.server().encode()
            case _ if inode == ZONEINFO:
                self._texts[number] = self._control.zoneinfo().encode()
            case _ if inode == SIMULATE:
                self._simulate_handles.add(number)
            case _:
                raise FUSEError(errno.EACCES)
        return FileInfo(fh=FileHandleT(number), direct_io=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        try:
            return self._texts[fh][off : off + min(size, MAX_READ_BYTES)]
        except KeyError:
            raise FUSEError(errno.EBADF) from None

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        if fh not in self._simulate_handles:
            raise FUSEError(errno.EBADF)
        if len(buf) > MAX_COMMAND_BYTES:
            raise FUSEError(errno.EINVAL)
        try:
            self._control.simulate(buf.decode("ascii"))
        except (CommandError, UnknownZoneError, UnicodeDecodeError) as error:
            log.warning("simulate: %s", _one_line(error))
            raise FUSEError(errno.EINVAL) from None
        return len(buf)

    async def release(self, fh: FileHandleT) -> None:
        self._texts.pop(fh, None)
        self._simulate_handles.discard(fh)

    async def flush(self, fh: FileHandleT) -> None:
        return None

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        return None

    async def poll(
        self, inode: InodeT, fh: FileHandleT, poll_handle: pyfuse3.PollHandle | None, ctx: RequestContext
    ) -> int:
        # The default, ENOSYS, would make the kernel answer "always readable" for the device as well.
        return READY

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        for number, (name, node) in enumerate(self._children(InodeT(fh)), 1):
            if number > start_id and not pyfuse3.readdir_reply(token, name, self._attributes(node), number):
                return

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        data = StatvfsData()
        data.f_bsize = data.f_frsize = os.sysconf("SC_PAGE_SIZE")
        data.f_namemax = 255
        return data

    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return True

    async def forget(self, inode_list: Any) -> None:  # noqa: ANN401 - nothing is counted
        return None

    def _children(self, inode: InodeT) -> list[tuple[FileNameT, _Node]]:
        if inode == ROOT:
            named = {
                "mem_notify": DEVICE,
                "zones": ZONES,
                "status": STATUS,
                "server": SERVER,
                "zoneinfo": ZONEINFO,
                "simulate": SIMULATE,
            }
            return [(FileNameT(name.encode()), self._node(number)) for name, number in named.items()]
        if inode == ZONES:
            return [
                (FileNameT(str(zone).encode()), self._node(self._zone_inode(zone))) for zone in self._control.zones()
            ]
        raise FUSEError(errno.ENOTDIR)

    def _zone_inode(self, zone: ZoneId) -> InodeT:
        if zone not in self._zone_inodes:
            inode = InodeT(FIRST_ZONE + len(self._zone_inodes))
            self._zone_inodes[zone] = inode
            self.device_inodes[inode] = zone
        return self._zone_inodes[zone]

    def _node(self, inode: InodeT) -> _Node:
        if inode in (ROOT, ZONES):
            return _Node(inode, stat.S_IFDIR | 0o555)
        if inode == SIMULATE:
            return _Node(inode, stat.S_IFREG | 0o200)
        if inode in (STATUS, SERVER, ZONEINFO) or inode in self.device_inodes:
            return _Node(inode, stat.S_IFREG | 0o444)
        raise FUSEError(errno.ENOENT)

    def _attributes(self, node: _Node) -> EntryAttributes:
        attributes = EntryAttributes()
        attributes.st_ino = node.inode
        attributes.st_mode = ModeT(node.mode)
        attributes.st_nlink = 2 if stat.S_ISDIR(node.mode) else 1
        attributes.st_uid, attributes.st_gid = self._uid, self._gid
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = self._born_ns
        attributes.attr_timeout = attributes.entry_timeout = ATTR_TIMEOUT_S
        return attributes
