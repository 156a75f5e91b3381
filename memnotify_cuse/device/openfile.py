"""One open file of the device: what it was told, when, and what is left to read.

An open file's notification goes through these states:

    idle ──picked──▶ pending ──first POLLIN answer──▶ held ──hold time over, or record read──▶ idle
                        │                                                      (guard time runs from here ◀ the answer)
                        └──pressure ended──▶ idle, record withdrawn

The byte queue outlives the state: a record that POLLIN announced stays readable until it is read, or replaced
by the next one. A record that was read in part stays until its rest is read; the next one queues behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from memnotify_cuse.kernel.zoneinfo import ZoneId


@dataclass(slots=True, eq=False)
class OpenFile:
    """State of one open file description. Times are CLOCK_MONOTONIC nanoseconds.

    `zone` is the zone it is about, None for the device of all zones. `pending` is set from the moment the file
    is picked until its hold time is over or its record is read; `answered_ns` is the first POLLIN answer to the
    pending notification; `told_ns` the last time the file was told (None: never), from which guard time counts.
    `announced` says that POLLIN was answered and nothing was read since: something must stay to be read.
    `opener_tid` and `user_tid` are the threads that opened it and that used it last (0: not visible to us).
    """

    number: int
    uid: int
    zone: ZoneId | None
    pending: bool = False
    answered_ns: int | None = None
    told_ns: int | None = None
    opener_tid: int = 0
    user_tid: int = 0
    announced: bool = False
    _queue: bytearray = field(default_factory=bytearray)
    _partial_bytes: int = 0

    @property
    def queued_bytes(self) -> int:
        return len(self._queue)

    @property
    def half_read(self) -> bool:
        """Whether a record was read in part, so that the file stays readable until its rest is read."""
        return self._partial_bytes > 0

    def put(self, record: bytes) -> None:
        """Queue `record` in place of an unread one, behind one that was read in part."""
        del self._queue[self._partial_bytes :]
        self._queue += record

    def withdraw(self) -> None:
        """Take back a pending notification that nobody was answered yet.

        Its record stays where it took the place of one that had been announced.
        """
        self.pending = False
        if not self.announced:
            del self._queue[self._partial_bytes :]

    def take(self, size: int) -> bytes:
        """Read up to `size` bytes off the queue; a record that is read to its end is no longer pending."""
        taken = bytes(self._queue[:size])
        del self._queue[:size]
        if taken:
            self.announced = False
            self._partial_bytes = 0 if taken.endswith(b"\n") else self._queue.find(b"\n") + 1
        if not self._queue:
            self.pending = False
            self.answered_ns = None
        return taken
