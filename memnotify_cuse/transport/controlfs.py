"""What pyfuse3 serves of the control file system: directories, and open, read and write of its text files.

The entries are those of `tree`. Names and attributes are answered before they come here (`direct`), and so are the
requests on device files (`endpoint`). A program that reads a text in pieces sees one state (`texts`).
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import select
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

from memnotify_cuse.accounts import OverBoundError
from memnotify_cuse.board import UnknownZoneError
from memnotify_cuse.control import Control, SimulateError
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.transport import tree
from memnotify_cuse.transport.errorlog import ErrorLog
from memnotify_cuse.transport.holdings import Holdings
from memnotify_cuse.transport.texts import Text
from memnotify_cuse.transport.tree import Node, Tree, TreeError

log = logging.getLogger(__name__)

MAX_READ_BYTES: Final = 32 * 1024
MAX_COMMAND_BYTES: Final = 4096
MAX_LOGGED_CHARS: Final = 160
KIND_BITS: Final = 4
KIND_MASK: Final = (1 << KIND_BITS) - 1
"""What kind of text an open file is of stands in its number, for the next server."""

READY: Final = select.POLLIN | select.POLLRDNORM | select.POLLOUT | select.POLLWRNORM

_HANDLERS: Final = ("setattr", "open", "read", "write", "poll", "opendir", "readdir", "statfs")
_REFUSED: Final = {
    **dict.fromkeys(("create", "mknod", "mkdir", "symlink", "link"), errno.EACCES),
    **dict.fromkeys(("unlink", "rmdir", "rename"), errno.EPERM),
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Opened:
    """An open file of a text, in the state of `generation`, or of `simulate`, where that is 0."""

    kind: int
    generation: int


def _refusing(code: int) -> Callable[..., Awaitable[NoReturn]]:
    async def refuse(*args: object) -> NoReturn:
        raise FUSEError(code)

    return refuse


def _one_line(error: Exception) -> str:
    """What is wrong with a command, which can be any bytes, short and printable."""
    text = str(error)
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_LOGGED_CHARS])


class ControlFs(pyfuse3.Operations):
    """pyfuse3 operations over `Control` and the entries of `entries`.

    Every handler is guarded against unexpected exceptions. Open files are counted in `holdings`.
    """

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(self, control: Control, entries: Tree, holdings: Holdings, errors: ErrorLog | None = None) -> None:
        super().__init__()
        self._errors = errors or ErrorLog(log)
        for name in _HANDLERS:
            setattr(self, name, self._guarded(getattr(self, name)))
        for name, code in _REFUSED.items():
            setattr(self, name, _refusing(code))
        self._control = control
        self._tree = entries
        self._holdings = holdings
        # Above those of the server before.
        self._handles = itertools.count(time.monotonic_ns())
        self._opened: dict[int, _Opened] = {}
        self._texts = {
            tree.STATUS: Text(control.status, control.status_version),
            tree.SERVER: Text(control.server, control.server_version),
            tree.CGROUPS: Text(control.cgroups, control.cgroups_version),
            tree.ZONEINFO: Text(control.zoneinfo, control.zoneinfo_version),
        }
        self._zoneinfo_failed = False

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
        if only_size and self._tree.kind(inode) == tree.SIMULATE:
            return self._attributes(self._tree.node(inode))
        raise FUSEError(errno.EACCES if only_size else errno.EPERM)

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        kind = self._tree.kind(inode)
        wants = flags & os.O_ACCMODE
        if wants != (os.O_WRONLY if kind == tree.SIMULATE else os.O_RDONLY):
            raise FUSEError(errno.EACCES)
        if flags & os.O_TRUNC and kind != tree.SIMULATE:
            raise FUSEError(errno.EACCES)
        if kind not in self._texts and kind != tree.SIMULATE:
            raise FUSEError(errno.EACCES)
        number = next(self._handles) << KIND_BITS | kind
        try:
            self._holdings.take(number, ctx.uid)
        except OverBoundError as error:
            raise FUSEError(errno.EMFILE if error.per_user else errno.ENFILE) from None
        try:
            self._opened[number] = _Opened(kind, self._generation(kind))
        except BaseException:
            self._holdings.give_back(number)
            raise
        return FileInfo(fh=FileHandleT(number), direct_io=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        opened = self._open_file(fh)
        if opened.kind not in self._texts:
            raise FUSEError(errno.EBADF)
        return self._texts[opened.kind].read(opened.generation, off, min(size, MAX_READ_BYTES))

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        opened = self._open_file(fh)
        if opened.kind != tree.SIMULATE:
            raise FUSEError(errno.EBADF)
        if len(buf) > MAX_COMMAND_BYTES:
            raise FUSEError(errno.EINVAL)
        try:
            self._control.simulate(buf.decode("ascii"))
        except (SimulateError, UnknownZoneError, UnicodeDecodeError) as error:
            log.warning("simulate: %s", _one_line(error))
            raise FUSEError(errno.EINVAL) from None
        return len(buf)

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
        try:
            children = self._tree.children(fh)
        except TreeError as error:
            raise FUSEError(error.errno) from None
        for number, (name, node) in enumerate(children.items(), 1):
            attributes = self._attributes(node)
            if number > start_id and not pyfuse3.readdir_reply(token, FileNameT(name), attributes, number):
                return

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        data = StatvfsData()
        data.f_bsize = data.f_frsize = os.sysconf("SC_PAGE_SIZE")
        data.f_namemax = 255
        return data

    def _open_file(self, fh: int) -> _Opened:
        """The open file of a number; one that the server before has opened is read in the newest state."""
        opened = self._opened.get(fh)
        if opened is None:
            kind = fh & KIND_MASK
            if kind not in self._texts and kind != tree.SIMULATE:
                raise FUSEError(errno.EBADF)
            opened = self._opened[fh] = _Opened(kind, self._generation(kind))
        return opened

    def forget_open_file(self, fh: int) -> None:
        """The last descriptor of a text or of `simulate` was closed."""
        if self._opened.pop(fh, None) is not None:
            self._holdings.give_back(fh)

    def forget_open_files(self) -> None:
        """Forget every open file: the connection is gone."""
        for fh in list(self._opened):
            self.forget_open_file(fh)

    def _generation(self, kind: int) -> int:
        """The state that a new open file of that kind reads."""
        if kind == tree.SIMULATE:
            return 0
        if kind != tree.ZONEINFO:
            return self._texts[kind].open()
        try:
            generation = self._texts[kind].open()
        except (KernelFileError, OSError) as error:
            if not self._zoneinfo_failed:
                log.warning("zoneinfo cannot be shown, opens of it get EIO: %s", error)
            self._zoneinfo_failed = True
            raise FUSEError(errno.EIO) from None
        self._zoneinfo_failed = False
        return generation

    def _attributes(self, node: Node) -> EntryAttributes:
        attributes = EntryAttributes()
        attributes.st_ino = InodeT(node.inode)
        attributes.st_mode = ModeT(node.mode)
        attributes.st_nlink = node.links
        attributes.st_uid, attributes.st_gid = self._tree.owner
        attributes.st_blksize = tree.BLOCK_BYTES
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = self._tree.born_ns
        attributes.attr_timeout = attributes.entry_timeout = tree.ATTR_TIMEOUT_S
        return attributes

    def _guarded(self, handler: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        """Answer EIO for an unexpected exception: anything but FUSEError would end pyfuse3's main loop."""

        @functools.wraps(handler)
        async def answer(*args: Any, **kwargs: Any) -> T:  # noqa: ANN401 - passes on what pyfuse3 passes
            try:
                return await handler(*args, **kwargs)
            except FUSEError:
                raise
            except Exception as error:
                self._errors.unexpected(f"unexpected error in {handler.__name__}; answered with EIO", error)
                raise FUSEError(errno.EIO) from None

        return answer
