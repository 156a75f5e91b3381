"""One memory cgroup with a limit: its state by the rules of a node, and when it is to be looked at again.

As long as more is free than the largest headroom, nothing can be exhausted, and its usage alone is read.
"""

from __future__ import annotations

from memnotify_cuse.board import ZoneState
from memnotify_cuse.domain import CgroupId
from memnotify_cuse.kernel.cgroup import CgroupFiles, CgroupGoneError
from memnotify_cuse.scanner import cgroupchoices, choices
from memnotify_cuse.scanner.cgroupsample import CgroupSampler
from memnotify_cuse.scanner.forecast import SWAP_CLUSTER_PAGES
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.zones import ZoneTracker


class CgroupDomain:
    """The cgroup `id`, whose `files` are closed by `close`. `limit_bytes` is its limit at present.

    `inode` is that of its folder. It is counted to `user`. `fill_kb_per_s` is how fast programs can take memory. Raises
    CgroupGoneError, if it is gone or has no limit, and MalformedKernelFileError; so does `look`.
    """

    def __init__(
        self, cgroup: CgroupId, files: CgroupFiles, machine: Machine, fill_kb_per_s: int, user: int = 0
    ) -> None:
        self.id = cgroup
        self.files = files
        self.inode = files.inode
        self.user = user
        self.closed = False
        self._machine = machine
        self._fill_kb_per_s = fill_kb_per_s
        self.limit_bytes = self._limit()
        self.usage_bytes = 0
        self._moved_ns: int | None = None
        self._spare_bytes = 0
        self._failures = 0
        self._state: ZoneState | None = None
        self._sampler, self._tracker = self._anew()

    @property
    def state(self) -> ZoneState | None:
        """Its state in the last sample; None where none was needed yet."""
        return self._state

    @property
    def pressed(self) -> bool:
        """Whether it is under pressure."""
        return self._state is not None and self._state.under_pressure

    def close(self) -> None:
        self.closed = True
        self.files.close()

    def follow_limit(self) -> bool:
        """See whether the limit was changed. What was known of it with another limit says nothing of it now."""
        return self._take_limit(self._limit())

    def _take_limit(self, limit: int) -> bool:
        if limit == self.limit_bytes:
            return False
        self.limit_bytes = limit
        self._state = None
        self._sampler, self._tracker = self._anew()
        return True

    def look(self, now_ns: int, swap_free_kb: int) -> bool:
        """Take a look; whether it gave evidence. `swap_free_kb` is what the machine has left of swap."""
        self._failures += 1
        usage = self.files.usage_bytes()
        if abs(usage - self.usage_bytes) >= SWAP_CLUSTER_PAGES * self._machine.page_kb * 1024:
            self._moved_ns = now_ns
            self.usage_bytes = usage
        most_headroom = self.limit_bytes // cgroupchoices.CEILING_FRACTION
        self._spare_bytes = self.limit_bytes - usage - most_headroom
        if self._spare_bytes > 0 and not self.pressed:
            self._failures = 0
            return False
        memory = self.files.read()
        self._take_limit(self._needed(memory.limit_bytes))
        sample = self._sampler.sample(memory, self.limit_bytes, swap_free_kb, now_ns)
        scan = self._tracker.update(sample)
        self._state = scan.states[0]
        forecast = scan.measured.forecasts[self.id.node]
        spare_pages = forecast.left_pages - forecast.headroom_pages
        if sample.swap_gain_kb:
            # Swapping begins when page cache cannot help.
            spare_pages = min(spare_pages, forecast.cache_pages - forecast.floor_pages)
        self._spare_bytes = spare_pages * self._machine.page_kb * 1024
        if scan.measured.reclaim.scanned_pages:
            self._moved_ns = now_ns
        self._failures = 0
        return bool(scan.moved)

    @property
    def failures(self) -> int:
        """How many looks have failed since one did not."""
        return self._failures

    def is_quiet(self, now_ns: int) -> bool:
        """Whether nothing of it was taken or reclaimed for a while."""
        return self._moved_ns is None or now_ns - self._moved_ns >= choices.SECOND_NS

    def delay_ns(self, now_ns: int, quiet_s: float) -> int:
        """For how long it may be left alone: half the time in which it could be exhausted.

        That is no less than a little while, and no less than `quiet_s` while it is quiet. A look that failed is
        tried again, ever more rarely.
        """
        if self._failures:
            return int(min(choices.ACTIVE_S * 2 ** min(self._failures, 16), choices.REST_S) * 1e9)
        quiet = self.is_quiet(now_ns)
        if self.pressed:
            least_s = choices.BURST_NS / 1e9 if quiet else cgroupchoices.MOVING_S
        else:
            least_s = quiet_s if quiet else cgroupchoices.MOVING_S
        until_exhausted_s = self._spare_bytes / 1024 / self._fill_kb_per_s / 2
        return int(min(max(until_exhausted_s, least_s), max(choices.REST_S, quiet_s)) * 1e9)

    def _limit(self) -> int:
        return self._needed(self.files.limit_bytes())

    def _needed(self, limit: int | None) -> int:
        if not limit:
            raise CgroupGoneError(str(self.files.directory), "it has no limit")
        return limit

    def _anew(self) -> tuple[CgroupSampler, ZoneTracker]:
        tracker = ZoneTracker(self._machine, ceiling_fraction=cgroupchoices.CEILING_FRACTION)
        return CgroupSampler(self.id, self._machine.page_kb), tracker
