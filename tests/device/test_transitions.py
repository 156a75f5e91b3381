"""Whatever happens to an open file is in its table of transitions, in whatever order it happens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from memnotify_cuse.device.openfile import TRANSITIONS, Event, Notice
from memnotify_cuse.record import LEVELS
from tests.device.bench import ALICE, MS, NORMAL, UserBench

steps = st.lists(
    st.tuples(
        st.sampled_from(["notify", "poll", "read", "read a byte", "watch", "signal", "take back", "end"]),
        st.integers(1, 700),
        st.sampled_from(LEVELS),
    ),
    max_size=40,
)


@given(steps)
@settings(max_examples=300)
def test_nothing_happens_that_cannot(played: list[tuple[str, int, str]]) -> None:
    bench, now_ms = UserBench(), 1000
    (file,) = bench.subscribers(ALICE, 1)
    before = None
    for step, passes_ms, level in played:
        now_ms += passes_ms
        match step:
            case "notify":
                bench.notify(now_ms, level=level, rises=level != LEVELS[0])
            case "poll":
                bench.polls(file, now_ms)
            case "read":
                bench.reads(file, now_ms)
            case "read a byte":
                bench.device.read(file, 1, now_ms * MS)
            case "watch":
                bench.device.watch(file)
            case "signal":
                before = bench.device.signalled(file, now_ms * MS)
            case "take back" if before is not None:
                bench.device.not_signalled(file, before)
            case "end":
                bench.device.pressure_ended((NORMAL,), now_ms * MS)
        if not file.queued_bytes:
            assert not file.awaits_answer, "there is always something to read for whoever is told"


def test_a_notification_is_answered_twice_at_most() -> None:
    notice = TRANSITIONS[Notice.IDLE, Event.TOLD]
    answers = 0
    while (notice, Event.ANSWERED) in TRANSITIONS:
        notice = TRANSITIONS[notice, Event.ANSWERED]
        answers += 1
    assert (answers, notice) == (2, Notice.IDLE)
