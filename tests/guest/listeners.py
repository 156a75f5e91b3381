"""Who listens beside the device: every other way to be told that memory is short that a guest has."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.guest.experiment import READY_S, Place, end

DEVICE: Final = ("device", "/dev/mem_notify")
BUS: Final = Path("/run/memnotify-bus")
BUS_CONFIG: Final = f"""\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={BUS}</listen>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
"""
CGROUP_V1: Final = Path("/run/cgroup-v1-memory")


def peers() -> dict[str, tuple[str, ...]]:
    """Every other way to listen that this kernel has, by name."""
    found: dict[str, tuple[str, ...]] = {}
    if Path("/proc/pressure/memory").exists():
        found["psi-150ms-2s"] = ("psi", "/proc/pressure/memory", "some 150000 2000000")
        found["psi-70ms-1s"] = ("psi", "/proc/pressure/memory", "some 70000 1000000")
    if (CGROUP_V1 / "memory.pressure_level").exists():
        for level in ("low", "medium", "critical"):
            found[f"vmpressure-{level}"] = ("vmpressure", str(CGROUP_V1), level)
    found["available-10%"] = ("percent", "10")
    if BUS.exists():
        watch = f"stdbuf -oL dbus-monitor --address unix:path={BUS} \"interface='org.freedesktop.LowMemoryMonitor'\""
        found["low-memory-monitor"] = ("lines", watch, "member=LowMemoryWarning")
    return found


@contextmanager
def low_memory_monitor(place: Place) -> Iterator[None]:
    """Debian's daemon, on a bus of its own, if it is there."""
    daemon = place.programs / "low-memory-monitor"
    if not daemon.exists() or shutil.which("dbus-daemon") is None:
        yield
        return
    config = place.results / "bus.conf"
    config.write_text(BUS_CONFIG)
    with ExitStack() as stack, (place.results / "low-memory-monitor.log").open("wb") as log:
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={BUS}", "G_MESSAGES_DEBUG": "all"}
        for command in (["dbus-daemon", f"--config-file={config}", "--nofork"], [str(daemon)]):
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            stack.callback(end, process)
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("-1000")
            deadline = time.monotonic() + READY_S
            while not BUS.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
        yield
