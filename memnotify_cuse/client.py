"""Wait for memory notifications from a Python program: in a thread, under asyncio or under trio.

How the device behaves, and why this is not three lines: poll says POLLIN twice at most for each notification, and not
once the record was read. The record itself stays readable for longer. So a program that polls elsewhere as well may
find poll silent and a record waiting; everything here therefore reads first and waits second. The device is a byte
stream of lines (see :mod:`memnotify_cuse.record`), and one read may return part of a record or several.

With ``end=True`` everything here reads another device, ``state`` in the server's mount, which tells of each change of
a zone: that it comes under pressure, that its level changes, and that its pressure has ended (``pressure`` is 0 then).
The first records of it say how each zone is now.

Only the standard library is imported, and asyncio or trio only by the program that already runs it.

Examples::

    from memnotify_cuse.client import MemNotify, notifications, wait

    if (record := wait(timeout=60)) is not None:
        free_caches(record.reclaim_target_kb)

    with MemNotify() as memory:
        while record := memory.wait():
            free_caches(record.reclaim_target_kb)

    async for record in notifications():
        await free_caches(record.reclaim_target_kb)

    async for record in notifications(end=True):
        set_cache_limit(SMALL if record.pressure else LARGE)
"""

from __future__ import annotations

import errno
import math
import os
import select
import sys
import time
from types import TracebackType
from typing import Self

from memnotify_cuse.record import Record, RecordError

DEFAULT_DEVICE = "/dev/mem_notify"
DEFAULT_STATE = "/run/mem_notify/state"

_READ_BYTES = 4096
_LONGEST_RECORD_BYTES = 4096
_LONGEST_POLL_S = 1e6

# ENOTCONN: the connection is gone; ECONNABORTED: it went while we were asking; ENODEV and ENXIO: a character
# device node that outlived its driver.
_GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV, errno.ENXIO})


class DeviceError(OSError):
    """The device cannot be used. ``str()`` is one line that says what to do; ``filename`` is the device."""

    def __str__(self) -> str:
        return str(self.strerror)


class DeviceNotFoundError(DeviceError, FileNotFoundError):
    """There is no such device: no server runs, or it serves another path."""

    def __init__(self, device: str) -> None:
        super().__init__(
            errno.ENOENT,
            f"{device} does not exist: start the server (memnotify serve), or name the device it serves",
            device,
        )


class DeviceGoneError(DeviceError):
    """The server behind the device ended. The open descriptor will never work again; open a new one."""

    def __init__(self, device: str) -> None:
        super().__init__(
            errno.ENOTCONN,
            f"the server behind {device} is gone: start it again (memnotify serve) and reopen the device",
            device,
        )


