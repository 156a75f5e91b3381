"""What people chose: every number of the rules that is not the kernel's, and what it means.

`make sensitivity` plays all recordings with each of them halved and doubled, and says what that changes. One that
changes nothing has no place here.
"""

from __future__ import annotations

from typing import Final

# How fast memory goes, and how long programs take (forecast).

REACTION_S: Final = 1.0
"""From the sample that raises a zone until memory has come back: up to three notification intervals, since the program
whose turn it is may not be the one that has memory to give, and what programs take to free it."""

BURST_NS: Final = 250_000_000
SECOND_NS: Final = 1_000_000_000
"""The rate is the net decline over the shorter or the longer time, whichever is faster: a burst that is over sooner
than the shorter one counts for a part."""

RATE_KEPT_NS: Final = 3_000_000_000
"""The fastest rate of so long is what counts: programs that heed a notice slow the decline, and do not stop its
cause."""

# How much is to be left (forecast).

FLOOR_FRACTION: Final = 64
"""The headroom is never less than this part of the node, or than twice its high watermarks, if that is less: a slow
decline is told of as well, and the last pages are never found."""

CEILING_FRACTION: Final = 16
"""Nor ever more than this part of the node: most of the memory is to be used. And no more than this part is taken for
program text, beside what is in use by the lists."""

# What comes next (forecast): levels.

MEDIUM_S: Final = 5.0
CRITICAL_S: Final = 0.5
"""A level is reached when what is left lasts no longer than this at the present rate."""

# When reclaim of anonymous pages is in earnest, although there is page cache (evidence).

ANON_FRACTION: Final = 64
ANON_KB: Final = 16 * 1024
"""Within a second it must have scanned this part of all anonymous pages, or so many, whichever is less. By that alone
reading a large file would be taken for a shortage: beside 2 GiB of other programs' idle memory kswapd swaps out 16 MiB
and more, to make room for page cache."""

ANON_SHARE: Final = 4
"""One in so many pages scanned within that second must have been anonymous. Measured on 6.18: 0.73 of them and more
where memory was short beside a cache in use. And for so many pages left there must be an anonymous one: MGLRU scans the
last 12 MiB of anonymous memory while 266 MiB of page cache are left, and nothing is short."""

FILE_PART: Final = 3
"""So it counts only if programs took as much memory in the same second, or if what came in of page cache was less than
this part of what was swapped out. Measured: while files were read, three times as much came in as was swapped out, and
more; where memory was short, a twelfth."""

# What compressed swap wins (swapspace).

ZRAM_PRIOR_KB: Final = 16 * 1024
"""So much is taken to be stored already, of data that does not compress: few pages say little of the others."""

# How often the kernel's counters are looked at (polling).

ACTIVE_S: Final = 0.02
"""While the kernel reclaims, and while what is left is about to end."""

RAISED_S: Final = 0.05
"""While a zone is under pressure, and at the least while nothing tells the scanner that reclaim has begun."""

REST_S: Final = 5.0
"""At rest, at most."""
