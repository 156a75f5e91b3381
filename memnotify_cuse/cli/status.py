"""``memnotify status``: every zone in a table, the server and the machine's memory in a line each."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memnotify_cuse.cli.common import DEFAULT_MOUNT, EXIT_NEGATIVE, EXIT_OK
from memnotify_cuse.cli.statusfile import Pairs, Status, Value, read_status, zone_name
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.meminfo import read_meminfo

if TYPE_CHECKING:
    from memnotify_cuse.cli.main import Subparsers

_MIB = 1024 * 1024

_STATUS_WORDS: dict[Value, str] = {-1: "ignored", 0: "no pressure", 1: "PRESSURE"}

_EPILOG = """\
A zone is 'ignored' when it has less than a tenth of its node's memory. 'clear' is the free memory
above which pressure ends, 'raised' how often the zone has come under pressure, simulations included,
'reason' the evidence of the last time, 'last seen' when that was: a simulation that is over leaves
none. 'health' is ok, degraded (something that the server looks
at fails, and something else stands in for it) or failing (nothing can, and programs are not told of
pressure); what fails, since when and why has a line of its own.

examples:
  memnotify status
  memnotify status --json | jq '.zones[] | select(.status == 1)'
  cat /run/mem_notify/status              the same, raw

The second table, for root, has the memory cgroups with a limit whose programs have the device open.

With --json the object is {"server": {...}, "failing": [...], "zones": [...], "cgroups": [...],
"memory": {...}}; the keys of all but the last are the server's own (pages, kB), those of "memory" are
bytes; it is null where /proc/meminfo cannot be read, and for a server that plays a recording.

exit codes: 0 shown, and all is well; 1 shown, and health is not ok; 2 an error (no server there, for one).
"""


def add_parser(subparsers: Subparsers) -> None:
    """Describe ``memnotify status``."""
    parser = subparsers.add_parser(
        "status",
        help="show the state of every zone",
        description="Show what the server sees: each zone's state, and memory and swap as a whole.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--mount", metavar="DIR", default=DEFAULT_MOUNT, help="the server's mount (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the status of the server at ``args.mount``. Return 0, 1 if something fails, or raise CommandError."""
    status = read_status(args.mount)
    memory: dict[str, int] | None = None
    problem = ""
    # A recording is of another machine.
    if status.server.get("wakeup") != "replay":
        try:
            memory = memory_bytes()
        except KernelFileError as error:
            # What the server says is worth showing without it.
            problem = str(error)
    if args.json:
        shown = {
            "server": status.server,
            "failing": list(status.failing),
            "zones": list(status.zones),
            "cgroups": list(status.cgroups),
            "memory": memory,
        }
        print(json.dumps(shown, indent=2))
    else:
        words = render(status, memory, page_bytes=os.sysconf("SC_PAGE_SIZE"), now_ns=time.monotonic_ns())
        print(f"{words}\nmemory: unknown: {problem}" if problem else words)
    return EXIT_OK if status.is_fine else EXIT_NEGATIVE


def memory_bytes(proc: Path = Path("/proc")) -> dict[str, int]:
    """Return the machine's memory and swap, in bytes. Raises KernelFileError where there is no meminfo."""
    import psutil  # type: ignore[import-untyped, unused-ignore]

    if proc == Path("/proc"):
        # It does not get over a meminfo with odd lines in it, and has no error of its own for that.
        with contextlib.suppress(OSError, ValueError, LookupError, RuntimeError):
            total, swap = psutil.virtual_memory(), psutil.swap_memory()
            return {
                "total_bytes": total.total,
                "available_bytes": total.available,
                "swap_total_bytes": swap.total,
                "swap_free_bytes": swap.free,
            }
    memory = read_meminfo(proc)
    available_kb = memory.free_kb if memory.available_kb is None else memory.available_kb
    return {
        "total_bytes": memory.total_kb * 1024,
        "available_bytes": available_kb * 1024,
        "swap_total_bytes": memory.swap_total_kb * 1024,
        "swap_free_bytes": memory.swap_free_kb * 1024,
    }


