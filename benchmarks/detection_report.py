"""docs/detection.md and its picture, from the rows of `benchmarks.detection`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report import Table, wrapped
from tests.guest.experiment import RATE_MIB_S
from tests.guest.loads import CACHE_LOADS

DOCS: Final = Path(__file__).parents[1] / "docs"
PAGE: Final = DOCS / "detection.md"

Row = dict[str, Any]

LISTENERS: Final = {
    "device": "/dev/mem_notify",
    "psi-150ms-2s": "PSI 150 ms in 2 s",
    "psi-70ms-1s": "PSI 70 ms in 1 s",
    "vmpressure-low": "vmpressure low",
    "vmpressure-medium": "vmpressure medium",
    "vmpressure-critical": "vmpressure critical",
    "available-10%": "10 % available",
    "low-memory-monitor": "low-memory-monitor",
}

INTRODUCTION: Final = (
    "What `make detection` measured, in guests with a Debian kernel whose memory really ran out. Each row is one "
    "experiment (tests/guest/scenarios.py): a program holds two fifths of the memory available as a cache, another "
    "takes what is left and three fifths of the cache besides, at 24 MiB/s. `cold` touches what it takes once, `hot` "
    "again and again, `mixed` reads four times as much from a disk meanwhile. None of it compresses, so that zram wins "
    "nothing by it. Survived means: no OOM kill, and both programs got what they wanted.",
    "The guests run without KVM on a shared machine: an emulated processor, some ten times slower than a real one. "
    "Times are to be compared within a row, not with docs/benchmarks.md.",
)
LISTENERS_ARE: Final = (
    "PSI triggers at systemd's default (150 ms in 2 s) and lmkd's (70 ms in 1 s); cgroup v1 memory.pressure_level on "
    "the root group; earlyoom's rule, available memory and free swap both at most 10 %, looked at ten times a second; "
    "and Debian's low-memory-monitor, by its signal on D-Bus, of whatever level."
)


SINCE_ANON: Final = (
    "The first notice is counted from the first anonymous page that the kernel looked at when nobody gave anything "
    "back, and is negative where it came before that (without swap the kernel looks at none). In `mixed` that is not "
    "yet a shortage: beside a file that is read, reclaim looks at some now and then, and page cache serves all the "
    "same."
)
OF_PAGE_CACHE: Final = (
    "They speak of page cache that is taken for the file that is read all along, no anonymous page being touched, as "
    "they do in vain of every stream (below)."
)
FIXED_LINE: Final = (
    "Its line is where it is, however fast memory is taken; the device leaves programs their memory until they need "
    "the time to act."
)
CRUMBS: Final = (
    "Reclaim had come to programs' memory, but had not yet looked at more than a 64th of it, and page cache could "
    "still have served: by less, reading a file would be taken for a shortage."
)
HOVERING: Final = (
    "One program takes 2 MiB in each second, and another gives 4 MiB back whenever it is told: at the threshold that "
    "makes 30 notices a minute, if each of them does its part. Raises are a zone's changes from clear to under "
    "pressure."
)
SPEEDS: Final = "In the guests, when nobody gives anything back: from the first notice to the OOM kill."
NATIVE: Final = (
    "No guest is as fast as a real machine. So this was measured on the machine itself, made small "
    "(benchmarks/lead.py): most of its free memory is set aside, and a program takes what is left above the raised "
    "watermarks. The lead here is the time from the return from poll() until nothing is left above the high watermark; "
    "the OOM killer would come later still."
)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """The rows of each kind of machine together, whichever were measured last."""
    return sorted(rows, key=lambda row: (row["swap"] == "none", row["lru"] != "classic"))


def write_page(rows: Sequence[Row]) -> None:
    """Write the page."""
    PAGE.write_text(page(rows))


def page(rows: Sequence[Row]) -> str:
    """The text of the page."""
    kernels = ", ".join(sorted({row["kernel"] for row in rows if row["workload"] != "lead"}))
    parts = ["# Detection", *map(wrapped, INTRODUCTION), f"Kernel: {kernels}."]
    parts += ["## With the device and without", wrapped(SINCE_ANON), str(_survival(rows)), _shortfalls(rows)]
    parts += ["## Who is told, and when", wrapped(LISTENERS_ARE), *map(str, _leads(rows))]
    parts += ["![Lead before the OOM kill](detection.svg)"]
    others = [row for row in rows if row["listener"] in LISTENERS and row["listener"] != "device"]
    if others:
        parts += ["## The same client, told by something else", str(_others(rows))]
    parts += ["## Page cache alone: told in vain", str(_vain(rows))]
    hovering = _hovering(rows)
    if hovering.rows:
        parts += ["## At the threshold", wrapped(HOVERING), str(hovering)]
    speeds, native = _speeds(rows), _native(rows)
    if speeds.rows:
        parts += ["## How much time there is, by speed", wrapped(SPEEDS), str(speeds)]
    if native.rows:
        parts += [wrapped(NATIVE), str(native)]
    parts += [_churn(row) for row in rows if row["workload"] == "churn"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _is_pressure(row: Row) -> bool:
    return row["workload"] in ("cold", "hot", "mixed")


def _is_cache(row: Row) -> bool:
    """Whether nobody should have been told of it."""
    return row["workload"] in CACHE_LOADS


def _where(row: Row) -> tuple[str, str, str]:
    return row["swap"], row["lru"], row["workload"]


def name_of(where: tuple[str, str, str]) -> str:
    swap, lru, workload = where
    return f"{machine_of(swap, lru)}, {workload}"


def machine_of(swap: str, lru: str) -> str:
    """A combination, as it stands in tables."""
    return f"{'no swap' if swap == 'none' else swap}, {lru}"


def _find(rows: Iterable[Row], where: tuple[str, str, str], listener: str) -> Row | None:
    return next((row for row in rows if _where(row) == where and row["listener"] == listener), None)


def all_where(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(_where(row) for row in rows if _is_pressure(row)))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def end_of(row: Row) -> str:
    """How an experiment ended."""
    if row["survived"]:
        return "survived"
    return f"{row['oom_kills']} killed" if row["oom_kills"] else "not in time"


def _survival(rows: Sequence[Row]) -> Table:
    lines: list[tuple[str, ...]] = []
    for where in all_where(rows):
        off, on, told = _find(rows, where, "none"), _find(rows, where, "device"), _onlookers(rows, where)
        lines.append(
            (
                name_of(where),
                f"{off['oom_kills']} killed" if off else "-",
                end_of(on) if on else "-",
                str(on["notified"]) if on else "-",
                _ms(told["first_notice_ms"]) if told else "-",
                _ms(on["bystander_ms"].get("median")) if on else "-",
                _ms(on["bystander_ms"].get("max")) if on else "-",
            )
        )
    headers = ("combination", "device off", "device on", "notices", "first, ms after anon", "poll() ms", "worst ms")
    return Table(headers, lines)


def _shortfalls(rows: Sequence[Row]) -> str:
    short = []
    for where in all_where(rows):
        on = _find(rows, where, "device")
        if on is not None and not on["survived"]:
            taken = f"the allocator had {on['allocated_mib']} of {on['wanted_mib']} MiB"
            short.append(f"- {name_of(where)}: {end_of(on)}; {taken}.")
    short += [
        f"- {name_of(_where(row))}: {row['notified']} notices in vain."
        for row in rows
        if _is_cache(row) and row["notified"]
    ]
    short += [
        wrapped(
            f"- {machine_of(row['swap'], row['lru'])}, at the threshold: {row['oom_kills']} killed. Before that no "
            f"program got to run for {row['stall_ms'] / 1000:.0f} s, in which the kernel filled the swap with what "
            "does not compress."
        )
        for row in rows
        if row["workload"] == "hover" and row["oom_kills"]
    ]
    short += _told_earlier(rows)
    if not short:
        return "No row falls short."
    return "\n".join(["Rows that fall short:", "", *short])


def _onlookers(rows: Sequence[Row], where: tuple[str, str, str]) -> Row | None:
    return next(
        (each for each in rows if _where(each) == where and each["others"] and each["rate_mib_s"] == RATE_MIB_S), None
    )


def leads_of(rows: Sequence[Row], where: tuple[str, str, str]) -> dict[str, float | None]:
    row = _onlookers(rows, where)
    if row is None:
        return {}
    return {"device": row["lead_ms"], **{name: times["lead_ms"] for name, times in row["others"].items()}}


def _told_earlier(rows: Sequence[Row]) -> list[str]:
    """Who was told before the device, of what, and why."""
    lines = []
    for row in rows:
        if not (row["others"] and _is_pressure(row)) or row["lead_ms"] is None:
            continue
        causes: dict[str, list[str]] = {}
        for name, times in row["others"].items():
            if times["lead_ms"] is not None and times["lead_ms"] > row["lead_ms"]:
                earlier = f"{LISTENERS[name]} ({times['lead_ms'] - row['lead_ms']:.0f} ms)"
                causes.setdefault(_cause(rows, row, name), []).append(earlier)
        speed = "" if row["rate_mib_s"] == RATE_MIB_S else f", {row['rate_mib_s'] or 'as many as it can'} MiB/s"
        lines += [
            wrapped(f"- {name_of(_where(row))}{speed}: told before: {', '.join(listeners)}. {cause}")
            for cause, listeners in causes.items()
        ]
    return lines


def _cause(rows: Sequence[Row], row: Row, name: str) -> str:
    """Why a listener was told before the device was."""
    if name == "available-10%":
        return FIXED_LINE
    first_ms = row["others"][name]["first_notice_ms"]
    if row["workload"] == "mixed" and (first_ms is None or first_ms < 0) and _hears_streams(rows, row, name):
        return OF_PAGE_CACHE
    return CRUMBS if row["swap"] != "none" else ""


def _hears_streams(rows: Sequence[Row], row: Row, name: str) -> bool:
    """Whether a listener is told of a file that is read, on a machine like that of `row`."""
    return any(
        each["others"].get(name, {}).get("notified")
        for each in rows
        if each["workload"] == "stream" and _where(each)[:2] == _where(row)[:2]
    )


def _leads(rows: Sequence[Row]) -> list[Table | str]:
    lines = []
    for where in all_where(rows):
        leads = leads_of(rows, where)
        if leads:
            lines.append((name_of(where), *(_ms(leads.get(name)) for name in LISTENERS)))
    title = "Milliseconds from the first notice to the OOM kill, when nobody gives anything back:"
    return [title, Table(("combination", *LISTENERS.values()), lines)]


def _others(rows: Sequence[Row]) -> Table:
    lines = []
    for where in all_where(rows):
        cells = []
        for name in LISTENERS:
            row = _find(rows, where, name)
            cells.append("-" if row is None else end_of(row))
        lines.append((name_of(where), *cells))
    return Table(("combination", *LISTENERS.values()), lines)


def _vain(rows: Sequence[Row]) -> Table:
    lines = [
        (
            name_of(_where(row)),
            str(row["notified"]),
            *(str(row["others"].get(name, {}).get("notified", "-")) for name in LISTENERS if name != "device"),
        )
        for row in rows
        if _is_cache(row)
    ]
    return Table(("combination", *LISTENERS.values()), lines)


def leads_by_speed(rows: Sequence[Row]) -> dict[tuple[str, int], float | None]:
    """The lead in the guests with the classic LRU, by swap and speed (MiB/s; 0: as fast as it can)."""
    return {
        (row["swap"], row["rate_mib_s"]): row["lead_ms"]
        for row in rows
        if row["others"] and row["workload"] == "cold" and row["lru"] == "classic"
    }


def native_leads(rows: Sequence[Row]) -> list[tuple[int, float | None]]:
    """MiB/s and lead, as measured without a guest."""
    return [(row["rate_mib_s"], row["lead_ms"]) for row in rows if row["workload"] == "lead"]


def _speeds(rows: Sequence[Row]) -> Table:
    found = leads_by_speed(rows)
    speeds = sorted({speed for _, speed in found}, key=lambda speed: speed or 1 << 30)
    lines = [
        (
            f"{speed} MiB/s" if speed else "as fast as it can",
            *(_ms(found.get((swap, speed))) for swap in ("none", "zram")),
        )
        for speed in speeds
    ]
    return Table(("allocator", "no swap: lead, ms", "zram: lead, ms"), lines if len(speeds) > 1 else [])


def _by(processes: int) -> str:
    return f", {processes} processes" if processes > 1 else ""


def _native(rows: Sequence[Row]) -> Table:
    lines = [
        (
            f"{row['asked_mib_s'] or 'as fast as it can'}{_by(row['processes'])}",
            str(row["rate_mib_s"]),
            _ms(row["lead_ms"]),
            ", ".join(map(_ms, row["leads_ms"])),
        )
        for row in rows
        if row["workload"] == "lead"
    ]
    return Table(("asked for, MiB/s", "MiB/s", "lead, ms", "of runs, ms"), lines)


def _hovering(rows: Sequence[Row]) -> Table:
    lines = [
        (
            machine_of(row["swap"], row["lru"]),
            f"{row['notified'] * 60 / row['seconds']:.0f}",
            f"{row['raises'] * 60 / row['seconds']:.0f}",
            str(row["oom_kills"] or "nobody"),
        )
        for row in rows
        if row["workload"] == "hover"
    ]
    return Table(("combination", "notices a minute", "raises a minute", "killed"), lines)


def _churn(row: Row) -> str:
    end = "nobody was killed" if row["survived"] else f"{row['oom_kills']} OOM kills"
    return "\n\n".join(
        [
            "## Ten minutes on a small machine without swap",
            wrapped(
                "In a guest of 224 MiB, a client that takes 100 ms to react and gives back 3.5 MiB at a time, and "
                "fills its cache again when it is left alone, beside a program that takes 8 MiB/s until nothing would "
                f"be left without the client, lets go, and begins anew: told {row['notified']} times, {end}."
            ),
        ]
    )
