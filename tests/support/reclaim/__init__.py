"""Real reclaim of anonymous memory on a real machine, without danger: for tests, benchmarks and use by hand.

How it works
------------
kswapd wakes when every zone's free pages are below its low watermark, and then reclaims until a zone is above
its high one. Instead of filling memory until free pages fall to the watermarks, this module lifts the watermarks
to the free pages (`vm.min_free_kbytes`, `vm.watermark_scale_factor`; Documentation/admin-guide/sysctl/vm.rst).
A child process holds about 1 GiB of cold memory, a zram device takes what kswapd swaps out, and most of the
machine's memory stays free all along: the *min* watermark, below which allocations have to reclaim by
themselves, is kept under it.

Two sets of watermarks are used (mm/vmscan.c, prepare_scan_control() and get_scan_count()):

- **episode:** low and high are above free + file pages. The kernel's own test "file LRU + free <= high" then
  says that file pages cannot help, and reclaim turns to anonymous pages at once.
  Where others use gigabytes of the largest zone, the ones below it are closed by their lowmem reserve instead.
- **stream:** high is below free + file pages, so that dropping page cache is enough, as on a machine that reads
  a file larger than its memory. (Not one anonymous page scanned is more than the kernel promises: when file
  pages were refaulted since kswapd last ran, it begins with a sample of the anonymous ones.)

Everything changed is put back: on leaving the `with` block, on an exception, on SIGTERM and SIGINT, and, when
this process is killed, by the child, which sees its command pipe close. What a crash of both leaves behind is
recorded in `STATE_PATH` and is put back by the next run.

One thing is not put back, because it cannot be: a kernel that initialises its memory lazily (zones' `managed`
pages grow as memory is used) has to be made to initialise all of it first, or it would answer each raised
watermark with new memory. That takes a second or two, once per boot, and touches no memory but the kernel's page
descriptors.

By hand, as root, from the project's root folder::

    python -m tests.support.reclaim episode --count 3     # watch: a live server must raise three times
    python -m tests.support.reclaim stream                # a live server must stay silent
    python -m tests.support.reclaim stream --hot 1024     # the same beside 1 GiB of memory in use
    python -m tests.support.reclaim hot --hot 1024        # reclaim out of memory that is in use
    python -m tests.support.reclaim restore               # put back what a crashed run left
"""

from __future__ import annotations

from tests.support.reclaim.counters import GIB, MIB, PAGE_BYTES, ReclaimError
from tests.support.reclaim.harness import Episode, RealReclaim, supported
from tests.support.reclaim.putback import restore_leftovers

__all__ = ["GIB", "MIB", "PAGE_BYTES", "Episode", "RealReclaim", "ReclaimError", "restore_leftovers", "supported"]
