"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def facts() -> list[tuple[str, str]]:
    """Name and value, as the report lists them."""
    return [
        ("kernel", f"{platform.system()} {platform.release()} ({platform.machine()})"),
        ("CPU", _cpu()),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"),
        ("distribution", _distribution()),
        ("Python", platform.python_version()),
    ]


def load() -> str:
    """The load average of the last minute, five and fifteen."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text()
    words = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    model = words.get("model name", platform.processor() or "unknown")
    where = ", virtual machine" if "hypervisor" in words.get("flags", "").split() else ""
    return f"{model}, {os.cpu_count()} cores{where}"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"
