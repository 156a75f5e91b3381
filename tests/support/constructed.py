"""Made-up counters of machines that no recording is of, each with what is right: silence, or whom it is to be told of.

    for case in CASES:
        notices = play_samples(case.samples(), case.machine).notices

A sample is taken every 50 ms. What the counters stand for is said with each case; the sizes are pages of 4 KiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.sample import Sample
from tests.scanner.samples import CLASSIC, MGLRU, sample, zone

MIB: Final = 256
GIB: Final = 1024 * MIB
STEPS: Final = 120
EVERY_MS: Final = 50


@dataclass(frozen=True, slots=True)
class Case:
    """`samples` gives the counters from the beginning; `told` are the zones that are to be told of, none of others."""

    name: str
    machine: Machine
    samples: Callable[[], Iterator[Sample]]
    told: frozenset[ZoneId] = frozenset()


def _dentries() -> Iterator[Sample]:
    """8 GiB without swap, of which failed lookups take 4.5 GiB as directory entries, beside 30 MiB of page cache."""
    for step in range(STEPS):
        free = max(4 * GIB - step * 50 * MIB, 100 * MIB)
        slab = GIB // 2 + min(step * 50 * MIB, 4 * GIB)
        scanned = step * 50 if free == 100 * MIB else 0
        short = zone(free=free, high=75 * MIB, present=8 * GIB, file=30 * MIB, active_anon=GIB, inactive_anon=GIB)
        yield sample(short, time_ms=step * EVERY_MS, swap_kb=0, slab=slab, pgscan_kswapd=scanned, pgscan_file=scanned)


def _slab_in_use() -> Iterator[Sample]:
    """512 MiB without swap, with 40 MiB of directory entries in use: a program takes 24 MiB/s until it is killed."""
    for step in range(STEPS * 4):
        free = max(100 * MIB - step * MIB * 12 // 10, 4 * MIB)
        scanned = step if free == 4 * MIB else 0
        full = zone(
            "DMA32", free=free, high=6 * MIB, present=512 * MIB, active_anon=0, inactive_anon=300 * MIB, file=100
        )
        yield sample(
            full, time_ms=step * EVERY_MS, swap_kb=0, slab=40 * MIB, pgscan_kswapd=scanned, pgscan_file=scanned
        )


def _arc() -> Iterator[Sample]:
    """8 GiB without swap under ZFS, whose ARC gives way to a program that takes 80 MiB/s."""
    for step in range(STEPS):
        anon = 2 * GIB + step * 4 * MIB
        arc = 5 * GIB - step * 4 * MIB
        short = zone(free=90 * MIB, high=75 * MIB, present=8 * GIB, file=30 * MIB, active_anon=0, inactive_anon=anon)
        yield sample(
            short, time_ms=step * EVERY_MS, swap_kb=0, arc_gain_kb=4 * arc, pgscan_kswapd=step, pgscan_file=step
        )


def _demotion(*, known: bool, full: bool) -> Iterator[Sample]:
    """16 GiB that demote 200 MiB/s to 64 GiB of slower memory; or, once that is full, and with swap, swap it out."""
    for step in range(STEPS):
        moved = step * 10 * MIB
        demoted = 0 if full else moved
        below = 100 * MIB if full else 60 * GIB - moved
        fast = zone(
            free=220 * MIB + step % 4 * 10 * MIB,
            high=150 * MIB,
            present=16 * GIB,
            active_anon=6 * GIB,
            inactive_anon=7 * GIB,
            file=150 * MIB,
        )
        slow = zone("Movable", 1, free=below, high=150 * MIB, present=64 * GIB, inactive_anon=2 * GIB + demoted, file=0)
        now = sample(
            fast,
            slow,
            time_ms=step * EVERY_MS,
            swap_kb=64_000_000 if full else 0,
            pgscan_kswapd=2 * moved,
            pgsteal_anon=moved,
            pgdemote=demoted,
            pswpout=moved - demoted,
        )
        yield replace(now, demoting=frozenset({0})) if known else now


def _mapped_reads() -> Iterator[Sample]:
    """2 GiB without swap: a program reads at random in a file of 20 GiB that it has mapped; little of it is in use."""
    for step in range(STEPS):
        read = step * 5 * MIB
        full = zone(
            free=22 * MIB, high=20 * MIB, present=2 * GIB, file=1400 * MIB, active_anon=0, inactive_anon=GIB // 2
        )
        full = replace(full, active_file_pages=150 * MIB, inactive_file_pages=1250 * MIB)
        yield sample(
            full,
            time_ms=step * EVERY_MS,
            swap_kb=0,
            mapped=1380 * MIB,
            pgscan_kswapd=2 * read,
            pgscan_file=2 * read,
            pgsteal_file=read,
        )


def _cache_in_use() -> Iterator[Sample]:
    """128 GiB with swap: a database has 60 GiB of page cache in use, and programs take 24 MiB/s beside it.

    Reclaim takes half of what it needs from either: page cache could help, and memory is swapped out all the same.
    """
    for step in range(STEPS):
        taken, swapped = step * MIB * 12 // 10, step * MIB * 6 // 10
        yield sample(
            zone(
                free=250 * MIB,
                high=200 * MIB,
                present=128 * GIB,
                active_anon=30 * GIB,
                inactive_anon=30 * GIB + taken - swapped,
                file=60 * GIB - taken + swapped,
            ),
            time_ms=step * EVERY_MS,
            swap_kb=64_000_000,
            swap_free_kb=64_000_000 - 4 * swapped,
            pgscan_kswapd=3 * swapped,
            pgscan_anon=swapped * 3 // 2,
            pgscan_file=swapped * 3 // 2,
            pgsteal_anon=swapped,
            pgsteal_file=taken - swapped,
            pswpout=swapped,
        )


def _deactivation() -> Iterator[Sample]:
    """A kernel before 5.9, where anonymous pages start on the active list: the first step is to deactivate them."""
    for step in range(STEPS):
        moved = step * 32
        short = zone(free=700, file=200, high=1000, active_anon=100_000 - moved, inactive_anon=1000 + moved)
        yield sample(
            short, time_ms=step * EVERY_MS, pgscan_anon=None, pgscan_file=None, pgscan_kswapd=moved, pgrefill=moved
        )


def _small() -> Iterator[Sample]:
    """128 MiB without swap, of which a program takes 2 MiB/s until nothing is left."""
    for step in range(STEPS):
        free = 2 * MIB + max(0, 10 * MIB - step * MIB // 10)
        yield sample(
            zone(free=free, high=2 * MIB, present=128 * MIB, file=0, active_anon=0, inactive_anon=110 * MIB),
            time_ms=step * EVERY_MS,
            swap_kb=0,
        )


def _large() -> Iterator[Sample]:
    """1 TiB on 16 nodes without swap: a program that is bound to node 7 takes 4 GiB/s there."""
    for step in range(STEPS):
        free = [10 * GIB] * 16
        free[7] = max(0, 20 * GIB - step * GIB // 5)
        zones = [
            zone(node=node, free=pages, high=150 * MIB, present=64 * GIB, file=0, active_anon=0, inactive_anon=40 * GIB)
            for node, pages in enumerate(free)
        ]
        yield sample(*zones, time_ms=step * EVERY_MS, swap_kb=0)


_NORMAL: Final = frozenset({ZoneId(0, "Normal")})

CASES: Final = (
    Case("dentries", CLASSIC, _dentries),
    Case("dentries-mglru", MGLRU, _dentries),
    Case("slab-in-use", CLASSIC, _slab_in_use, frozenset({ZoneId(0, "DMA32")})),
    Case("arc", CLASSIC, _arc),
    Case("demotion", CLASSIC, lambda: _demotion(known=True, full=False)),
    Case("demotion-before-6.1", CLASSIC, lambda: _demotion(known=False, full=False)),
    Case("demotion-full", CLASSIC, lambda: _demotion(known=True, full=True), _NORMAL | {ZoneId(1, "Movable")}),
    Case("mapped-reads", CLASSIC, _mapped_reads),
    Case("mapped-reads-mglru", MGLRU, _mapped_reads),
    Case("cache-in-use", CLASSIC, _cache_in_use, _NORMAL),
    Case("deactivation-before-5.9", CLASSIC, _deactivation, _NORMAL),
    Case("128-mib", CLASSIC, _small, _NORMAL),
    Case("1-tib-16-nodes", CLASSIC, _large, frozenset({ZoneId(7, "Normal")})),
)
