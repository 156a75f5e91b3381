"""What was measured between two samples: one object, which the rules go by. Pure: samples in.

A memory cgroup that reclaims within its own limit has nothing to do with the machine: `pgscan_anon` and `pgscan_file`
count it, `pgscan_kswapd` and `pgscan_direct` do not. So global reclaim's anonymous pages are all that it scanned less
the file pages: a cgroup's file pages can make that fewer, nothing makes it more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from memnotify_cuse.carried import CarriedNode
from memnotify_cuse.scanner import choices
from memnotify_cuse.scanner.forecast import Forecast, Forecaster
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.sample import Sample


@dataclass(frozen=True, slots=True)
class Reclaim:
    """What global reclaim scanned in an interval, in pages: all in all, and of that anonymous.

    `anon_taken_pages` is what of the anonymous pages went to swap, or is on its way there. `anon_grown_pages` is by how
    much programs have more memory than before, in swap or out of it, and `file_read_pages` how much page cache came in;
    negative if less is there than before. `demoted_pages` were moved to a slower tier of memory. `stalls` is how often
    a program had to reclaim for itself.
    """

    scanned_pages: int = 0
    anon_pages: int = 0
    anon_taken_pages: int = 0
    anon_grown_pages: int = 0
    file_read_pages: int = 0
    demoted_pages: int = 0
    stalls: int = 0

    def __add__(self, other: Reclaim) -> Reclaim:
        return Reclaim(
            self.scanned_pages + other.scanned_pages,
            self.anon_pages + other.anon_pages,
            self.anon_taken_pages + other.anon_taken_pages,
            self.anon_grown_pages + other.anon_grown_pages,
            self.file_read_pages + other.file_read_pages,
            self.demoted_pages + other.demoted_pages,
            self.stalls + other.stalls,
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """Two samples, and what they come to: `reclaim` between them, `recent` within the last second, and the forecast of
    each node that has memory. `before` is `now` where there was none. `machine` is as it was in between.
    """

    before: Sample
    now: Sample
    machine: Machine
    reclaim: Reclaim
    recent: Reclaim
    forecasts: Mapping[int, Forecast]

    @property
    def anon_pages(self) -> int:
        """Anonymous pages of the machine."""
        return _anon_pages(self.now)


class Measurer:
    """Follows the samples. `headroom_kb` and `ceiling_fraction` are those of `Forecaster`."""

    def __init__(
        self,
        machine: Machine,
        headroom_kb: int | None = None,
        ceiling_fraction: int = choices.CEILING_FRACTION,
    ) -> None:
        self._machine = machine
        self._forecaster = Forecaster(machine, headroom_kb, ceiling_fraction)
        self._before: Sample | None = None
        self._recent: deque[tuple[int, Reclaim]] = deque()

    def carried(self) -> tuple[CarriedNode, ...]:
        """What the next one cannot see by itself."""
        return self._forecaster.carried()

    def go_on(self, nodes: Iterable[CarriedNode], time_ns: int) -> None:
        """Take over what another one knew at `time_ns`, before the first sample of this one."""
        self._forecaster.go_on(nodes, time_ns)

    def measure(self, sample: Sample) -> Measured:
        """Take in the next sample."""
        before = self._before or sample
        self._before = sample
        machine = self._follow_lru(sample)
        reclaim = reclaim_between(before, sample)
        recent = self._within_last_second(reclaim, sample.time_ns)
        shown_ns = sample.time_ns - choices.BURST_NS
        stalls = any(each.stalls and at_ns <= shown_ns for at_ns, each in self._recent)
        forecasts = self._forecaster.update(sample, demotes=recent.demoted_pages > 0, stalls=stalls)
        return Measured(before, sample, machine, reclaim, recent, forecasts)

    def _follow_lru(self, sample: Sample) -> Machine:
        """Take in whether MGLRU is on; the machine by whose rules this sample's evidence is to be judged."""
        if sample.mglru is None or sample.mglru == self._machine.mglru:
            return self._machine
        self._machine = replace(self._machine, mglru=sample.mglru)
        self._forecaster.machine = self._machine
        # When it is switched, the kernel moves all pages between its lists, which is no sign of reclaim.
        return replace(self._machine, mglru=True)

    def _within_last_second(self, reclaim: Reclaim, now_ns: int) -> Reclaim:
        self._recent.append((now_ns, reclaim))
        while self._recent[0][0] <= now_ns - choices.SECOND_NS:
            self._recent.popleft()
        return sum((each for _, each in self._recent), Reclaim())


def reclaim_between(before: Sample, now: Sample) -> Reclaim:
    """What global reclaim did between two samples.

    Kernels before 5.8 do not count anonymous pages apart; what they swapped out stands in for it.
    """
    earlier, later = before.vmstat, now.vmstat
    scanned = (
        grown(earlier.pgscan_kswapd, later.pgscan_kswapd)
        + grown(earlier.pgscan_direct, later.pgscan_direct)
        + grown(earlier.pgscan_khugepaged, later.pgscan_khugepaged)
    )
    if later.pgscan_file is None:
        anon = min(scanned, grown(earlier.pswpout, later.pswpout))
    else:
        anon = max(0, scanned - grown(earlier.pgscan_file, later.pgscan_file))
    demoted = grown(earlier.pgdemote, later.pgdemote)
    # Swap on a disk has a page some time after it was sent there; zswap takes pages that no swap device ever sees.
    stolen = max(0, grown(earlier.pgsteal_anon, later.pgsteal_anon) - demoted)
    taken = min(anon, max(stolen, grown(earlier.pswpout, later.pswpout)))
    if demoted:
        # The others have only moved to where there is more room.
        scanned, anon = scanned - (anon - taken), taken
    more = _anon_pages(now) - _anon_pages(before) + taken
    read = _file_pages(now) - _file_pages(before) + grown(earlier.pgsteal_file, later.pgsteal_file)
    return Reclaim(scanned, anon, taken, more, read, demoted, grown(earlier.allocstall, later.allocstall))


def grown(before: int | None, now: int | None) -> int:
    """By how much a counter has grown; 0 where the kernel does not have it, or began anew."""
    return max(0, now - before) if before is not None and now is not None else 0


def _anon_pages(sample: Sample) -> int:
    return sum(zone.anon_pages for zone in sample.zoneinfo.zones)


def _file_pages(sample: Sample) -> int:
    return sum(zone.file_pages for zone in sample.zoneinfo.zones)
