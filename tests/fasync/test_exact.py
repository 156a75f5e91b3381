"""Mode `auto`: what the calls in a trace say of our files, and from when on nothing is known."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from memnotify_cuse.fasync.exact import CHECK_S, MAX_STRANGERS
from memnotify_cuse.fasync.jobs import MARK_COUNT, MARK_FIRST
from memnotify_cuse.kernel.kprobes import F_SETFL, F_SETOWN, F_SETOWN_EX, F_SETSIG
from tests.fasync.kernel_calls import MICROSECOND, OWNER, SECOND, Kernel, found


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    each = Kernel()
    yield each
    each.close()


def test_set_and_cleared(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    assert kernel.state(1) == "not known"
    for _ in range(2):
        kernel.call(0xA, F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        assert kernel.state(1) == "set"
        kernel.call(0xA, F_SETFL, os.O_NONBLOCK)
        assert kernel.state(1) == "cleared"


def test_calls_before_it_is_known_which_file_they_are_for(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.call(0xA, F_SETOWN, 100)
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    assert kernel.state(1) == "not known"
    kernel.looks(1, 0xA)
    assert kernel.state(1) == "set"
    assert kernel.calls.owner(1) == OWNER


def test_other_flags_do_not_clear_what_was_never_set(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.call(0xA, F_SETFL, os.O_NONBLOCK)
    assert kernel.state(1) == "not known"


def test_calls_for_others_do_not_count(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.call(0xB, F_SETFL, os.O_ASYNC)
    kernel.call(0xB, F_SETOWN, 1)
    assert kernel.state(1) == "not known"
    assert kernel.calls.owner(1) == OWNER


@pytest.mark.parametrize("cmd", [F_SETOWN, F_SETOWN_EX, F_SETSIG])
def test_a_known_owner_holds_until_a_call_changes_it(cmd: int, kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    assert kernel.calls.owner(1) == OWNER
    assert not kernel.calls.owner_changed(1)
    kernel.call(0xA, cmd, 5)
    assert kernel.calls.owner(1) is None
    assert kernel.calls.is_owned(1) is None
    assert kernel.calls.owner_changed(1)
    other = OWNER._replace(pid=200)
    kernel.looks(1, 0xA, other)
    assert kernel.calls.owner(1) == other


def test_a_file_without_an_owner_needs_no_other_look(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA, None, owned=False)
    assert kernel.calls.is_owned(1) is False
    assert kernel.calls.owner(1) is None


def test_an_owner_that_has_to_be_looked_for_each_time(kernel: Kernel) -> None:
    """A group, or a process that has no descriptor of its own."""
    kernel.opens(1)
    kernel.looks(1, 0xA, None)
    assert kernel.calls.is_owned(1) is True
    assert kernel.calls.owner(1) is None


def test_an_owner_that_has_ended(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.calls.owner_is_gone(1, OWNER)
    assert kernel.calls.is_owned(1) is False
    kernel.call(0xA, F_SETOWN, 200)
    assert kernel.calls.is_owned(1) is None


def test_a_look_that_began_earlier_and_is_told_later_does_not_count(kernel: Kernel) -> None:
    kernel.opens(1)
    early, late = kernel.calls.new_mark(), kernel.calls.new_mark()
    kernel.call(0xA, F_SETOWN_EX, early + 1)
    kernel.call(0xA, F_SETOWN, 200)
    kernel.call(0xA, F_SETOWN_EX, late + 1)
    now = OWNER._replace(pid=200)
    kernel.calls.found(found(1, late + 1, now))
    kernel.calls.found(found(1, early + 1))
    assert kernel.calls.owner(1) == now


def test_a_pointer_that_another_file_had(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    kernel.closes(1)
    kernel.opens(2)
    kernel.looks(2, 0xA, None, owned=False)
    assert kernel.state(2) == "not known"
    kernel.call(0xA, F_SETFL, 0)
    assert kernel.state(2) == "not known", "it was set on the other file"
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    assert kernel.state(2) == "set"


def test_calls_between_close_and_open_by_a_file_that_is_not_ours(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.closes(1)
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    kernel.opens(2)
    kernel.looks(2, 0xA)
    assert kernel.state(2) == "not known"


def test_the_pointer_of_a_file_whose_close_comes_late(kernel: Kernel) -> None:
    """Its release is on its way while another file has its place."""
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.opens(2)
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    kernel.looks(2, 0xA)
    assert kernel.state(2) == "set"
    assert kernel.state(1) == "not known"
    kernel.closes(1)
    kernel.calls.forget_all_but({2})
    kernel.call(0xA, F_SETFL, 0)
    assert kernel.state(2) == "cleared"


def test_a_mark_that_nobody_was_given_is_a_call_like_any_other(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.call(0xA, F_SETOWN_EX, MARK_FIRST + 5)
    assert kernel.calls.owner(1) is None
    over = kernel.calls.new_mark()
    kernel.calls.end_marks([over])
    kernel.call(0xB, F_SETOWN_EX, over)
    kernel.calls.found(found(1, over))
    assert kernel.calls.owner(1) is None


def test_marks_are_addresses_that_no_program_has(kernel: Kernel) -> None:
    """On any architecture: the highest bits are set, and so is bit 55, from which arm64 makes them up."""
    marks = {kernel.calls.new_mark() for _ in range(1000)}
    assert len(marks) == 1000
    assert all(mark >> 55 == 0x1FF and not mark % MARK_COUNT for mark in marks)


def test_after_a_loss_nothing_is_known(kernel: Kernel) -> None:
    for number, pointer in ((1, 0xA), (2, 0xB), (3, 0xC)):
        kernel.opens(number)
        kernel.looks(number, pointer)
        kernel.call(pointer, F_SETFL, os.O_ASYNC)
    kernel.call(0xB, F_SETFL, 0)
    kernel.call(0xC, F_SETFL, os.O_ASYNC, lost=True)
    assert [kernel.state(number) for number in (1, 2, 3)] == ["not known", "not known", "set"]
    assert [kernel.calls.owner(number) for number in (1, 2, 3)] == [None] * 3
    kernel.call(0xA, F_SETFL, 0)
    kernel.looks(2, 0xB)
    assert kernel.state(1) == "cleared"
    assert kernel.calls.owner(2) == OWNER


def test_a_loss_before_a_file_was_opened_does_not_matter(kernel: Kernel) -> None:
    """As when nobody has read the trace because there were no open files."""
    kernel.call(0xF, F_SETOWN, 1, lost=True)
    kernel.opens(1)
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    kernel.looks(1, 0xA)
    assert kernel.state(1) == "set"
    assert kernel.calls.owner(1) == OWNER


def test_what_a_server_before_had_read_is_not_known(kernel: Kernel) -> None:
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    kernel.calls.assume_lost()
    kernel.opens(1)
    kernel.looks(1, 0xA)
    assert kernel.state(1) == "not known"
    kernel.call(0xA, F_SETFL, 0)
    assert kernel.state(1) == "not known", "armed by its owner alone"
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    assert kernel.state(1) == "set"


def test_a_mark_that_does_not_arrive_is_a_loss(kernel: Kernel) -> None:
    """Overwritten by others, or the trace is off."""
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    kernel.calls.found(found(1, kernel.calls.new_mark()))
    assert kernel.state(1) == "not known"
    assert kernel.calls.owner(1) is None


def test_a_trace_that_somebody_switches_off_is_switched_on_again(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.switch_off()
    kernel.now_ns += int(CHECK_S * SECOND) + 1
    kernel.calls.read()
    assert kernel.is_on
    assert kernel.calls.owner(1) is None, "calls may be missing"
    kernel.looks(1, 0xA)
    assert kernel.calls.owner(1) == OWNER


def test_a_trace_that_cannot_be_read_is_the_end_of_it(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.trace.close()
    kernel.calls.read()
    kernel.calls.read()
    assert not kernel.calls.works
    assert kernel.calls.owner(1) is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_strangers_are_forgotten_and_that_is_a_loss(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    for pointer in range(0x1000, 0x1000 + MAX_STRANGERS + 1):
        kernel.call(pointer, F_SETOWN, 1)
    kernel.looks(1, 0xA)
    assert kernel.state(1) == "not known"
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    assert kernel.state(1) == "set"


def test_files_that_calls_were_made_for_are_told_of_once(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.calls.take_changed()
    kernel.call(0xA, F_SETFL, os.O_ASYNC)
    kernel.call(0xA, F_SETOWN, 1)
    kernel.call(0xB, F_SETOWN, 1)
    assert kernel.calls.take_changed() == [1]
    assert kernel.calls.take_changed() == []


def test_a_line_that_comes_in_two_parts(kernel: Kernel) -> None:
    kernel.opens(1)
    kernel.looks(1, 0xA)
    kernel.later()
    seconds, microseconds = divmod(kernel.now_ns // MICROSECOND, 1_000_000)
    line = f"a-1 [000] ..... {seconds}.{microseconds:06}: fcntl: (security_file_fcntl+0x0/0x60) "
    line += "file=0xa cmd=4 arg=0x2000\n"
    for part in (line[:40], line[40:]):
        assert kernel.state(1) == "not known"
        kernel.show(part.encode())
        kernel.calls.read()
    assert kernel.state(1) == "set"
