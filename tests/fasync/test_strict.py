"""Mode `strict`: the lines of trace_pipe that show F_SETFL, and what they say of our files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.fasync.strict import MAX_DESCRIPTORS, MAX_THREADS, AsyncFlags, SetFlags, parse_set_flags
from memnotify_cuse.kernel.tracefs import TracePipe

ALICE = 1001

LINE = b"          python-22268   [001] .....  4780.737758: sys_fcntl(fd: 4, cmd: 4, arg: 0x2800)"
SET = SetFlags(22268, 4, os.O_ASYNC | os.O_NONBLOCK)


def test_a_request() -> None:
    assert list(parse_set_flags(LINE + b"\n")) == [SET]


def test_descriptors_and_flags_are_hexadecimal() -> None:
    line = LINE.replace(b"fd: 4", b"fd: 1f").replace(b"0x2800", b"0x800")
    assert list(parse_set_flags(line + b"\n")) == [SetFlags(22268, 0x1F, os.O_NONBLOCK)]


def test_a_call_on_what_is_no_descriptor_is_skipped() -> None:
    """Any program may make it, and nothing is set by it."""
    line = (
        LINE.replace(b"fd: ", b"fd: ffffffff", 1)
        if b"fd: 0x" not in LINE
        else LINE.replace(b"fd: 0x", b"fd: 0xffffff", 1)
    )
    assert line != LINE
    assert list(parse_set_flags(line + b"\n")) == []


def test_other_commands_and_other_lines_are_skipped() -> None:
    others = [
        LINE.replace(b"cmd: 4,", b"cmd: 3,"),
        LINE.replace(b"cmd: 4,", b"cmd: 44,"),
        LINE.replace(b"sys_fcntl", b"sys_read"),
        LINE + b" more",
        LINE[:-1],
        b"CPU:1 [LOST 12 EVENTS]",
        b"",
    ]
    assert list(parse_set_flags(b"\n".join([*others, LINE, b""]))) == [SET]


@given(st.binary(max_size=16).filter(lambda name: b"\n" not in name))
def test_a_program_s_name_can_be_anything(name: bytes) -> None:
    assert list(parse_set_flags(name.rjust(16) + LINE[16:])) == [SET]


@given(st.binary())
def test_anything_parses(data: bytes) -> None:
    for request in parse_set_flags(data):
        assert request.tid >= 0


def call(tid: int, descriptor: int, flags: int, name: bytes = b"python") -> bytes:
    """The line of trace_pipe that shows a call of F_SETFL."""
    who = name[:16].rjust(16) + b"-%d" % tid
    return who + b"   [001] .....  4780.737758: sys_fcntl(fd: %x, cmd: 4, arg: 0x%x)\n" % (descriptor, flags)


class Machine:
    """Threads whose descriptors are open files of ours, or not, and the calls that they make."""

    def __init__(self) -> None:
        read_end, self._write_end = os.pipe2(os.O_NONBLOCK)
        self.trace = TracePipe(Path("/sys/kernel/tracing/instances/test"), read_end, -1)
        self.flags = AsyncFlags(self.trace)
        self.files: dict[tuple[int, int], int] = {}
        self.looked: list[tuple[int, int, int]] = []

    def close(self) -> None:
        self.trace.close()
        os.close(self._write_end)

    def show(self, data: bytes) -> None:
        assert os.write(self._write_end, data) == len(data)

    def take_in(self) -> None:
        """Read all that was shown, and find out which files were meant."""

        async def main() -> None:
            for _ in range(100):
                self.flags.read()
            await self.flags.identify(self.look)

        trio.run(main)

    async def look(self, user: int, tid: int, descriptor: int) -> tuple[int | None, int]:
        """What a helper finds; every thread is Alice's."""
        self.looked.append((user, tid, descriptor))
        await trio.lowlevel.checkpoint()
        return self.files.get((tid, descriptor)), ALICE


@pytest.fixture
def machine() -> Iterator[Machine]:
    each = Machine()
    yield each
    each.close()


def test_a_file_on_which_o_async_was_set(machine: Machine) -> None:
    machine.files = {(100, 4): 1, (100, 5): 2}
    machine.show(call(100, 4, os.O_ASYNC) + call(100, 5, os.O_NONBLOCK))
    machine.take_in()
    assert machine.flags.may_be_set(1)
    assert not machine.flags.is_guess(1)
    assert not machine.flags.may_be_set(2)
    assert not machine.flags.may_be_set(3)


def test_o_async_that_was_cleared(machine: Machine) -> None:
    machine.files = {(100, 4): 1}
    machine.show(call(100, 4, os.O_ASYNC))
    machine.take_in()
    machine.show(call(100, 4, 0))
    machine.take_in()
    assert not machine.flags.may_be_set(1)


def test_of_a_descriptor_the_last_call_counts(machine: Machine) -> None:
    """A loop of fcntl costs one look."""
    machine.files = {(100, 4): 1}
    for _ in range(100):
        machine.show(call(100, 4, os.O_ASYNC) + call(100, 4, 0))
    machine.show(call(100, 4, os.O_ASYNC))
    machine.take_in()
    assert machine.flags.may_be_set(1)
    assert machine.looked == [(-100, 100, 4)]


