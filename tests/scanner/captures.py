"""The captured counters of tests/fixtures/traces as samples; tests/support/capture.py makes the captures."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from memnotify_cuse.kernel.vmstat import Vmstat
from memnotify_cuse.kernel.zoneinfo import Zone, ZoneId, Zoneinfo
from memnotify_cuse.scanner.sample import Sample
from tests.scanner.samples import sample

TRACES = Path(__file__).parents[1] / "fixtures" / "traces"


@dataclass(frozen=True)
class Capture:
    """One scenario: its samples, and when kswapd woke and first scanned anonymous pages (None: it did not)."""

    samples: tuple[Sample, ...]
    kswapd_wake_ns: int | None
    first_anon_scan_ns: int | None


def load(scenario: str) -> Capture:
    with gzip.open(TRACES / f"{scenario}.json.gz", "rt") as file:
        data = json.load(file)
    return Capture(
        samples=tuple(_sample(each) for each in data["samples"]),
        kswapd_wake_ns=_first(data["events"], "kswapd_wake", ""),
        first_anon_scan_ns=_first(data["events"], "lru_shrink_inactive", "RECLAIM_WB_ANON"),
    )


def _first(events: list[Any], name: str, word: str) -> int | None:
    return next(
        (
            time_ns
            for time_ns, comm, _pid, event, text in events
            if comm.startswith("kswapd") and event == name and word in text and "nr_scanned=0" not in text
        ),
        None,
    )


def _sample(raw: dict[str, Any]) -> Sample:
    names = {field.name for field in fields(Vmstat)}
    counters = {name: value for name, value in raw["vmstat"].items() if name in names}
    counters["allocstall"] = sum(value for name, value in raw["vmstat"].items() if name.startswith("allocstall_"))
    base = sample(swap_kb=2_097_148 if raw["swap_free_kb"] else 0, swap_free_kb=raw["swap_free_kb"], **counters)
    zones = tuple(_zone(ZoneId.parse(name), pages) for name, pages in raw["zones"].items())
    return Sample(
        raw["time_ns"], Zoneinfo(zones, base.zoneinfo.nodes), base.vmstat, base.meminfo, None, raw["swap_free_kb"]
    )


def _zone(zone: ZoneId, pages: dict[str, int]) -> Zone:
    taken = {name: pages[name] for name in ("free_pages", "min_pages", "low_pages", "high_pages")}
    lists = {name: pages[name] for name in pages if name.endswith(("_anon_pages", "_file_pages"))}
    return Zone(
        id=zone,
        boost_pages=None,
        spanned_pages=pages["present_pages"],
        present_pages=pages["present_pages"],
        managed_pages=pages["managed_pages"],
        protection_pages=(pages["reserve_pages"],),
        unevictable_pages=0,
        **taken,
        **lists,
    )
