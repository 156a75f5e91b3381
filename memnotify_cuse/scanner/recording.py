"""The format of recordings: what the scanner saw, sample by sample, as lines of JSON. Pure: no files here.

    {"format":"memnotify-recording","version":5,"kernel":"6.18.44","page_kb":4,"mglru":false,"wakeup":"tracefs"}
    {"time_ns":1978142633130,"whole":true,"zones":{"node0-Normal":{"free_pages":5347729,...}},"nodes":{...},...}
    {"time_ns":1978162744001,"zones":{"node0-Normal":{"free_pages":5347601}},"vmstat":{"nr_free_pages":6120351}}

The first line is the header. Each further line is a sample: `whole` ones hold every counter, all others those that
changed since the line before, by the names that the fields of `Sample` have. docs/recording.md has it in full.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeGuard, TypeVar

from memnotify_cuse.kernel.meminfo import Meminfo
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.kernel.vmstat import Vmstat
from memnotify_cuse.kernel.zoneinfo import Node, Zone, ZoneId, Zoneinfo
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.sample import Sample

FORMAT: Final = "memnotify-recording"
VERSION: Final = 5
_LATER: Final[Mapping[int, frozenset[str]]] = MappingProxyType(
    {
        1: frozenset({"shmem_pages", "slab_reclaimable_pages", "pgdemote"}),
        2: frozenset({"slab_reclaimable_pages", "pgdemote"}),
        3: frozenset({"slab_reclaimable_pages", "pgdemote"}),
        4: frozenset(),
        5: frozenset(),
    }
)
"""The counters that recordings of a version do not have yet: they are None."""

MOST: Final = 10**20
"""No counter of the kernel has more than 20 digits."""

Counters = TypeVar("Counters", Zone, Node, Vmstat, Meminfo)

_NODE: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_EVENT_FIELDS: Final = tuple(each.name for each in fields(TraceEvent))
_COUNTERS: Final[Mapping[type, Mapping[str, bool]]] = MappingProxyType(
    {
        kind: {each.name: "None" in str(each.type) for each in fields(kind) if each.name not in ("id", "node")}
        for kind in (Zone, Node, Vmstat, Meminfo)
    }
)
"""The names of the counters, and whether there are kernels without them; not what identifies a zone or node."""

_SAMPLE_KEYS: Final = frozenset(
    (
        "time_ns",
        "whole",
        "zones",
        "nodes",
        "vmstat",
        "meminfo",
        "swap_gain_kb",
        "mglru",
        "arc_gain_kb",
        "demoting",
        "events",
    )
)


@dataclass(frozen=True, slots=True)
class Header:
    """What holds for all samples: the machine that was recorded, its kernel release, and what woke the scanner.

    `kernel` is None where the release is not known. `title` is free text, `marks` are moments of interest by name
    (CLOCK_MONOTONIC nanoseconds, as in the samples): notes of the one who made the recording, which no rule looks at.
    """

    machine: Machine
    kernel: str | None = None
    wakeup: str = "timer"
    title: str = ""
    marks: Mapping[str, int] = field(default_factory=dict)


def encode_header(header: Header) -> bytes:
    """The first line of a recording, with its end."""
    raw: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "kernel": header.kernel,
        "page_kb": header.machine.page_kb,
        "mglru": header.machine.mglru,
        "wakeup": header.wakeup,
    }
    if header.title:
        raw["title"] = header.title
    if header.marks:
        raw["marks"] = dict(header.marks)
    return _line(raw)


class SampleEncoder:
    """Turns samples into lines, each of which holds what changed since the one before."""

    def __init__(self) -> None:
        self._before: Sample | None = None

    def encode(self, sample: Sample) -> bytes:
        """The line of `sample`, with its end."""
        before = self._before
        if before is not None and _layout(before) != _layout(sample):
            # Memory was plugged in or out. It is rare, and a line that lists all zones needs no rules of its own.
            before = None
        raw: dict[str, object] = {"time_ns": sample.time_ns}
        if before is None:
            raw["whole"] = True
            raw["zones"] = {str(zone.id): _values(zone) for zone in sample.zoneinfo.zones}
            raw["nodes"] = {str(node.node): _values(node) for node in sample.zoneinfo.nodes}
            raw["vmstat"] = _values(sample.vmstat)
            raw["meminfo"] = _values(sample.meminfo)
            raw["swap_gain_kb"] = sample.swap_gain_kb
        else:
            zones = zip(sample.zoneinfo.zones, before.zoneinfo.zones, strict=True)
            nodes = zip(sample.zoneinfo.nodes, before.zoneinfo.nodes, strict=True)
            groups: dict[str, dict[str, Any]] = {
                "zones": {str(now.id): _changed(now, was) for now, was in zones if now != was},
                "nodes": {str(now.node): _changed(now, was) for now, was in nodes if now != was},
                "vmstat": _changed(sample.vmstat, before.vmstat),
                "meminfo": _changed(sample.meminfo, before.meminfo),
            }
            raw.update((name, group) for name, group in groups.items() if group)
            if sample.swap_gain_kb != before.swap_gain_kb:
                raw["swap_gain_kb"] = sample.swap_gain_kb
        if sample.mglru != (before.mglru if before is not None else None):
            raw["mglru"] = sample.mglru
        if sample.arc_gain_kb != (before.arc_gain_kb if before is not None else 0):
            raw["arc_gain_kb"] = sample.arc_gain_kb
        if sample.demoting != (before.demoting if before is not None else None):
            raw["demoting"] = None if sample.demoting is None else sorted(sample.demoting)
        if sample.events is not None:
            raw["events"] = [[getattr(event, name) for name in _EVENT_FIELDS] for event in sample.events]
        self._before = sample
        return _line(raw)


class Decoder:
    """Reads the lines of a recording in their order: the header, then samples. `path` is for messages.

    Every error is a RecordingError that names the line.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._line_number = 0
        self._before: Sample | None = None
        self._later: frozenset[str] = frozenset()

    def header(self, line: bytes) -> Header:
        """Read the first line."""
        raw = self._object(line)
        if raw.get("format") != FORMAT:
            self._fail("not a recording of memnotify")
        version = raw.get("version")
        if type(version) is not int or version not in _LATER:
            self._fail(f"version {version!r:.40} of the format; this memnotify reads versions 1 to {VERSION}")
        self._later = _LATER[version]
        kernel, page_kb, mglru = raw.get("kernel"), raw.get("page_kb"), raw.get("mglru")
        wakeup = raw.get("wakeup" if version > 4 else "doorbell")
        title, marks = raw.get("title", ""), raw.get("marks", {})
        if not (kernel is None or isinstance(kernel, str)) or not isinstance(title, str):
            self._fail("kernel and title must be text")
        if not isinstance(wakeup, str):
            self._fail("no wakeup source")
        if not isinstance(mglru, bool):
            self._fail("no mglru, true or false")
        if not _is_count(page_kb) or page_kb == 0:
            self._fail("no page_kb, a number")
        if not isinstance(marks, dict) or not all(map(_is_count, marks.values())):
            self._fail("marks must be times by name")
        return Header(Machine(mglru=mglru, page_kb=page_kb), kernel, wakeup, title, marks)

    def sample(self, line: bytes) -> Sample:
        """Read a further line."""
        raw = self._object(line)
        if unknown := raw.keys() - _SAMPLE_KEYS:
            self._fail(f"unknown: {min(unknown)[:40]!r}")
        time_ns = raw.get("time_ns")
        if not _is_count(time_ns):
            self._fail("no time_ns, a number")
        before = self._before
        if before is not None and time_ns < before.time_ns:
            self._fail(f"time_ns {time_ns} is before that of the sample before")
        if raw.get("whole") is True:
            before = None
        elif before is None:
            self._fail("the first sample is not a whole one")
        zoneinfo = Zoneinfo(self._zones(raw, before), self._nodes(raw, before))
        vmstat = self._counters(raw, "vmstat", Vmstat, before.vmstat if before else None)
        meminfo = self._counters(raw, "meminfo", Meminfo, before.meminfo if before else None)
        # Where it was not written down, what is free in swap stands in for what swapping wins.
        swap_gain_kb = raw.get("swap_gain_kb", before.swap_gain_kb if before else meminfo.swap_free_kb)
        if not _is_count(swap_gain_kb):
            self._fail("swap_gain_kb is no number")
        mglru = raw.get("mglru", before.mglru if before else None)
        if not (mglru is None or isinstance(mglru, bool)):
            self._fail("mglru is not true or false")
        arc_gain_kb = raw.get("arc_gain_kb", before.arc_gain_kb if before else 0)
        if not _is_count(arc_gain_kb):
            self._fail("arc_gain_kb is no number")
        demoting = before.demoting if before else None
        if "demoting" in raw:
            demoting = self._demoting(raw["demoting"])
        events = self._events(raw["events"]) if "events" in raw else None
        self._before = Sample(time_ns, zoneinfo, vmstat, meminfo, events, swap_gain_kb, mglru, arc_gain_kb, demoting)
        return self._before

    def _zones(self, raw: Mapping[str, Any], before: Sample | None) -> tuple[Zone, ...]:
        if before is None:
            listed = self._group(raw, "zones")
            return tuple(self._updated(key, Zone, None, listed[key], {"id": self._zone_id(key)}) for key in listed)
        zones = {str(zone.id): zone for zone in before.zoneinfo.zones}
        for key, changed in self._group(raw, "zones", zones).items():
            zones[key] = self._updated(key, Zone, zones[key], changed)
        return tuple(zones.values())

    def _nodes(self, raw: Mapping[str, Any], before: Sample | None) -> tuple[Node, ...]:
        if before is None:
            listed = self._group(raw, "nodes")
            return tuple(self._updated(key, Node, None, listed[key], {"node": self._node(key)}) for key in listed)
        nodes = {str(node.node): node for node in before.zoneinfo.nodes}
        for key, changed in self._group(raw, "nodes", nodes).items():
            nodes[key] = self._updated(key, Node, nodes[key], changed)
        return tuple(nodes.values())

    def _counters(self, raw: Mapping[str, Any], name: str, kind: type[Counters], before: Counters | None) -> Counters:
        if before is not None and name not in raw:
            return before
        return self._updated(name, kind, before, raw.get(name, {}))

    def _updated(
        self,
        name: str,
        kind: type[Counters],
        before: Counters | None,
        raw: object,
        identity: Mapping[str, Any] = MappingProxyType({}),
    ) -> Counters:
        """`before` with the counters of `raw`, or a new one of them all and its `identity`."""
        if not isinstance(raw, dict):
            self._fail(f"{name} is not an object")
        optional = _COUNTERS[kind]
        values: dict[str, Any] = {}
        for key, value in raw.items():
            if key not in optional:
                self._fail(f"{name} has no counter {key[:40]!r}")
            if key == "protection_pages":
                if not isinstance(value, list) or not value or not all(map(_is_count, value)):
                    self._fail(f"{name}: protection_pages is not a row of numbers")
                value = tuple(value)
            elif not (_is_count(value) or (value is None and optional[key])):
                self._fail(f"{name}: {key} is no number")
            values[key] = value
        if before is not None:
            return replace(before, **values)
        missing = optional.keys() - values.keys()
        if missing - self._later:
            self._fail(f"{name} lacks {', '.join(sorted(missing - self._later))}")
        values |= dict.fromkeys(missing)
        return kind(**identity, **values)

    def _demoting(self, raw: object) -> frozenset[int] | None:
        if raw is not None and not (isinstance(raw, list) and all(map(_is_count, raw))):
            self._fail("demoting is not a list of nodes")
        return None if raw is None else frozenset(raw)

    def _events(self, raw: object) -> tuple[TraceEvent, ...]:
        if not isinstance(raw, list):
            self._fail("events is not a list")
        return tuple(map(self._event, raw))

    def _event(self, raw: object) -> TraceEvent:
        if not isinstance(raw, list) or len(raw) != len(_EVENT_FIELDS):
            self._fail(f"an event is not a list of {', '.join(_EVENT_FIELDS)}")
        comm, pid, time_ns, name, node, scanned, deactivated, anon = raw
        if not (isinstance(comm, str) and isinstance(name, str) and isinstance(anon, bool) and _is_count(pid)):
            self._fail("an event's comm, pid, name or anon is not what it should be")
        if not all(each is None or _is_count(each) for each in (time_ns, node, scanned, deactivated)):
            self._fail("an event has something else where a number should be")
        return TraceEvent(comm, pid, time_ns, name, node, scanned, deactivated, anon)

    def _group(self, raw: Mapping[str, Any], name: str, known: Container[str] | None = None) -> dict[str, Any]:
        """What the line says of the zones or nodes; with those that are `known`, it may be nothing."""
        group = raw.get(name, None if known is None else {})
        if not isinstance(group, dict):
            self._fail(f"no {name}")
        for key in group:
            if known is not None and key not in known:
                self._fail(f"{key[:40]!r} is not in the sample before")
        return group

    def _zone_id(self, text: str) -> ZoneId:
        try:
            return ZoneId.parse(text)
        except ValueError as error:
            self._fail(str(error)[:120])

    def _node(self, text: str) -> int:
        if not _NODE.fullmatch(text):
            self._fail(f"not a node: {text[:40]!r}")
        return int(text)

    def _object(self, line: bytes) -> dict[str, Any]:
        self._line_number += 1
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError):
            self._fail(f"not JSON: {line[:40]!r}")
        if not isinstance(raw, dict):
            self._fail(f"not a JSON object: {line[:40]!r}")
        return raw

    def _fail(self, reason: str) -> NoReturn:
        raise RecordingError(self._path, self._line_number, reason)


def _line(raw: Mapping[str, object]) -> bytes:
    return json.dumps(raw, separators=(",", ":")).encode("ascii") + b"\n"


def _layout(sample: Sample) -> tuple[tuple[ZoneId, ...], tuple[int, ...]]:
    """Which zones and nodes there are, in the kernel's order."""
    return tuple(zone.id for zone in sample.zoneinfo.zones), tuple(node.node for node in sample.zoneinfo.nodes)


def _values(counters: Counters) -> dict[str, Any]:
    return {name: getattr(counters, name) for name in _COUNTERS[type(counters)]}


def _changed(now: Counters, before: Counters) -> dict[str, Any]:
    if now == before:
        return {}
    return {name: value for name, value in _values(now).items() if value != getattr(before, name)}


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < MOST