def render(status: Status, memory: dict[str, int] | None, *, page_bytes: int, now_ns: int) -> str:
    """Return the readable form: a line about the server, those about what fails, a table of the zones, one of memory.

    ``now_ns`` is CLOCK_MONOTONIC, for saying how long ago something was.
    """
    parts = []
    if status.server:
        parts.append("server: " + ", ".join(_server_words(key, value) for key, value in status.server.items()))
    if status.failing:
        parts.append("\n".join(map(_failing_line, status.failing)))
    parts.append(_table(status.zones, page_bytes, now_ns) if status.zones else "the server watches no zones")
    if status.cgroups:
        parts.append(_table(status.cgroups, page_bytes, now_ns, "cgroup"))
    if memory is not None:
        parts.append(_memory_line(memory))
    return "\n\n".join(parts)


def _failing_line(failing: Pairs) -> str:
    since_s, reason = failing.get("since_s"), failing.get("reason", "")
    since = f" for {_duration(since_s)}" if isinstance(since_s, int | float) else ""
    return f"FAILING: {failing['failing']}{since}: {reason}"


def _server_words(key: str, value: Value) -> str:
    if key == "uptime_s" and isinstance(value, int | float):
        return f"up {_duration(value)}"
    return f"{key.replace('_', ' ')} {value}"


def _duration(seconds: float) -> str:
    """Return ``seconds`` in its two largest units, such as ``2 h 5 min``."""
    rest = int(seconds)
    units: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not units):
            units.append(f"{count} {unit}")
    return " ".join(units[:2])


def _table(zones: Sequence[Pairs], page_bytes: int, now_ns: int, what: str = "zone") -> str:
    """Return one aligned row per zone, or per ``what``, with a column for every key that any has."""
    keys = list(dict.fromkeys(key for zone in zones for key in zone if key not in ("node", what)))
    rows = [[what, *(_heading(key) for key in keys)]]
    for zone in zones:
        name = zone_name(zone) if what == "zone" else str(zone.get(what, "?")).removeprefix("cgroup:")
        rows.append([name, *(_cell(key, zone.get(key), page_bytes, now_ns) for key in keys)])
    numeric = [False, *(all(not isinstance(zone.get(key), str) for zone in zones) for key in keys)]
    if "status" in keys:
        numeric[1 + keys.index("status")] = False
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _heading(key: str) -> str:
    if key == "time_ns":
        return "last seen"
    for suffix in ("_pages", "_kb"):
        if key.endswith(suffix):
            return f"{key.removesuffix(suffix).replace('_', ' ')} MiB"
    return key.replace("_", " ")


def _cell(key: str, value: Value, page_bytes: int, now_ns: int) -> str:
    if value is None:
        return "-"
    if key == "status":
        return _STATUS_WORDS.get(value, str(value))
    if not isinstance(value, str):
        if key == "time_ns":
            return f"{_duration((now_ns - value) / 1e9)} ago" if value else "never"
        if key.endswith("_pages"):
            return f"{value * page_bytes / _MIB:.1f}"
        if key.endswith("_kb"):
            return f"{value / 1024:.1f}"
    return str(value)


def _memory_line(memory: dict[str, int]) -> str:
    total, available = memory["total_bytes"], memory["available_bytes"]
    line = f"memory: {total / _MIB:.0f} MiB, {available / _MIB:.0f} MiB available"
    if total:
        line += f" ({100 * available / total:.0f} %)"
    swap_total, swap_free = memory["swap_total_bytes"], memory["swap_free_bytes"]
    if not swap_total:
        return f"{line}; swap: none"
    return f"{line}; swap: {swap_total / _MIB:.0f} MiB, {swap_free / _MIB:.0f} MiB free"
