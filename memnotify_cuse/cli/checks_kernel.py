"""Checks of ``memnotify doctor``: what the kernel tells about memory, and how soon it tells it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from memnotify_cuse.cli.host import Finding, Host
from memnotify_cuse.kernel.capabilities import Capability
from memnotify_cuse.kernel.cgroup import find_hierarchy
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.files import read_kernel_text
from memnotify_cuse.kernel.kprobes import EVENTS_FILE, kprobes_problem
from memnotify_cuse.kernel.lru_gen import read_lru_gen
from memnotify_cuse.kernel.mountinfo import read_mountinfo
from memnotify_cuse.kernel.pressure import open_memory_trigger, read_pressure
from memnotify_cuse.kernel.swaps import parse_swaps
from memnotify_cuse.kernel.trace import KNOWN_EVENTS
from memnotify_cuse.kernel.tracefs import TraceInstance, find_tracefs, instance_name
from memnotify_cuse.kernel.vmstat import read_vmstat
from memnotify_cuse.kernel.zoneinfo import read_zoneinfo
from memnotify_cuse.scanner.sample import Sampler
from memnotify_cuse.scanner.sources import PSI_STALL_US, PSI_WINDOW_US
from memnotify_cuse.scanner.zones import SMALL_ZONE_FRACTION


def zoneinfo(machine: Host) -> Finding:
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
    watched = [str(zone.id) for zone in zones if zone.present_pages * SMALL_ZONE_FRACTION >= node_pages[zone.id.node]]
    ignored = [str(zone.id) for zone in zones if str(zone.id) not in watched]
    found = f"{', '.join(watched) or 'no zone'} to be watched"
    if ignored:
        found += f", {', '.join(ignored)} too small (less than a tenth of the node)"
    return Finding("ok", "zoneinfo", found, "free pages, watermarks and LRU lists come from here")


def vmstat(machine: Host) -> Finding:
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


def meminfo(machine: Host) -> Finding:
    """All that the server reads for one look at the kernel, read as it does that."""
    try:
        with closing(Sampler(machine.proc)) as sampler:
            memory = sampler.sample().meminfo
    except KernelFileError as error:
        return Finding("fail", "meminfo", str(error), "the server reads this for each look that it takes")
    return Finding(
        "ok",
        "meminfo",
        f"{memory.total_kb / 1024:.0f} MiB of memory, {memory.free_kb / 1024:.0f} MiB free",
        "what can be read without swap, page cache included, comes from here",
    )


def lru(machine: Host) -> Finding:
    """Which LRU the kernel uses: it decides what counts as evidence."""
    try:
        enabled = read_lru_gen(machine.sys)
    except KernelFileError as error:
        return Finding("fail", "lru", str(error), "the server has to know what counts as evidence")
    if enabled:
        return Finding(
            "ok",
            "lru",
            "multi-generational (MGLRU)",
            "ageing moves pages in bulk and is not evidence; pgscan_anon is",
        )
    found = "classic; MGLRU is switched off" if enabled is False else "classic; no MGLRU is to be seen here"
    return Finding("ok", "lru", found, "scanning and movement of anonymous pages are counted by node")


def swap(machine: Host) -> Finding:
    """Whether there is swap: without it the kernel never scans anonymous pages."""
    try:
        swaps = parse_swaps(read_kernel_text(machine.proc / "swaps"))
    except KernelFileError as error:
        gone = isinstance(error.__cause__, FileNotFoundError)
        return Finding("ok" if gone else "warn", "swap", "none to be seen" if gone else str(error), "taken as none")
    if not swaps:
        return Finding(
            "ok",
            "swap",
            "none",
            "pressure is when file pages and free pages together fall towards the high watermark",
        )
    # The names are as the kernel quotes them, whatever bytes they hold.
    names = ", ".join(each.name.encode("ascii", "backslashreplace").decode() for each in swaps)
    found = f"{sum(each.size_kb for each in swaps) / 1024:.0f} MiB on {names}"
    if all(each.zram for each in swaps):
        return Finding("ok", "swap", found, "zram: swapped pages still take memory, so it can end before swap is full")
    return Finding("ok", "swap", found, "reclaim of anonymous pages is evidence; full swap counts as none")


def tracefs(machine: Host) -> Finding:
    """The fastest wakeup source: an event in the moment reclaim starts."""
    otherwise = "the PSI trigger or the timer wakes the server instead, milliseconds to seconds later"
    root = find_tracefs([machine.sys / "kernel/tracing", machine.sys / "kernel/debug/tracing"])
    if root is None and machine.euid == 0 and (machine.sys / "kernel/tracing").is_dir():
        return Finding("ok", "tracefs", "not mounted", "used as wakeup source: the server mounts it")
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
    if machine.is_this:
        error = _instance_error(root)
        if error is not None:
            return Finding("warn", "tracefs", error, otherwise)
    if missing:
        return Finding("warn", "tracefs", f"{root} lacks {', '.join(missing)}", "some reclaim is seen later")
    return Finding(
        "ok",
        "tracefs",
        f"{root}, all {len(events)} vmscan events",
        "used as wakeup source: the server wakes within a millisecond, in a trace instance of its own",
    )


def kprobes(machine: Host) -> Finding:
    """Whether `--sigio auto` can see O_ASYNC."""
    otherwise = "--sigio auto cannot see O_ASYNC: it works as owner, and signals every owner"
    root = find_tracefs([machine.sys / "kernel/tracing", machine.sys / "kernel/debug/tracing"])
    problem = kprobes_problem(root) if root is not None else "tracefs is not mounted, or not for us to look into"
    if problem is not None:
        return Finding("ok", "kprobes", problem, otherwise)
    if root is not None and not os.access(root / EVENTS_FILE, os.W_OK):
        return Finding("ok", "kprobes", f"no permission for {root / EVENTS_FILE}", otherwise)
    return Finding(
        "ok", "kprobes", f"{root} has kprobe events", "--sigio auto sees O_ASYNC, at a cost for calls of fcntl alone"
    )


def _instance_error(root: Path) -> str | None:
    """Make a trace instance as the server does, and remove it; what is wrong, None if it works."""
    try:
        TraceInstance.create(root, instance_name(os.getpid(), "doctor")).close()
    except KernelFileError as error:
        return str(error)
    return None


def psi(machine: Host) -> Finding:
    """The second wakeup source: a trigger on memory stalls."""
    try:
        stalled = read_pressure(machine.proc).some.avg60_percent
    except KernelFileError as error:
        return Finding("warn", "psi", str(error), "no trigger; without tracefs a timer is all there is")
    try:
        os.close(open_memory_trigger(machine.proc, stall_us=PSI_STALL_US, window_us=PSI_WINDOW_US))
    except KernelFileError as error:
        return Finding("warn", "psi", str(error), "no trigger; without tracefs a timer is all there is")
    found = f"memory stalls {stalled:.2f} % of the last minute, triggers work"
    if not machine.can(Capability.SYS_RESOURCE):
        found += " (windows in multiples of 2 s: no CAP_SYS_RESOURCE)"
    return Finding("ok", "psi", found, "used as wakeup source where tracefs is missing")


def cgroups(machine: Host) -> Finding:
    """The limits that a program in a container meets first."""
    without = "programs are told of the machine alone, not of the limits of their cgroups"
    try:
        hierarchy = find_hierarchy(read_mountinfo(machine.proc))
        if hierarchy is not None and hierarchy.unified:
            controllers = machine.root / str(hierarchy.mount_point).lstrip("/") / "cgroup.controllers"
            if "memory" not in read_kernel_text(controllers).split():
                hierarchy = None
    except KernelFileError as error:
        return Finding("warn", "cgroups", str(error), without)
    if hierarchy is None:
        return Finding("warn", "cgroups", "no hierarchy with the memory controller is mounted", without)
    found = f"memory limits of cgroup {'v2' if hierarchy.unified else 'v1'} at {hierarchy.mount_point}"
    return Finding("ok", "cgroups", found, "programs are told of those of their own cgroup, and of all it lies in")
