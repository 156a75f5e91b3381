"""The format of recordings: what is written is read again, and what is not one is said."""

from __future__ import annotations

import json
import string
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memnotify_cuse.kernel.meminfo import Meminfo
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.kernel.vmstat import Vmstat
from memnotify_cuse.kernel.zoneinfo import Node, Zone, ZoneId, Zoneinfo
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.machine import Machine
from memnotify_cuse.scanner.recording import (
    FORMAT,
    Decoder,
    Header,
    SampleEncoder,
    encode_header,
)
from memnotify_cuse.scanner.sample import Sample
from tests.scanner.samples import CLASSIC, direct_begin, sample, shrink, zone

HEADER = Header(CLASSIC, "6.18.44", "tracefs")

counts = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))
maybe = st.none() | counts
# As the trace's parser decodes them: any bytes.
comms = st.binary(max_size=15).map(lambda name: name.decode("utf-8", "surrogateescape"))
zone_ids = st.builds(ZoneId, st.integers(0, 3), st.text(string.ascii_letters + string.digits, min_size=1, max_size=8))


def _counters(kind: type[Any], **identity: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    values: dict[str, st.SearchStrategy[Any]] = {}
    for each in fields(kind):
        values[each.name] = maybe if "None" in str(each.type) else counts
    return st.builds(kind, **(values | identity))


@st.composite
def recordings(draw: st.DrawFn) -> list[Sample]:
    """A recording of a few samples; now and then the zones change, and most counters stay as they are."""
    found: list[Sample] = []
    each: Sample
    time_ns = 0
    for _ in range(draw(st.integers(1, 4))):
        time_ns += draw(counts) % 10**12
        stays: bool = draw(st.booleans())
        if found and stays:
            each = replace(found[-1], vmstat=replace(found[-1].vmstat, pgscan_kswapd=draw(maybe)))
        else:
            ids = draw(st.lists(zone_ids, unique=True, max_size=3))
            rows = st.lists(counts, min_size=1, max_size=3).map(tuple)
            zones = tuple(draw(_counters(Zone, id=st.just(each), protection_pages=rows)) for each in ids)
            nodes = tuple(draw(_counters(Node, node=st.just(node))) for node in dict.fromkeys(i.node for i in ids))
            each = Sample(0, Zoneinfo(zones, nodes), draw(_counters(Vmstat)), draw(_counters(Meminfo)))
        events = draw(st.none() | st.lists(_counters(TraceEvent, comm=comms, name=st.text(), anon=st.booleans())))
        mglru = draw(st.none() | st.booleans())
        found.append(replace(each, time_ns=time_ns, mglru=mglru, events=None if events is None else tuple(events)))
    return found


def decoded(lines: list[bytes]) -> tuple[Header, list[Sample]]:
    decoder = Decoder("a recording")
    return decoder.header(lines[0]), [decoder.sample(line) for line in lines[1:]]


def encoded(recorded: list[Sample], header: Header = HEADER) -> list[bytes]:
    encoder = SampleEncoder()
    return [encode_header(header), *map(encoder.encode, recorded)]


# Dozens of counters are drawn for each sample, and the machine may be busy.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recordings())
def test_any_samples_are_read_as_they_were_written(recorded: list[Sample]) -> None:
    lines = encoded(recorded)
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
    assert decoded(lines) == (HEADER, recorded)


@settings(deadline=None)
@given(
    st.builds(Machine, mglru=st.booleans(), page_kb=st.integers(1, 1024)),
    st.none() | st.text(),
    st.text(),
    st.text(),
    st.dictionaries(st.text(), counts),
)
def test_any_header_is_read_as_it_was_written(
    machine: Machine, kernel: str | None, wakeup: str, title: str, marks: dict[str, int]
) -> None:
    header = Header(machine, kernel, wakeup, title, marks)
    assert decoded([encode_header(header)]) == (header, [])


def test_a_line_holds_what_changed() -> None:
    first = sample(zone(free=5), zone("Movable"), events=[])
    second = sample(zone(free=4), zone("Movable"), time_ms=20, pgscan_kswapd=7, events=[direct_begin()])
    line = encoded([first, second])[2]
    assert json.loads(line) == {
        "time_ns": 20_000_000,
        "zones": {"node0-Normal": {"free_pages": 4}},
        "vmstat": {"pgscan_kswapd": 7},
        "events": [["cc1", 4711, 1, "mm_vmscan_direct_reclaim_begin", None, None, None, False]],
    }


def test_a_zone_that_comes_or_goes_makes_a_line_of_all() -> None:
    recorded = [sample(zone()), sample(zone(), zone("Movable"), time_ms=1), sample(zone(), time_ms=2)]
    lines = encoded(recorded)
    assert all(json.loads(line)["whole"] is True for line in lines[1:])
    assert decoded(lines)[1] == recorded


def _without(group: str, name: str) -> bytes:
    raw = json.loads(encoded([sample()])[1])
    where = next(iter(raw[group].values())) if group in ("zones", "nodes") else raw[group]
    del where[name]
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (_without("vmstat", "pgscan_anon"), "vmstat lacks pgscan_anon"),
        (_without("meminfo", "swap_free_kb"), "meminfo lacks swap_free_kb"),
        (_without("zones", "high_pages"), "node0-Normal lacks high_pages"),
        (_without("nodes", "mapped_pages"), "0 lacks mapped_pages"),
        (b'{"time_ns":1}', "the first sample is not a whole one"),
        (b'{"time_ns":1,"whole":true}', "no zones"),
        (b'{"time_ns":1,"whole":true,"zones":{"Normal":{}},"nodes":{}}', "not a zone: 'Normal'"),
        (b'{"time_ns":1,"whole":true,"zones":{},"nodes":{"-1":{}}}', "not a node: '-1'"),
        (b'{"time_ns":1,"whole":true,"zones":{},"nodes":{}}', "vmstat lacks allocstall, "),
        (b"", "not JSON: b''"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5000, "not JSON"),
        (b"[]", "not a JSON object"),
    ],
)
def test_a_malformed_first_sample_is_named_with_its_line(line: bytes, reason: str) -> None:
    with pytest.raises(RecordingError) as caught:
        decoded([encode_header(HEADER), line])
    assert str(caught.value).startswith("a recording:2: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"time_ns": None}, "no time_ns"),
        ({"time_ns": True}, "no time_ns"),
        ({"time_ns": -1}, "no time_ns"),
        ({"time_ns": 4_000_000}, "is before that of the sample before"),
        ({"surplus": 1}, "unknown: 'surplus'"),
        ({"zones": []}, "no zones"),
        ({"zones": {"node1-Normal": {}}}, "'node1-Normal' is not in the sample before"),
        ({"zones": {"node0-Normal": 5}}, "node0-Normal is not an object"),
        ({"zones": {"node0-Normal": {"free_pages": "5"}}}, "node0-Normal: free_pages is no number"),
        ({"zones": {"node0-Normal": {"free_pages": 5.0}}}, "free_pages is no number"),
        ({"zones": {"node0-Normal": {"free_pages": None}}}, "free_pages is no number"),
        ({"zones": {"node0-Normal": {"free_pages": 10**20}}}, "free_pages is no number"),
        ({"zones": {"node0-Normal": {"id": "node0-DMA"}}}, "node0-Normal has no counter 'id'"),
        ({"zones": {"node0-Normal": {"protection_pages": []}}}, "protection_pages is not a row of numbers"),
        ({"zones": {"node0-Normal": {"protection_pages": 5}}}, "protection_pages is not a row of numbers"),
        ({"nodes": {"3": {}}}, "'3' is not in the sample before"),
        ({"vmstat": {"pgscan_all": 1}}, "vmstat has no counter 'pgscan_all'"),
        ({"meminfo": None}, "meminfo is not an object"),
        ({"events": None}, "events is not a list"),
        ({"events": [["kswapd0"]]}, "an event is not a list of comm, pid, "),
        ({"events": [[1, 50, 1, "x", 0, 32, None, True]]}, "an event's comm"),
        ({"events": [["kswapd0", 50, "soon", "x", 0, 32, None, True]]}, "something else where a number"),
    ],
)
def test_a_malformed_change_is_named_with_its_line(change: dict[str, object], reason: str) -> None:
    line = json.dumps({"time_ns": 6_000_000, **change}).encode()
    with pytest.raises(RecordingError, match=r"^a recording:3: ") as caught:
        decoded([*encoded([sample(time_ms=5, events=[shrink()])]), line])
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "not a recording of memnotify"),
        ({"version": 6}, "version 6 of the format; this memnotify reads versions 1 to 5"),
        ({"version": True}, "version True of the format"),
        ({"version": None}, "version None of the format"),
        ({"page_kb": 0}, "no page_kb"),
        ({"mglru": 1}, "no mglru"),
        ({"wakeup": None}, "no wakeup source"),
        ({"kernel": 6}, "kernel and title must be text"),
        ({"marks": {"first": "now"}}, "marks must be times by name"),
    ],
)
def test_a_malformed_header_is_named(change: dict[str, object], reason: str) -> None:
    raw = json.loads(encode_header(HEADER)) | change
    with pytest.raises(RecordingError, match=r"^a recording:1: ") as caught:
        decoded([json.dumps(raw).encode()])
    assert reason in str(caught.value)


def test_a_header_may_say_more_than_this_version_knows() -> None:
    raw = json.loads(encode_header(HEADER)) | {"weather": "fine"}
    assert raw["format"] == FORMAT
    assert decoded([json.dumps(raw).encode()]) == (HEADER, [])


def test_the_first_version_had_no_count_of_shared_memory() -> None:
    header, first = encoded([sample(time_ms=5)])
    raw = json.loads(first)
    del raw["nodes"]["0"]["shmem_pages"]
    old = [json.dumps(json.loads(header) | {"version": 1, "doorbell": "tracefs"}).encode(), json.dumps(raw).encode()]
    _, (read,) = decoded(old)
    assert read.zoneinfo.nodes[0].shmem_pages is None
    with pytest.raises(RecordingError, match="0 lacks shmem_pages"):
        decoded([header, old[1]])
