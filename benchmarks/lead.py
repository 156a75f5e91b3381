"""How much time a notice leaves when memory is taken at the full speed of the machine: no guest is as fast.

The machine is made small, without swap and with little page cache: most free memory is set aside, and the watermarks
are raised until what is left above them is some gigabytes (tests/support/reclaim). A program takes all of that at a
given rate. The lead is the time from the first return from poll() in another program until nothing is left above the
high watermark; the OOM killer would strike later still. Nothing below it is touched, so that nobody can be killed.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Final

from benchmarks.detection_report import Row
from benchmarks.processes import listening, real_reclaim, workshop
from benchmarks.report import CannotRunError
from benchmarks.stats import first_between
from memnotify_cuse.kernel.zoneinfo import read_zoneinfo
from memnotify_cuse.scanner.forecast import left_pages
from tests.support.reclaim import GIB, MIB, PAGE_BYTES, RealReclaim
from tests.support.reclaim.harness import FORGOTTEN_S

WAYS: Final = ((64, 1), (256, 1), (1024, 1), (0, 1), (0, min(4, os.cpu_count() or 1)))
"""MiB/s (0: as fast as they can), and how many processes take it together."""
RUNS: Final = 3
MARGIN_BYTES: Final = 2 * GIB
KEEP_BYTES: Final = 7 * GIB
TAKE_LIMIT_S: Final = 120.0


def measure() -> list[Row]:
    """A row for each way; none, with a line that says why, where the machine cannot be made small."""
    rows: list[Row] = []
    try:
        with workshop() as place, real_reclaim(cold_bytes=0, swap=False) as reclaim:
            take, listen = place.program("take"), place.program("listen")
            # A virtual machine gets most of its memory from the host only when it is first used, and then slowly.
            with place.server() as server:
                _run(reclaim, take, listen, server.device, 0, 1)
            for rate, processes in WAYS:
                runs = []
                for _ in range(RUNS):
                    with place.server() as server:
                        runs.append(_run(reclaim, take, listen, server.device, rate, processes))
                rows.append(_row(rate, processes, runs))
                print(f"detection: lead: {rows[-1]['rate_mib_s']} MiB/s: {rows[-1]['leads_ms']} ms", flush=True)
    except CannotRunError as error:
        print(f"detection: the lead at full speed is not measured: {error}", flush=True)
    return rows


def _run(
    reclaim: RealReclaim, take: Path, listen: Path, device: Path, rate: int, processes: int
) -> tuple[float, float | None, int]:
    """MiB/s at which memory was taken, the lead in ms (None: no notice), and the number of notices."""
    with (
        reclaim.honest_watermarks(margin_bytes=MARGIN_BYTES, keep_bytes=KEEP_BYTES, max_s=TAKE_LIMIT_S),
        listening(listen, "poll", str(device)) as listener,
    ):
        # The server has to have seen that nothing moves: what was set aside a moment ago is no rate.
        time.sleep(FORGOTTEN_S)
        mib = left_pages(list(read_zoneinfo().zones)) * PAGE_BYTES // MIB
        begin_ns = time.monotonic_ns()
        command = [str(take), str(mib), str(rate), str(processes)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=TAKE_LIMIT_S, check=False)
        if result.returncode:
            raise CannotRunError(result.stderr.strip() or f"take ended with {result.returncode}")
        end_ns, got = map(int, result.stdout.split())
        time.sleep(0.2)
        first_ns = first_between(listener.times_ns(), begin_ns, time.monotonic_ns())
        notices = sum(begin_ns <= each < end_ns for each in listener.times_ns())
    return got / ((end_ns - begin_ns) / 1e9), None if first_ns is None else (end_ns - first_ns) / 1e6, notices


def _row(rate: int, processes: int, runs: list[tuple[float, float | None, int]]) -> Row:
    leads = [None if lead is None else round(lead, 1) for _, lead, _ in runs]
    known = [lead for lead in leads if lead is not None]
    return {
        "kernel": platform.release(),
        "swap": "none",
        "lru": "classic",
        "workload": "lead",
        "device": "on",
        "listener": "device",
        "notified": min(notices for _, _, notices in runs),
        "first_notice_ms": None,
        "lead_ms": statistics.median(known) if len(known) == len(leads) else None,
        "leads_ms": leads,
        "oom_kills": 0,
        "survived": None,
        "false_alarms": 0,
        "rate_mib_s": round(statistics.median(speed for speed, _, _ in runs)),
        "asked_mib_s": rate,
        "processes": processes,
        "others": {},
    }
