"""Gets everything that a guest needs, or says in one line why there is none."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.support.guest.boot import Guest, kvm_works, vng_problem
from tests.support.guest.disk import PROJECT, make_system_disk
from tests.support.guest.kernel import GuestUnavailableError, fetch_kernel, missing_tools
from tests.support.guest.workdisk import make_work_disk
from tests.support.programs import FLAGS

BUILD = PROJECT / "build" / "guest"
PROGRAMS = PROJECT / "tests" / "guest" / "programs"
LOW_MEMORY_MONITOR: Final = "low-memory-monitor"


def prepare() -> Guest:
    """Kernel, disks and programs under build/guest. Raises GuestUnavailableError."""
    missing = missing_tools()
    if missing:
        raise GuestUnavailableError(f"not installed: {', '.join(missing)}")
    problem = vng_problem()
    if problem:
        raise GuestUnavailableError(problem)
    kernel = fetch_kernel(BUILD / "kernel")
    programs = BUILD / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    for source in sorted(PROGRAMS.glob("*.c")):
        subprocess.run(["cc", *FLAGS, "-o", str(programs / source.stem), str(source)], check=True)
    _fetch_low_memory_monitor(programs)
    began = time.monotonic()
    kvm = kvm_works(kernel)
    how = "with KVM" if kvm else f"without KVM (probed for {time.monotonic() - began:.0f} s)"
    print(f"guest: Linux {kernel.release}, {how}", flush=True)
    system_disk = make_system_disk(BUILD, programs)
    return Guest(kernel, system_disk, programs, kvm)


def prepare_for_work() -> tuple[Guest, Path]:
    """The same, and the disk with something to work on. Raises GuestUnavailableError."""
    guest = prepare()
    return guest, make_work_disk(BUILD)


def _fetch_low_memory_monitor(programs: Path) -> None:
    """The daemon, for `make detection` to measure beside the device; where it cannot be had, it is left out."""
    if (programs / LOW_MEMORY_MONITOR).exists():
        return
    with tempfile.TemporaryDirectory() as name, suppress(OSError, subprocess.TimeoutExpired):
        directory = Path(name)
        # apt downloads as a user of its own.
        directory.chmod(0o777)
        subprocess.run(
            ["apt-get", "-q", "download", LOW_MEMORY_MONITOR], cwd=directory, capture_output=True, timeout=120
        )
        for package in directory.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(directory)], capture_output=True)
        for binary in directory.glob(f"usr/libexec/{LOW_MEMORY_MONITOR}"):
            shutil.copy2(binary, programs / LOW_MEMORY_MONITOR)


def results_of(run: str) -> Path:
    """Where a run's results go."""
    return BUILD / "results" / run
