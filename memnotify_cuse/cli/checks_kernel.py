"""Checks of ``memnotify doctor``: what the kernel tells about memory, and how soon it tells it."""

from __future__ import annotations

import os

from memnotify_cuse.cli.machine import Finding, Machine
from memnotify_cuse.kernel.capabilities import Capability
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.files import read_kernel_text
from memnotify_cuse.kernel.lru_gen import read_lru_gen
from memnotify_cuse.kernel.pressure import open_memory_trigger, read_pressure
from memnotify_cuse.kernel.trace import KNOWN_EVENTS
from memnotify_cuse.kernel.tracefs import find_tracefs
from memnotify_cuse.kernel.vmstat import read_vmstat
from memnotify_cuse.kernel.zoneinfo import read_zoneinfo

_MIB = 1024 * 1024
# A window that the kernel grants without CAP_SYS_RESOURCE as well (a multiple of 2 s).
_TRIGGER_STALL_US = 150_000
_TRIGGER_WINDOW_US = 2_000_000


def zoneinfo(machine: Machine) -> Finding:
    """The zones: without them there is nothing to tell about."""
    try:
        zones = [zone for zone in read_zoneinfo(machine.proc).zones if zone.present_pages]
    except KernelFileError as error:
        return Finding("fail", "zoneinfo", str(error), "the server reads every zone's free pages from it")
    if not zones:
        return Finding("fail", "zoneinfo", "no zone has memory", "there is nothing to watch")
    node_pages: dict[int, int] = {}
    for zone in zones:
        node_pages[zone.id.node] = node_pages.get(zone.id.node, 0) + zone.present_pages
    watched = [str(zone.id) for zone in zones if zone.present_pages * 10 >= node_pages[zone.id.node]]
    ignored = [str(zone.id) for zone in zones if str(zone.id) not in watched]
    found = f"{', '.join(watched) or 'no zone'} to be watched"
    if ignored:
        found += f", {', '.join(ignored)} too small (less than a tenth of the node)"
    return Finding("ok", "zoneinfo", found, "free pages, watermarks and LRU lists come from here")


def vmstat(machine: Machine) -> Finding:
    """The counter that says reclaim has turned to anonymous pages."""
    try:
        counters = read_vmstat(machine.proc)
    except KernelFileError as error:
        return Finding("fail", "vmstat", str(error), "the server reads the reclaim counters from it")
    if counters.pgscan_anon is None:
        return Finding(
            "warn",
            "vmstat",
            "no pgscan_anon (kernels before 5.8)",
            "pressure shows only as pages moving between the LRU lists, and may be told later",
        )
    return Finding(
        "ok",
        "vmstat",
        f"pgscan_anon is {counters.pgscan_anon} pages since boot",
        "tells real scanning of anonymous memory from mere ageing",
    )


def lru(machine: Machine) -> Finding:
    """Which LRU the kernel uses: it decides what counts as evidence."""
    try:
        enabled = read_lru_gen(machine.sys)
    except KernelFileError as error:
        return Finding("warn", "lru", str(error), "taken as classic LRU")
    if enabled:
        return Finding(
            "ok",
            "lru",
            "multi-generational (MGLRU)",
            "ageing moves pages in bulk and is not evidence; pgscan_anon is",
        )
    found = "classic; MGLRU is switched off" if enabled is False else "classic; this kernel has no MGLRU"
    return Finding("ok", "lru", found, "scanning and movement of anonymous pages are counted by node")


def swap(machine: Machine) -> Finding:
    """Whether there is swap: without it the kernel never scans anonymous pages."""
    if not machine.swap_total_bytes:
        return Finding(
            "ok",
            "swap",
            "none",
            "pressure is when file pages and free pages together fall towards the high watermark",
        )
    devices = swap_devices(machine)
    found = f"{machine.swap_total_bytes / _MIB:.0f} MiB"
    if devices:
        found += f" on {', '.join(devices)}"
    if devices and all(os.path.basename(device).startswith("zram") for device in devices):
        return Finding("ok", "swap", found, "zram: swapped pages still take memory, so it can end before swap is full")
    return Finding("ok", "swap", found, "reclaim of anonymous pages is evidence; full swap counts as none")


def swap_devices(machine: Machine) -> list[str]:
    """Return the paths in /proc/swaps (mm/swapfile.c, swap_show()); empty when it cannot be read."""
    try:
        text = read_kernel_text(machine.proc / "swaps")
    except KernelFileError:
        return []
    return [line.split()[0] for line in text.splitlines()[1:] if line.strip()]


def tracefs(machine: Machine) -> Finding:
    """The fastest doorbell: an event in the moment reclaim starts."""
    otherwise = "the PSI trigger or the timer wakes the server instead, milliseconds to seconds later"
    root = find_tracefs([machine.sys / "kernel/tracing", machine.sys / "kernel/debug/tracing"])
    if root is None:
        return Finding(
            "warn",
            "tracefs",
            "not mounted, or not for us to look into",
            f"{otherwise}; as root: mount -t tracefs nodev /sys/kernel/tracing",
        )
    events = [event for event in KNOWN_EVENTS if (root / "events/vmscan" / event).is_dir()]
    missing = [event for event in KNOWN_EVENTS if event not in events]
    if not events:
        return Finding("warn", "tracefs", f"{root} has no vmscan events", otherwise)
    if not os.access(root / "instances", os.W_OK):
        return Finding("warn", "tracefs", f"no permission for an instance in {root}", otherwise)
    if missing:
        return Finding("warn", "tracefs", f"{root} lacks {', '.join(missing)}", "some reclaim is seen later")
    return Finding(
        "ok",
        "tracefs",
        f"{root}, all {len(events)} vmscan events",
        "used as doorbell: the server wakes within a millisecond, in a trace instance of its own",
    )


def psi(machine: Machine) -> Finding:
    """The second doorbell: a trigger on memory stalls."""
    try:
        stalled = read_pressure(machine.proc).some.avg60_percent
    except KernelFileError as error:
        return Finding("warn", "psi", str(error), "no trigger; without tracefs a timer is all there is")
    try:
        os.close(open_memory_trigger(machine.proc, stall_us=_TRIGGER_STALL_US, window_us=_TRIGGER_WINDOW_US))
    except KernelFileError as error:
        return Finding("warn", "psi", str(error), "no trigger; without tracefs a timer is all there is")
    found = f"memory stalls {stalled:.2f} % of the last minute, triggers work"
    if not machine.can(Capability.SYS_RESOURCE):
        found += " (windows in multiples of 2 s: no CAP_SYS_RESOURCE)"
    return Finding("ok", "psi", found, "used as doorbell where tracefs is missing")