def test_the_last_call_counts_whichever_descriptor_of_the_file_it_was_for(machine: Machine) -> None:
    machine.files = {(100, 4): 1, (100, 5): 1}
    machine.show(call(100, 4, os.O_ASYNC) + call(100, 5, 0))
    machine.take_in()
    assert not machine.flags.may_be_set(1)
    machine.show(call(100, 5, 0) + call(100, 4, 0) + call(100, 5, os.O_ASYNC))
    machine.take_in()
    assert machine.flags.may_be_set(1)


def test_a_line_that_comes_in_two_parts(machine: Machine) -> None:
    machine.files = {(100, 4): 1}
    line = call(100, 4, os.O_ASYNC)
    for part in (line[:30], line[30:]):
        assert not machine.flags.may_be_set(1)
        machine.show(part)
        machine.take_in()
    assert machine.flags.may_be_set(1)


def test_a_thread_is_looked_into_in_the_turns_of_its_user_once_that_is_known(machine: Machine) -> None:
    """Until then it has turns of its own, as who has a new thread for each call may have."""
    machine.show(call(100, 4, os.O_ASYNC) + call(100, 5, os.O_ASYNC) + call(200, 4, os.O_ASYNC))
    machine.take_in()
    assert sorted(machine.looked) == [(-200, 200, 4), (-100, 100, 4), (ALICE, 100, 5)]
    machine.looked.clear()
    machine.show(call(200, 4, os.O_ASYNC))
    machine.take_in()
    assert machine.looked == [(ALICE, 200, 4)]


def test_threads_do_not_wait_for_each_other(machine: Machine) -> None:
    """One of them may be of a process that holds a helper up."""
    machine.files = {(100, 4): 1, (200, 4): 2}
    hangs, told = trio.Event(), []

    async def look(user: int, tid: int, descriptor: int) -> tuple[int | None, int]:
        if tid == 100:
            await hangs.wait()
        told.append(tid)
        return await machine.look(user, tid, descriptor)

    async def main() -> None:
        machine.show(call(100, 4, os.O_ASYNC) + call(200, 4, os.O_ASYNC))
        machine.flags.read()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.flags.identify, look)
            await trio.testing.wait_all_tasks_blocked()
            assert told == [200]
            assert machine.flags.may_be_set(2)
            hangs.set()

    trio.run(main)
    assert machine.flags.may_be_set(1)


def test_more_descriptors_of_a_thread_than_can_be_looked_into(machine: Machine) -> None:
    """What was dropped is not known, so every file may have O_ASYNC set but for those of which it is known."""
    machine.files = {(100, descriptor): descriptor for descriptor in range(2 * MAX_DESCRIPTORS)}
    for descriptor in range(MAX_DESCRIPTORS + 1):
        machine.show(call(100, descriptor, 0 if descriptor % 2 else os.O_ASYNC))
    machine.take_in()
    assert len(machine.looked) == MAX_DESCRIPTORS
    assert machine.flags.may_be_set(0), "dropped, so not known"
    assert machine.flags.is_guess(0)
    assert not machine.flags.may_be_set(1), "the last that was seen of it"
    assert machine.flags.may_be_set(2)
    assert not machine.flags.is_guess(2)


def test_more_threads_than_can_be_looked_into(machine: Machine) -> None:
    for tid in range(1, MAX_THREADS + 2):
        machine.show(call(tid, 4, os.O_ASYNC))
        if tid % 256 == 0:
            machine.flags.read()
    machine.take_in()
    assert len(machine.looked) == MAX_THREADS
    assert machine.flags.may_be_set(4711)


@pytest.mark.parametrize("count", [b"12 ", b""])
def test_events_that_the_kernel_has_lost(count: bytes, machine: Machine) -> None:
    machine.files = {(100, 4): 1}
    machine.show(call(100, 4, 0) + b"CPU:1 [LOST %bEVENTS]\n" % count + call(100, 5, 0))
    machine.take_in()
    assert not machine.flags.may_be_set(1)
    assert machine.flags.may_be_set(2)
    assert machine.flags.is_guess(2)


@pytest.mark.parametrize("name", [b" EVENTS]", b" EVENTS]\n", b"\nCPU:1 [LOST EV", b"CPU:1 [LOST 1 E"])
def test_nobody_can_pretend_that_events_were_lost(name: bytes, machine: Machine) -> None:
    """A program's name is in the trace, a line feed in it too."""
    machine.show(call(100, 4, 0, name))
    machine.take_in()
    assert not machine.flags.may_be_set(2)


def test_closed_files_are_forgotten(machine: Machine) -> None:
    machine.files = {(100, 4): 1, (100, 5): 2}
    machine.show(call(100, 4, os.O_ASYNC) + call(100, 5, os.O_ASYNC))
    machine.take_in()
    machine.flags.forget_all_but({2})
    assert not machine.flags.may_be_set(1)
    assert machine.flags.may_be_set(2)
