"""What one server leaves to the next is what was put in, or refused, whatever a server that was taken over wrote."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.carried import (
    MOST,
    Carried,
    CarriedError,
    CarriedNode,
    CarriedZone,
    Played,
    ToldLevels,
    decode,
    encode,
)
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVELS

NOW_NS = 5_000_000_000_000
LONGEST_NS = 86_400_000_000_000
NORMAL = ZoneId(0, "Normal")

past = st.integers(0, NOW_NS)
counts = st.integers(0, MOST - 1)
levels = st.integers(0, len(LEVELS) - 1)
zones = st.builds(
    CarriedZone,
    zone=st.builds(ZoneId, st.integers(0, 10**6), st.sampled_from(["DMA", "DMA32", "Normal", "HighMem", "Movable"])),
    pressed=st.booleans(),
    reason=st.sampled_from([None, "anon_scan", "anon_deactivate", "file_exhausted"]),
    time_ns=past,
    raised=counts,
    simulations=counts,
    simulated_until_ns=st.none() | st.integers(0, NOW_NS + LONGEST_NS),
    due=st.booleans(),
    told=st.none() | st.builds(ToldLevels, levels, levels, st.none() | past),
    since_ns=st.none() | past,
    simulated_level=st.sampled_from(LEVELS),
)
all_of_it = st.builds(
    Carried,
    notifications=counts,
    last_notified_ns=st.none() | past,
    zones=st.lists(zones, max_size=5, unique_by=lambda each: each.zone).map(tuple),
    nodes=st.lists(st.builds(CarriedNode, st.integers(0, 10**6), counts, counts), max_size=3).map(tuple),
    played=st.none() | st.builds(Played, past, counts),
)


@given(all_of_it)
def test_what_was_put_in(carried: Carried) -> None:
    assert decode(encode(carried), NOW_NS, LONGEST_NS) == carried


@given(st.binary(max_size=400))
def test_anything_is_understood_or_refused(data: bytes) -> None:
    with suppress(CarriedError):
        decode(data, NOW_NS, LONGEST_NS)


@given(all_of_it, st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_damage_is_refused_or_says_something_that_can_be(carried: Carried, scribbled: list[tuple[int, bytes]]) -> None:
    data = bytearray(encode(carried))
    for at, junk in scribbled:
        start = at % len(data)
        data[start : start + len(junk)] = junk[: len(data) - start]
    try:
        found = decode(bytes(data), NOW_NS, LONGEST_NS)
    except CarriedError:
        return
    assert (found.last_notified_ns or 0) <= NOW_NS
    for each in found.zones:
        assert each.zone.name.isalnum()
        assert (each.simulated_until_ns or 0) <= NOW_NS + LONGEST_NS
        assert set(each.reason or "") <= set("abcdefghijklmnopqrstuvwxyz_")


ZONE = CarriedZone(NORMAL, True, "anon_scan", NOW_NS, 1)


@pytest.mark.parametrize(
    "carried",
    [
        Carried(last_notified_ns=NOW_NS + 1),
        Carried(notifications=MOST),
        Carried(played=Played(NOW_NS + 1, 1)),
        Carried(zones=(ZONE, ZONE)),
        Carried(zones=(replace(ZONE, time_ns=NOW_NS + 1),)),
        Carried(zones=(replace(ZONE, raised=MOST),)),
        Carried(zones=(replace(ZONE, reason="two words"),)),
        Carried(zones=(replace(ZONE, reason="a\nline"),)),
        Carried(zones=(replace(ZONE, zone=ZoneId(0, "../etc")),)),
        Carried(zones=(replace(ZONE, zone=ZoneId(-1, "Normal")),)),
        Carried(zones=(replace(ZONE, simulated_until_ns=NOW_NS + LONGEST_NS + 1),)),
        Carried(zones=(replace(ZONE, told=ToldLevels(len(LEVELS), 0, None)),)),
        Carried(zones=(replace(ZONE, told=ToldLevels(0, 0, NOW_NS + 1)),)),
        Carried(zones=(replace(ZONE, since_ns=NOW_NS + 1),)),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(carried: Carried) -> None:
    with pytest.raises(CarriedError):
        decode(encode(carried), NOW_NS, LONGEST_NS)