class MemNotify:
    """One open file of the device, with the records that were read from it and not yet handed out.

    A context manager; ``close()`` may be called more than once. Not for use by several threads or tasks at
    once. ``device`` may also be one zone's file, such as ``/run/mem_notify/zones/node0-Normal``, or
    ``/run/mem_notify/levels/critical``. None: DEFAULT_DEVICE, or DEFAULT_STATE if ``end``.

    The device tells of the limits of the memory cgroup that this process is in, too. With ``cgroup`` it is those of
    another one, given by its path as in /proc/PID/cgroup, or by its folder: it is opened there by another process. For
    that one must be permitted to move processes into it; else it is the OSError (CgroupError) that says so.

    Raises DeviceNotFoundError if there is no such file, DeviceGoneError if its server is dead, and the plain
    OSError (PermissionError and so on) for anything else that keeps it from being opened.
    """

    def __init__(
        self, device: str | os.PathLike[str] | None = None, *, end: bool = False, cgroup: str | None = None
    ) -> None:
        self._fd = -1
        self.device = os.fspath(device or (DEFAULT_STATE if end else DEFAULT_DEVICE))
        self._buffer = bytearray()
        try:
            self._fd = _open(self.device, cgroup)
        except FileNotFoundError:
            raise DeviceNotFoundError(self.device) from None
        except OSError as error:
            if error.errno in _GONE:
                raise DeviceGoneError(self.device) from None
            raise

    def fileno(self) -> int:
        """Return the descriptor, for a selector of your own; call ``wait(0)`` until None once it is readable.

        Raises ValueError after ``close()``.
        """
        if self._fd < 0:
            raise ValueError("the device has been closed")
        return self._fd

    def close(self) -> None:
        """Close the descriptor and forget what was read from it."""
        fd, self._fd = self._fd, -1
        self._buffer.clear()
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def wait(self, timeout: float | None = None) -> Record | None:
        """Wait up to ``timeout`` seconds (None: for ever) for a record; return None if none came.

        Raises DeviceGoneError when the server has ended, RecordError when what it sent is not a record.
        """
        deadline_s = math.inf if timeout is None else time.monotonic() + timeout
        # Not poll: when the machine is about to sleep, the kernel wakes this process, and poll would ask the server
        # once more, which is frozen by then.
        with select.epoll() as epoll:
            try:
                epoll.register(self.fileno(), select.EPOLLIN)
            except PermissionError:
                # What epoll does not take, such as a regular file, never has a reader wait: reading says what it is.
                return self._read_record()
            while (record := self._read_record()) is None:
                remaining_s = deadline_s - time.monotonic()
                if remaining_s <= 0:
                    return None
                answers = epoll.poll(min(remaining_s, _LONGEST_POLL_S))
                if any(events & select.EPOLLIN == 0 for _, events in answers):
                    raise DeviceGoneError(self.device)
        return record

    async def wait_async(self) -> Record:
        """Return the next record, under trio or asyncio. Cancelling the wait leaves the device usable.

        Raises what :meth:`wait` raises, and RuntimeError when neither trio nor asyncio runs.
        """
        if _running_library() == "trio":
            return await self._wait_trio()
        return await self._wait_asyncio()

    async def _wait_trio(self) -> Record:
        import trio

        await trio.lowlevel.checkpoint()
        while (record := self._read_record()) is None:
            await trio.lowlevel.wait_readable(self.fileno())
        return record

    async def _wait_asyncio(self) -> Record:
        import asyncio

        if (record := self._read_record()) is not None:
            return record
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        fd = self.fileno()
        loop.add_reader(fd, readable.set)
        try:
            # Read again once registered: the registration is itself a poll, and may be the one that is told.
            while (record := self._read_record()) is None:
                readable.clear()
                await readable.wait()
        finally:
            loop.remove_reader(fd)
        return record

    def _read_record(self) -> Record | None:
        """Return the next record without waiting; None while it has not fully arrived."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) >= _LONGEST_RECORD_BYTES:
                raise RecordError("", f"{self.device}: no end of line in {len(self._buffer)} bytes")
            try:
                data = os.read(self.fileno(), _READ_BYTES)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in _GONE:
                    raise DeviceGoneError(self.device) from None
                raise
            if not data:
                # The device has no end of file, so this is not the device or not any more.
                raise DeviceGoneError(self.device)
            self._buffer += data
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return Record.parse(line)


def wait(
    timeout: float | None = None,
    *,
    device: str | os.PathLike[str] | None = None,
    end: bool = False,
    cgroup: str | None = None,
) -> Record | None:
    """Open ``device``, wait up to ``timeout`` seconds (None: for ever) for one record, and close it again.

    Returns None when none came in time. Raises what :class:`MemNotify` and its ``wait`` raise. In a loop use
    MemNotify: between two calls of this function the device is not open. With ``end`` it does not wait: the first
    record says how a zone is now. ``cgroup`` is that of :class:`MemNotify`.
    """
    with MemNotify(device, end=end, cgroup=cgroup) as memory:
        return memory.wait(timeout)


class Notifications:
    """The asynchronous iterator that :func:`notifications` returns.

    It opens the device at ``async with`` or else at the first step, and closes it when a step fails or is
    cancelled, at ``aclose()``, at the end of ``async with``, and when it is no longer referenced. After that
    it is exhausted. To give up waiting without giving up the device, use :meth:`MemNotify.wait_async`.
    """

    def __init__(self, device: str | os.PathLike[str] | None = None, *, end: bool = False) -> None:
        self._device = device
        self._end = end
        self._memory: MemNotify | None = None
        self._finished = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        if self._finished:
            raise StopAsyncIteration
        try:
            return await self._open().wait_async()
        except BaseException:
            self._close()
            raise

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def aclose(self) -> None:
        """Close the device; the iteration is over."""
        self._close()

    def _open(self) -> MemNotify:
        if self._memory is None:
            self._memory = MemNotify(self._device, end=self._end)
        return self._memory

    def _close(self) -> None:
        self._finished = True
        if self._memory is not None:
            self._memory.close()


def notifications(device: str | os.PathLike[str] | None = None, *, end: bool = False) -> Notifications:
    """Return an asynchronous iterator over the records of ``device``, for trio and asyncio alike.

    ``device`` and ``end`` are those of :class:`MemNotify`. ``async for`` raises what it and its ``wait`` raise.
    """
    return Notifications(device, end=end)


def _open(device: str, cgroup: str | None) -> int:
    if cgroup is None:
        return os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    from memnotify_cuse.cgroupopen import open_in_cgroup

    return open_in_cgroup(device, cgroup)


def _running_library() -> str:
    """Return ``trio`` or ``asyncio``, whichever runs this task; RuntimeError when neither does."""
    if (sniffio := sys.modules.get("sniffio")) is not None:
        library = str(sniffio.current_async_library())
        if library not in ("trio", "asyncio"):
            raise RuntimeError(f"the device can be awaited under trio or asyncio, not under {library}")
        return library
    if (trio := sys.modules.get("trio")) is not None and trio.lowlevel.in_trio_run():
        return "trio"
    return "asyncio"
