"""A memory cgroup as a machine of its own: one node, one zone, as large as its limit. Pure.

So the rules are the same as for a node. What its limit leaves is its free memory. A cgroup has no watermarks: nothing
keeps any of that free. What each processor may have charged in advance stands in for them.
"""

from __future__ import annotations

from memnotify_cuse.domain import CGROUP_NODE, CgroupId
from memnotify_cuse.kernel.cgroup import CgroupMemory
from memnotify_cuse.kernel.meminfo import Meminfo
from memnotify_cuse.kernel.vmstat import Vmstat
from memnotify_cuse.kernel.zoneinfo import Node, Zone, Zoneinfo
from memnotify_cuse.scanner import choices
from memnotify_cuse.scanner.sample import Sample


class CgroupSampler:
    """Makes samples of what was read of one cgroup. `page_kb` is the page size in KiB."""

    def __init__(self, cgroup: CgroupId, page_kb: int) -> None:
        self._cgroup = cgroup
        self._page_bytes = page_kb * 1024
        self._before: CgroupMemory | None = None
        self._swapped_pages = 0
        self._read_pages = 0

    def sample(self, memory: CgroupMemory, limit_bytes: int, swap_free_kb: int, time_ns: int) -> Sample:
        """A sample of `memory`, at `time_ns`. `swap_free_kb` is what the machine has left of swap."""
        self._count(memory)
        self._before = memory
        swap_room_kb = swap_free_kb
        if memory.swap_room_bytes is not None:
            swap_room_kb = min(swap_room_kb, memory.swap_room_bytes // 1024)
        limit = self._pages(limit_bytes)
        lists = {
            "inactive_anon_pages": self._pages(memory.inactive_anon_bytes),
            "active_anon_pages": self._pages(memory.active_anon_bytes),
            "inactive_file_pages": self._pages(memory.inactive_file_bytes),
            "active_file_pages": self._pages(memory.active_file_bytes),
        }
        zone = Zone(
            id=self._cgroup,
            free_pages=max(0, limit - self._pages(memory.usage_bytes)),
            boost_pages=None,
            min_pages=None,
            low_pages=None,
            high_pages=limit // (2 * choices.FLOOR_FRACTION),
            spanned_pages=None,
            present_pages=limit,
            managed_pages=limit,
            protection_pages=(0,),
            unevictable_pages=None,
            **lists,
        )
        node = Node(
            node=CGROUP_NODE,
            mapped_pages=self._pages(memory.mapped_bytes),
            shmem_pages=self._pages(memory.shmem_bytes),
            slab_reclaimable_pages=self._pages(memory.slab_reclaimable_bytes),
            **lists,
        )
        return Sample(
            time_ns=time_ns,
            zoneinfo=Zoneinfo((zone,), (node,)),
            vmstat=self._vmstat(memory),
            meminfo=Meminfo(
                total_kb=limit_bytes // 1024,
                free_kb=zone.free_pages * self._page_bytes // 1024,
                available_kb=None,
                swap_total_kb=swap_room_kb,
                swap_free_kb=swap_room_kb,
                swap_cached_kb=None,
                mapped_kb=None,
                shmem_kb=None,
                zswap_kb=None,
                zswapped_kb=None,
            ),
            # What it wins is the cgroup's, and what compression costs is the machine's.
            swap_gain_kb=swap_room_kb,
        )

    def _count(self, memory: CgroupMemory) -> None:
        before = self._before
        if before is None:
            return
        swapped = max(0, self._pages(memory.swap_bytes - before.swap_bytes))
        self._swapped_pages += swapped
        if memory.charged_pages is not None and before.charged_pages is not None:
            anon = _anon_bytes(memory) - _anon_bytes(before)
            charged = memory.charged_pages - before.charged_pages
            self._read_pages += max(0, charged - max(0, self._pages(anon) + swapped))

    def _vmstat(self, memory: CgroupMemory) -> Vmstat:
        """The counters of reclaim, as far as the kernel has them. v1 has none of what was scanned."""
        stolen_file = self._read_pages - self._pages(memory.inactive_file_bytes + memory.active_file_bytes)
        if memory.stolen_pages is not None:
            stolen_file = memory.stolen_pages - self._swapped_pages
        return Vmstat(
            pgscan_anon=None,
            pgscan_file=None,
            pgsteal_anon=None,
            pgsteal_file=stolen_file,
            pgscan_kswapd=None,
            pgscan_direct=self._swapped_pages if memory.scanned_pages is None else memory.scanned_pages,
            pgscan_khugepaged=None,
            pgsteal_kswapd=None,
            pgsteal_direct=None,
            pgdeactivate=None,
            pgrefill=None,
            workingset_refault_anon=None,
            workingset_refault_file=None,
            pswpin=None,
            pswpout=self._swapped_pages,
            allocstall=None,
            oom_kill=None,
            nr_free_pages=None,
        )

    def _pages(self, size_bytes: int) -> int:
        return size_bytes // self._page_bytes


def _anon_bytes(memory: CgroupMemory) -> int:
    return memory.inactive_anon_bytes + memory.active_anon_bytes
