"""The vmscan lines of trace_pipe: real ones, hostile command names, pieces of any size, malformed ones."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.trace import LostEvents, TraceEvent, TraceParser, parse_line, parse_trace

FIXTURES = Path(__file__).parents[1] / "fixtures"
REAL = (FIXTURES / "host-6.18" / "trace_vmscan").read_bytes()
HOSTILE = (FIXTURES / "hostile" / "trace_comms").read_bytes()
WAKE = b"         kswapd0-52      [000] d..1.  1234.567890: mm_vmscan_kswapd_wake: nid=0 order=0"
ACTIVE = (
    b"mm_vmscan_lru_shrink_active: nid=0 nr_taken=32 nr_active=0 nr_deactivated=30 nr_referenced=2 "
    b"priority=12 flags=RECLAIM_WB_ANON|RECLAIM_WB_ASYNC"
)


def test_real_lines_of_kswapd() -> None:
    events, lost = parse_trace(REAL)
    assert len(events) == REAL.count(b"\n")
    assert lost == 0
    assert events[0] == TraceEvent("kswapd0", 45, 1_597_080_843_000, "mm_vmscan_kswapd_wake", 0, None, None, anon=False)
    assert events[1] == TraceEvent(
        "kswapd0", 45, 1_597_081_192_000, "mm_vmscan_lru_shrink_active", 0, 32, 32, anon=True
    )
    inactive = next(e for e in events if e.name == "mm_vmscan_lru_shrink_inactive")
    assert (inactive.scanned_pages, inactive.deactivated_pages, inactive.anon) == (1, None, True)
    assert all(e.kswapd for e in events)


def test_hostile_command_names() -> None:
    events, lost = parse_trace(HOSTILE)
    assert lost == 123
    assert [(e.comm, e.pid) for e in events] == [
        ("my program", 4711),
        ("a-1 [000] d: 1.", 4712),
        ("-------12345678", 4713),
        ("[000] 9: x: y=z", 4714),
        ("<...>", 4715),
    ]
    assert [e.anon for e in events] == [False, True, False, False, False]
    assert [e.node for e in events] == [None, 0, 3, 1, 0]
    assert not any(e.kswapd for e in events)


@given(st.binary(max_size=15).filter(lambda name: b"\n" not in name and b"\0" not in name))
def test_any_command_name(name: bytes) -> None:
    line = b"%16s-%-7d [%03d] %s %5d.%06d: %s" % (name, 4711, 3, b"d..2.", 17, 42, ACTIVE)
    event = parse_line(line)
    assert isinstance(event, TraceEvent)
    assert event.comm == name.lstrip(b" ").decode("utf-8", "surrogateescape")
    assert (event.pid, event.time_ns, event.scanned_pages, event.deactivated_pages) == (
        4711,
        17_000_042_000,
        32,
        30,
    )


def test_line_feed_in_a_command_name_costs_no_event() -> None:
    line = b"%16s-%-7d [%03d] %s %5d.%06d: %s\n" % (b"kswapd0\nevil", 4711, 3, b"d..2.", 17, 42, ACTIVE)
    events, _lost = parse_trace(line)
    assert [(e.comm, e.pid, e.anon, e.kswapd) for e in events] == [("evil", 4711, True, False)]


@pytest.mark.parametrize(
    ("line", "time_ns"),
    [
        (b"            bash-9     (     12) [001] .....   10.000001: " + ACTIVE, 10_000_001_000),
        (b"            bash-9     (-------) [001] .....   10.000001: " + ACTIVE, 10_000_001_000),
        (b"            bash-9       [001]   10.000001: " + ACTIVE, 10_000_001_000),
        (b"            bash-9       [001] ....    10.000001: " + ACTIVE, 10_000_001_000),
        (b"            bash-1234567 [1023] .....     1234567: " + ACTIVE, None),
    ],
)
def test_other_options_and_clocks(line: bytes, time_ns: int | None) -> None:
    event = parse_line(line)
    assert isinstance(event, TraceEvent)
    assert (event.comm, event.time_ns, event.scanned_pages) == ("bash", time_ns, 32)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"# tracer: nop",
        b"  text without any form",
        b"          <idle>-0       [000] d..2.  1372.151151: sched_switch: prev_comm=x ==> next_comm=y",
        b"            bash-9       [001] .....   10.000001: mm_vmscan_lru_isolate: classzone=2 order=0",
        b"CPU:0 [LOST many EVENTS]",
    ],
)
def test_other_lines_are_skipped(line: bytes) -> None:
    assert parse_line(line) is None


def test_lost_events() -> None:
    assert parse_line(b"CPU:12 [LOST 345 EVENTS]") == LostEvents(345)
    # Older kernels do not always know the number: there was at least one.
    assert parse_line(b"CPU:12 [LOST EVENTS]") == LostEvents(1)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"nid=0", b"nid=x", "nid is no number"),
        (b"nid=0 ", b"", "without nid="),
        (b"nr_taken=32", b"nr_taken=-1", "nr_taken is no number"),
        (b"nr_taken=32", b"nr_taken=" + b"1" * 30, "nr_taken is no number"),
        (b"nr_deactivated=30 ", b"", "without nr_deactivated="),
        (b"flags=", b"flag=", "without flags="),
        (b"priority=12", b"priority", "expected key=value"),
    ],
)
def test_malformed_known_event(old: bytes, new: bytes, reason: str) -> None:
    line = b"            bash-9       [001] .....   10.000001: " + ACTIVE
    assert old in line
    with pytest.raises(MalformedKernelFileError, match=reason):
        parse_line(line.replace(old, new))


def test_the_parser_goes_on_after_a_malformed_event() -> None:
    parser = TraceParser("a/trace_pipe")
    with pytest.raises(MalformedKernelFileError, match=r"a/trace_pipe:2: .*nid") as caught:
        parser.feed(WAKE + b"\n" + WAKE.replace(b"nid=0", b"nid=?") + b"\n" + WAKE + b"\n")
    assert caught.value.line_number == 2
    assert len(parser.feed(b"")) == 2
    assert parser.feed(b"") == []


@given(st.lists(st.integers(1, 200), max_size=40))
def test_pieces_of_any_size_give_the_same_events(sizes: list[int]) -> None:
    data = HOSTILE + REAL[:3000]
    parser = TraceParser()
    events: list[TraceEvent] = []
    position = 0
    for size in sizes:
        events += parser.feed(data[position : position + size])
        position += size
    events += parser.feed(data[position:])
    whole = TraceParser()
    assert events == whole.feed(data)
    assert parser.lost_events == whole.lost_events == 123


def test_an_endless_line_is_not_kept() -> None:
    parser = TraceParser()
    tracemalloc.start()
    try:
        for _ in range(1000):
            assert parser.feed(b"x" * 1000) == []
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert parser.lost_events == 1
    assert len(parser.feed(b"the end of it\n" + WAKE + b"\n")) == 1


@given(st.data())
def test_mutated_data_parses_or_is_malformed(data: st.DataObject) -> None:
    text = HOSTILE + REAL[:2000]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 100)))
    with contextlib.suppress(MalformedKernelFileError):
        parse_trace(text[:start] + data.draw(st.binary(max_size=30)) + text[end:])


@given(st.text())
def test_arbitrary_text_is_skipped(text: str) -> None:
    assert parse_trace(text) == ([], 0)
