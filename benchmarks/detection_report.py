"""docs/detection.md and its picture, from the rows of `benchmarks.detection`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report import Table, wrapped

DOCS: Final = Path(__file__).parents[1] / "docs"
PAGE: Final = DOCS / "detection.md"
PICTURE: Final = DOCS / "detection.svg"

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
    "experiment (tests/guest/experiment.py): a program holds two fifths of the memory available as a cache, another "
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


def write_page(rows: Sequence[Row]) -> None:
    """Write the page and the picture."""
    PAGE.write_text(page(rows))
    draw(rows)


def page(rows: Sequence[Row]) -> str:
    """The text of the page."""
    kernels = ", ".join(sorted({row["kernel"] for row in rows}))
    parts = ["# Detection", *map(wrapped, INTRODUCTION), f"Kernel: {kernels}."]
    parts += ["## With the device and without", str(_survival(rows)), _shortfalls(rows)]
    parts += ["## Who is told, and when", wrapped(LISTENERS_ARE), *map(str, _leads(rows))]
    parts += ["![Lead before the OOM kill](detection.svg)"]
    others = [row for row in rows if row["listener"] in LISTENERS and row["listener"] != "device"]
    if others:
        parts += ["## The same client, told by something else", str(_others(rows))]
    parts += ["## Page cache alone: told in vain", str(_vain(rows))]
    speeds = _speeds(rows)
    if speeds.rows:
        parts += ["## How much time there is, by speed", str(speeds)]
    parts += [_churn(row) for row in rows if row["workload"] == "churn"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _is_pressure(row: Row) -> bool:
    return row["workload"] in ("cold", "hot", "mixed")


def _where(row: Row) -> tuple[str, str, str]:
    return row["swap"], row["lru"], row["workload"]


def _name(where: tuple[str, str, str]) -> str:
    swap, lru, workload = where
    return f"{'no swap' if swap == 'none' else swap}, {lru}, {workload}"


def _find(rows: Iterable[Row], where: tuple[str, str, str], listener: str) -> Row | None:
    return next((row for row in rows if _where(row) == where and row["listener"] == listener), None)


def _all_where(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(_where(row) for row in rows if _is_pressure(row)))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _end(row: Row) -> str:
    if row["survived"]:
        return "survived"
    return f"{row['oom_kills']} killed" if row["oom_kills"] else "not in time"


def _survival(rows: Sequence[Row]) -> Table:
    lines: list[tuple[str, ...]] = []
    for where in _all_where(rows):
        off, on = _find(rows, where, "none"), _find(rows, where, "device")
        lines.append(
            (
                _name(where),
                f"{off['oom_kills']} killed" if off else "-",
                _end(on) if on else "-",
                str(on["notified"]) if on else "-",
                _ms(on["first_notice_ms"]) if on else "-",
                _ms(on["bystander_ms"].get("median")) if on else "-",
                _ms(on["bystander_ms"].get("max")) if on else "-",
            )
        )
    headers = ("combination", "device off", "device on", "notices", "first, ms after anon", "poll() ms", "worst ms")
    return Table(headers, lines)


def _shortfalls(rows: Sequence[Row]) -> str:
    short = []
    for where in _all_where(rows):
        on = _find(rows, where, "device")
        if on is not None and not on["survived"]:
            taken = f"the allocator had {on['allocated_mib']} of {on['wanted_mib']} MiB"
            short.append(f"- {_name(where)}: {_end(on)}; {taken}.")
        short += _told_earlier(rows, where)
    short += [
        f"- {_name(_where(row))}: {row['notified']} notices in vain."
        for row in rows
        if row["workload"] in ("stream", "database", "backup") and row["notified"]
    ]
    if not short:
        return "No row falls short."
    return "\n".join(["Rows that fall short:", "", *short])


def _onlookers(rows: Sequence[Row], where: tuple[str, str, str]) -> Row | None:
    return next((each for each in rows if _where(each) == where and each["others"] and each["rate_mib_s"] == 24), None)


def _leads_of(rows: Sequence[Row], where: tuple[str, str, str]) -> dict[str, float | None]:
    row = _onlookers(rows, where)
    if row is None:
        return {}
    return {"device": row["lead_ms"], **{name: times["lead_ms"] for name, times in row["others"].items()}}


def _told_earlier(rows: Sequence[Row], where: tuple[str, str, str]) -> list[str]:
    """Who was told before the device, and of what."""
    row = _onlookers(rows, where)
    if row is None or row["lead_ms"] is None:
        return []
    of_page_cache: list[str] = []
    of_shortage: list[str] = []
    for name, times in row["others"].items():
        if times["lead_ms"] is not None and times["lead_ms"] > row["lead_ms"]:
            first_ms = times["first_notice_ms"]
            text = f"{LISTENERS[name]} ({times['lead_ms'] - row['lead_ms']:.0f} ms)"
            (of_page_cache if first_ms is not None and first_ms < 0 else of_shortage).append(text)
    lines = []
    if of_page_cache:
        what = "told before, while the kernel took page cache and had touched no anonymous page, as when a file is read"
        lines.append(f"- {_name(where)}: {what}: {', '.join(of_page_cache)}.")
    if of_shortage:
        lines.append(f"- {_name(where)}: told before: {', '.join(of_shortage)}.")
    return lines


def _leads(rows: Sequence[Row]) -> list[Table | str]:
    lines = []
    for where in _all_where(rows):
        leads = _leads_of(rows, where)
        if leads:
            lines.append((_name(where), *(_ms(leads.get(name)) for name in LISTENERS)))
    title = "Milliseconds from the first notice to the OOM kill, when nobody gives anything back:"
    return [title, Table(("combination", *LISTENERS.values()), lines)]


def _others(rows: Sequence[Row]) -> Table:
    lines = []
    for where in _all_where(rows):
        cells = []
        for name in LISTENERS:
            row = _find(rows, where, name)
            cells.append("-" if row is None else _end(row))
        lines.append((_name(where), *cells))
    return Table(("combination", *LISTENERS.values()), lines)


def _vain(rows: Sequence[Row]) -> Table:
    lines = [
        (
            _name(_where(row)),
            str(row["notified"]),
            *(str(row["others"].get(name, {}).get("notified", "-")) for name in LISTENERS if name != "device"),
        )
        for row in rows
        if row["workload"] in ("stream", "database", "backup")
    ]
    return Table(("combination", *LISTENERS.values()), lines)


def _leads_by_speed(rows: Sequence[Row]) -> tuple[dict[tuple[str, int], float | None], list[int]]:
    """The lead by swap and speed (MiB/s, 0 for as fast as it can), and the speeds in their order."""
    found = {
        (row["swap"], row["rate_mib_s"]): row["lead_ms"]
        for row in rows
        if row["others"] and row["workload"] == "cold" and row["lru"] == "classic"
    }
    return found, sorted({speed for _, speed in found}, key=lambda speed: speed or 1 << 30)


def _speeds(rows: Sequence[Row]) -> Table:
    found, speeds = _leads_by_speed(rows)
    lines = [
        (
            f"{speed} MiB/s" if speed else "as fast as it can",
            *(_ms(found.get((swap, speed))) for swap in ("none", "zram")),
        )
        for speed in speeds
    ]
    return Table(("allocator", "no swap: lead, ms", "zram: lead, ms"), lines if len(speeds) > 1 else [])


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


def draw(rows: Sequence[Row]) -> None:
    """The leads as a picture, and by speed. matplotlib is for this command alone, so it is imported here."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    wheres = [where for where in _all_where(rows) if _leads_of(rows, where)]
    if not wheres:
        return
    figure, (axes, curve) = pyplot.subplots(
        2, 1, figsize=(11, 0.55 * len(wheres) + 5.5), height_ratios=(0.55 * len(wheres) + 1, 3.5)
    )
    height = 0.8 / len(LISTENERS)
    for number, (name, label) in enumerate(LISTENERS.items()):
        leads = [max(0.0, _leads_of(rows, where).get(name) or 0.0) / 1000 for where in wheres]
        places = [index + number * height for index in range(len(wheres))]
        axes.barh(places, leads, height, label=label, color="black" if name == "device" else None)
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(wheres))], list(map(_name, wheres)))
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlabel("seconds from the first notice to the OOM kill (none: not told in time)")
    axes.legend(fontsize="small")
    found, speeds = _leads_by_speed(rows)
    for swap, label in (("none", "no swap"), ("zram", "zram")):
        leads = [(found.get((swap, speed)) or 0.0) / 1000 for speed in speeds]
        curve.plot(range(len(speeds)), leads, marker="o", label=label)
    curve.set_xticks(range(len(speeds)), [str(speed) if speed else "as fast as it can" for speed in speeds])
    curve.set_yscale("symlog", linthresh=0.1)
    curve.set_xlabel("MiB/s that the allocator takes")
    curve.set_ylabel("seconds of lead of /dev/mem_notify")
    curve.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})
    pyplot.close(figure)
