"""The polling interval: how long to sleep between samples, seconds at rest, 20 to 50 ms while the kernel reclaims.

Pure: times in nanoseconds come in, a delay in seconds goes out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from memnotify_cuse.kernel.zoneinfo import Zone
from memnotify_cuse.record import LEVEL_CRITICAL
from memnotify_cuse.scanner import choices
from memnotify_cuse.scanner.forecast import Forecast, clear_pages

FASTEST_FILL_KB_PER_S: Final = 8 * 1024 * 1024
"""No program is known to fault in fresh memory faster: 8 GiB/s, twice what clearing pages takes on a fast machine.
`fillrate` measures what this machine can do."""


@dataclass(slots=True)
class PollingInterval:
    """Decides on the next delay. `wakeup`: something wakes the scanner when reclaim starts.

    `fill_kb_per_s` is how fast programs can take memory on this machine.
    """

    wakeup: bool
    page_kb: int
    fill_kb_per_s: int = FASTEST_FILL_KB_PER_S
    _last_scan_ns: int | None = None
    _last_decline_ns: int | None = None

    def next_delay_s(
        self,
        *,
        now_ns: int,
        reclaiming: bool,
        raised: bool,
        zones: tuple[Zone, ...],
        forecasts: Collection[Forecast] = (),
    ) -> float:
        """The longest time until the next sample."""
        if reclaiming:
            self._last_scan_ns = now_ns
        if any(forecast.declining for forecast in forecasts):
            self._last_decline_ns = now_ns
        if raised:
            if self._is_quiet(now_ns):
                # A zone may stay short of free pages for hours after reclaim has ended: page cache fills memory up to
                # the watermarks. The wakeup source reports new reclaim; to see the zone clear, less will do.
                return choices.BURST_NS / 1e9 if self.wakeup else choices.RAISED_S
            critical = any(forecast.level == LEVEL_CRITICAL for forecast in forecasts)
            return choices.ACTIVE_S if critical else choices.RAISED_S
        if self.is_active(now_ns):
            return choices.ACTIVE_S
        return min(self._rest_s(zones), self._until_exhausted_s(now_ns, forecasts))

    def is_active(self, now_ns: int) -> bool:
        """Whether the kernel is reclaiming, or was a moment ago: kswapd comes in spells."""
        return self._last_scan_ns is not None and now_ns - self._last_scan_ns < choices.SECOND_NS

    def woken(self, now_ns: int) -> None:
        """The wakeup source reported: reclaim has started, or is about to."""
        self._last_scan_ns = now_ns

    def _is_quiet(self, now_ns: int) -> bool:
        """Whether for as long as a rest nothing was reclaimed, and nothing taken."""
        last_ns = [each for each in (self._last_scan_ns, self._last_decline_ns) if each is not None]
        return not last_ns or now_ns - max(last_ns) >= choices.REST_S * 1e9

    def _rest_s(self, zones: tuple[Zone, ...]) -> float:
        """How long the memory above the thresholds lasts at the fastest fill rate, where nothing reports reclaim."""
        if self.wakeup:
            return choices.REST_S
        spare_kb = sum(max(0, zone.free_pages - clear_pages(zone)) for zone in zones) * self.page_kb
        return min(max(spare_kb / self.fill_kb_per_s, choices.RAISED_S), choices.REST_S)

    def _until_exhausted_s(self, now_ns: int, forecasts: Collection[Forecast]) -> float:
        """Half the time in which a node could be exhausted: without page cache, nothing is reclaimed before that.

        Where nothing has been taken for a while, a machine that is small, or full, is left some peace.
        """
        spare_pages = min((each.left_pages - each.headroom_pages for each in forecasts), default=None)
        if spare_pages is None:
            return choices.REST_S
        least_s = choices.BURST_NS / 1e9 if self._is_quiet(now_ns) else choices.ACTIVE_S
        return max(spare_pages * self.page_kb / self.fill_kb_per_s / 2, least_s)
