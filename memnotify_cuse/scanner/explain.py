"""Why a zone was raised at a moment, or why not: the counters, each rule, and what was missing for it. Pure.

The numbers are those that the scanner itself went by: nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from memnotify_cuse.board import STATUS_IGNORED, ZoneState
from memnotify_cuse.scanner.evidence import Check, Verdict, judge
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.sample import Sample
from memnotify_cuse.scanner.zones import Scan, ZoneTracker


@dataclass(frozen=True, slots=True)
class Moment:
    """One sample, and what came of it. `raised` are the zones that came under pressure in it."""

    scan: Scan
    raised: tuple[ZoneState, ...]

    @property
    def time_ns(self) -> int:
        """When it was (CLOCK_MONOTONIC)."""
        return self.scan.measured.now.time_ns

    @property
    def nearest(self) -> float:
        """How near it is to a notice: what is left on the fullest node, for each page of its headroom."""
        forecasts = self.scan.measured.forecasts.values()
        return min((each.left_pages / max(1, each.headroom_pages) for each in forecasts), default=float("inf"))


def moments(samples: Iterable[Sample], machine: Machine) -> Iterator[Moment]:
    """Each sample with what came of it, as the scanner would have seen them."""
    tracker = ZoneTracker(machine)
    before: set[object] = set()
    for sample in samples:
        scan = tracker.update(sample)
        raised = tuple(state for state in scan.states if state.under_pressure and state.zone not in before)
        before = {state.zone for state in scan.states if state.under_pressure}
        yield Moment(scan, raised)


def as_object(moment: Moment) -> dict[str, Any]:
    """The moment as what `--json` prints: sizes in KiB, times in ns."""
    measured = moment.scan.measured
    page_kb = measured.machine.page_kb
    verdicts = judge(measured)
    return {
        "time_ns": moment.time_ns,
        "interval_ns": moment.time_ns - measured.before.time_ns,
        "mglru": measured.machine.mglru,
        "nodes": [
            {
                "node": node,
                "left_kb": forecast.left_pages * page_kb,
                "left_without_swap_kb": forecast.cache_pages * page_kb,
                "program_text_kb": forecast.text_pages * page_kb,
                "decline_kb_per_s": round(forecast.decline_pages_s * page_kb),
                "headroom_kb": forecast.headroom_pages * page_kb,
                "floor_kb": forecast.floor_pages * page_kb,
                "level": forecast.level,
                "rules": [_rule(verdict, page_kb) for verdict in verdicts[node]],
            }
            for node, forecast in measured.forecasts.items()
        ],
        "zones": [_zone(state, moment, page_kb) for state in moment.scan.states],
    }


def _rule(verdict: Verdict, page_kb: int) -> dict[str, Any]:
    checks = [_check(check, page_kb) for check in verdict.checks]
    return {"reason": verdict.reason, "rule": verdict.title, "fires": verdict.fires, "conditions": checks}


def _check(check: Check, page_kb: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "what": check.what,
        "kb": check.pages * page_kb,
        "sign": check.sign,
        "limit_kb": check.limit * page_kb,
        "holds": check.met,
    }
    if check.instead is not None:
        found["or"] = _check(check.instead, page_kb)
    return found


def _zone(state: ZoneState, moment: Moment, page_kb: int) -> dict[str, Any]:
    return {
        "zone": str(state.zone),
        "free_kb": state.free_pages * page_kb,
        "clear_above_kb": state.clear_pages * page_kb,
        "pressure": state.under_pressure,
        "ignored": state.status == STATUS_IGNORED,
        "evidence": state.zone in moment.scan.moved,
        "reason": state.reason,
        "reclaim_target_kb": state.target_pages * page_kb if state.under_pressure else 0,
    }


def as_text(moment: Moment, began_ns: int) -> str:
    """The moment for people."""
    found = as_object(moment)
    lines = [f"{(moment.time_ns - began_ns) / 1e9:.3f} s after the first sample (time_ns {moment.time_ns})"]
    for node in found["nodes"]:
        rate = f"{node['decline_kb_per_s'] / 1024:,.1f} MiB/s" if node["decline_kb_per_s"] else "nothing"
        lines += [
            "",
            f"node {node['node']}: {_mib(node['left_kb'])} left, {_mib(node['left_without_swap_kb'])} without swap;"
            f" program text {_mib(node['program_text_kb'])}",
            f"  declines by {rate}; headroom {_mib(node['headroom_kb'])}, at least {_mib(node['floor_kb'])};"
            f" level {node['level']}",
        ]
        for rule in node["rules"]:
            lines.append(f"  {rule['reason']} ({rule['rule']}): {'yes' if rule['fires'] else 'no'}")
            lines += [f"    {line}" for check in rule["conditions"] for line in _condition(check)]
    lines += ["", *map(_zone_line, found["zones"])]
    return "\n".join(lines)


def _condition(check: dict[str, Any], word: str = "") -> list[str]:
    mark = "ok" if check["holds"] else "--"
    sign = "at least" if check["sign"] == ">=" else "at most"
    line = f"{mark}  {word}{check['what']}: {_mib(check['kb'])}, {sign} {_mib(check['limit_kb'])}"
    return [line, *(_condition(check["or"], "or ") if "or" in check else [])]


def _zone_line(zone: dict[str, Any]) -> str:
    if zone["ignored"]:
        return f"{zone['zone']}: ignored, smaller than a tenth of its node"
    state = "clear"
    if zone["pressure"]:
        state = f"under pressure, {zone['reason']}, asks for {_mib(zone['reclaim_target_kb'])}"
    seen = "" if zone["evidence"] else ", no evidence in this sample"
    return f"{zone['zone']}: {_mib(zone['free_kb'])} free, clear above {_mib(zone['clear_above_kb'])}: {state}{seen}"


def _mib(kb: int) -> str:
    """A size for people: KiB below one MiB."""
    return f"{kb:,} KiB" if abs(kb) < 1024 else f"{kb / 1024:,.1f} MiB"
