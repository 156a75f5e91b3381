"""A signal that was announced and not sent: the file is told, and has its place, as if it had never been announced."""

from __future__ import annotations

import pytest

from memnotify_cuse.record import LEVEL_CRITICAL
from tests.device.bench import ALICE, BOB, DMA32, MS, NORMAL, UserBench


@pytest.fixture
def bench() -> UserBench:
    return UserBench()


def test_the_file_is_not_readable_and_its_poll_sleeper_gets_its_wake(bench: UserBench) -> None:
    (file,) = bench.subscribers(ALICE, 1)
    bench.open(ALICE)
    bench.notify(1000)
    before = bench.announces(file, 1000)
    bench.device.watch(file)
    bench.device.not_signalled(file, before)
    bench.notify(1200)
    assert bench.woken() == [file]
    assert bench.polls(file, 1201)


def test_nothing_is_left_to_be_read(bench: UserBench) -> None:
    (file,) = bench.subscribers(ALICE, 1)
    bench.notify(1000)
    bench.device.not_signalled(file, bench.announces(file, 1000))
    bench.device.pressure_ended((NORMAL,), 1010 * MS)
    assert not bench.polls(file, 1020)
    assert bench.reads(file, 1020) is None


def test_the_guard_time_runs_from_when_it_was_told_before(bench: UserBench) -> None:
    (file,) = bench.subscribers(ALICE, 1)
    bench.notify(1000)
    assert bench.polls(file, 1000)
    assert bench.reads(file, 1000)
    bench.notify(1250)
    bench.device.not_signalled(file, bench.announces(file, 1250))
    assert bench.polls(file, 1260)


def test_the_files_keep_their_places_and_the_user_its_turn(bench: UserBench) -> None:
    alices, bobs = bench.subscribers(ALICE, 40), bench.subscribers(BOB, 40)
    bench.notify(1000)
    picked = bench.picks(1000)
    assert picked == [alices[0], bobs[0], alices[1], bobs[1], alices[2], bobs[2]]
    for file, before in [(file, bench.announces(file, 1000)) for file in picked]:
        bench.device.not_signalled(file, before)
    assert {file.user: file for file in reversed(bench.picks(1000))} == {ALICE: alices[0], BOB: bobs[0]}
    assert [file for file in bench.picks(1000) if file.user == ALICE] == alices[:3]


def test_a_user_whose_only_signal_was_taken_back_is_first_again(bench: UserBench) -> None:
    (alice,), (bob,) = bench.subscribers(ALICE, 1), bench.subscribers(BOB, 1)
    bench.notify(1000)
    bench.device.not_signalled(alice, bench.announces(alice, 1000))
    assert bench.picks(1000) == [alice, bob]


def test_one_that_went_to_the_end_later_stays_there(bench: UserBench) -> None:
    files = bench.subscribers(ALICE, 40)
    bench.notify(1000)
    before = bench.announces(files[0], 1000)
    bench.announces(files[1], 1000)
    bench.device.not_signalled(files[0], before)
    assert bench.picks(1000) == [files[0], *files[2:4]]


@pytest.mark.parametrize("answer", ["poll", "read"])
def test_what_the_program_was_told_meanwhile_stays_told(answer: str, bench: UserBench) -> None:
    (file,) = bench.subscribers(ALICE, 1)
    bench.open(ALICE)
    bench.notify(1000)
    before = bench.announces(file, 1000)
    assert bench.polls(file, 1001) if answer == "poll" else bench.reads(file, 1001)
    bench.device.not_signalled(file, before)
    assert bench.picks(1010) == [], "its guard time runs"
    assert bool(bench.reads(file, 1010)) == (answer == "poll")


def test_a_wake_before_it_is_not_taken_back(bench: UserBench) -> None:
    (file,) = bench.sleepers(ALICE, 1)
    bench.device.subscribe(file, subscribed=True)
    bench.notify(1000)
    assert bench.woken() == [file]
    bench.device.not_signalled(file, bench.announces(file, 1001))
    assert bench.polls(file, 1002)


def test_a_wake_before_it_is_withdrawn_with_its_pressure(bench: UserBench) -> None:
    (file,) = bench.sleepers(ALICE, 1)
    bench.device.subscribe(file, subscribed=True)
    bench.notify(1000)
    bench.device.not_signalled(file, bench.announces(file, 1001))
    bench.device.pressure_ended((NORMAL,), 1010 * MS)
    assert not bench.polls(file, 1020)


def test_a_wake_after_it_is_not_taken_back(bench: UserBench) -> None:
    (file,) = bench.sleepers(ALICE, 1)
    bench.device.subscribe(file, subscribed=True)
    bench.notify(1000, DMA32)
    bench.woken()
    bench.device.watch(file)
    before = bench.announces(file, 1001)
    bench.notify(1200, level=LEVEL_CRITICAL, rises=True)
    assert bench.woken() == [file]
    bench.device.not_signalled(file, before)
    assert bench.polls(file, 1201)


def test_a_record_that_pollin_announced_stays_to_be_read(bench: UserBench) -> None:
    (file,) = bench.subscribers(ALICE, 1)
    bench.notify(1000)
    assert bench.polls(file, 1000)
    bench.notify(1250)
    bench.device.not_signalled(file, bench.announces(file, 1250))
    bench.device.pressure_ended((NORMAL,), 1260 * MS)
    assert bench.reads(file, 1270)


def test_a_rise_is_signalled_again(bench: UserBench) -> None:
    files = bench.subscribers(ALICE, 2)
    bench.notify(1000, level=LEVEL_CRITICAL, rises=True)
    for file, before in [(file, bench.announces(file, 1000)) for file in bench.picks(1000)]:
        bench.device.not_signalled(file, before)
    bench.notify(1200, level=LEVEL_CRITICAL)
    assert bench.signal(1200) == files
    assert bench.reads(files[0], 1210)


def test_a_poll_finds_a_rise_although_the_guard_time_runs(bench: UserBench) -> None:
    (file,) = bench.subscribers(ALICE, 1)
    bench.notify(1000)
    assert bench.polls(file, 1000)
    assert bench.reads(file, 1000)
    bench.notify(1100, level=LEVEL_CRITICAL, rises=True)
    bench.device.not_signalled(file, bench.announces(file, 1100))
    assert bench.polls(file, 1110)


def test_after_a_later_signal_an_earlier_one_cannot_be_taken_back(bench: UserBench) -> None:
    (file,) = bench.subscribers(ALICE, 1)
    bench.notify(1000)
    first = bench.announces(file, 1000)
    bench.announces(file, 1200)
    bench.device.not_signalled(file, first)
    assert bench.picks(1210) == []


def test_after_the_pressure_has_ended_the_guard_time_of_the_next_is_not_lost(bench: UserBench) -> None:
    (file,) = bench.subscribers(ALICE, 1)
    bench.notify(1000)
    before = bench.announces(file, 1000)
    bench.device.pressure_ended((NORMAL,), 1010 * MS)
    bench.device.not_signalled(file, before)
    bench.notify(1100)
    assert bench.picks(1100) == [file]


def test_a_closed_file_is_left_alone(bench: UserBench) -> None:
    (file,) = bench.subscribers(ALICE, 1)
    bench.notify(1000)
    before = bench.announces(file, 1000)
    bench.device.close(file)
    bench.device.not_signalled(file, before)
    assert (bench.device.subscribers, bench.device.open_files) == (0, 0)
