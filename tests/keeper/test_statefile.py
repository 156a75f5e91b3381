"""The state file, as one server writes it and the next one reads it: real memfds."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memnotify_cuse.keeper.statefile import (
    GIVEN_BACK_FROM,
    LAYOUT,
    MAGIC,
    MAX_INIT_BYTES,
    MAX_ZONES,
    NEVER,
    NUMBERS_AHEAD,
    PRESSURE_BYTES,
    RECORD_BYTES,
    REQUEST_BYTES,
    SAMPLE_BYTES,
    SLOTS,
    STATE_BYTES,
    FileFlag,
    KnownFile,
    StateError,
    StateFile,
    Told,
    create_state,
)

NORMAL = (0, "Normal")
PAGE = 4096
NOTHING = Told(NEVER, FileFlag(0), b"", 0)


@pytest.fixture
def fd() -> Iterator[int]:
    made = create_state()
    yield made
    os.close(made)


def begun(fd: int) -> StateFile:
    state = StateFile(fd)
    state.begin()
    return state


def used_bytes(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


class TestFiles:
    def test_the_next_server_knows_what_was_noted(self, fd: int) -> None:
        first = begun(fd)
        one, other = first.next_number(), first.next_number()
        first.note_file(one, 0, 1000, NORMAL, 10, 11)
        first.note_file(other, 1, 4_000_000_000, None, 0, 0)
        first.note_waiting(one, 0xFFFF_FFFF_FFFF_FFFF, 12)
        told = Told(5, FileFlag.PENDING | FileFlag.ANSWERED, b"half\nwhole\n", 5)
        first.note_told(other, told)
        second = begun(fd)
        assert list(second.files(0)) == [
            KnownFile(one, 0, 1000, NORMAL, 10, 12, 0xFFFF_FFFF_FFFF_FFFF, Told(NEVER, FileFlag.WAITING, b"", 0))
        ]
        assert list(second.files(1)) == [KnownFile(other, 1, 4_000_000_000, None, 0, 0, 0, told)]

    def test_what_is_told_later_holds(self, fd: int) -> None:
        state = begun(fd)
        number = state.next_number()
        state.note_file(number, 0, 0, None, 1, 1)
        state.note_waiting(number, 7, 1)
        state.note_told(number, Told(1, FileFlag.PENDING, b"a long record\n", 0))
        state.note_told(number, Told(2, FileFlag(0), b"", 0))
        (known,) = begun(fd).files(0)
        assert (known.kh, known.told) == (7, Told(2, FileFlag(0), b"", 0))

    def test_a_held_read_does_not_take_the_poll_handle_away(self, fd: int) -> None:
        state = begun(fd)
        number = state.next_number()
        state.note_file(number, 0, 0, None, 1, 1)
        state.note_waiting(number, 7, 1)
        state.note_waiting(number, 0, 2)
        (known,) = begun(fd).files(0)
        assert (known.kh, known.user_tid) == (7, 2)

    def test_a_file_that_was_closed_is_forgotten(self, fd: int) -> None:
        state = begun(fd)
        number = state.next_number()
        state.note_file(number, 0, 0, None, 1, 1)
        state.forget_file(number)
        assert list(begun(fd).files(0)) == []

    def test_what_does_not_fit_is_left_out(self, fd: int) -> None:
        state = begun(fd)
        number = state.next_number()
        state.note_file(number, 0, 0, None, 1, 1)
        state.note_told(number, Told(1, FileFlag(0), bytes(RECORD_BYTES + 1), 3))
        (known,) = begun(fd).files(0)
        assert (known.told.queue, known.told.partial_bytes) == (b"", 0)

    @given(st.lists(st.tuples(st.integers(4096, 4096 + 8192), st.binary(min_size=1, max_size=64)), max_size=20))
    @settings(max_examples=50)
    def test_whatever_is_in_it_it_can_be_read(self, scribbled: list[tuple[int, bytes]]) -> None:
        """A server that was taken over writes what it likes."""
        fd = create_state()
        try:
            state = begun(fd)
            for _ in range(100):
                state.note_file(state.next_number(), 0, 0, NORMAL, 1, 1)
            for at, junk in scribbled:
                os.pwrite(fd, junk, at)
            following = begun(fd)
            for known in following.files(0):
                assert len(known.told.queue) <= RECORD_BYTES
            assert following.next_number()
        finally:
            os.close(fd)


class TestNumbers:
    def test_each_is_above_all_before_whichever_server_gave_it_out(self, fd: int) -> None:
        last = 0
        for _ in range(3):
            state = begun(fd)
            for _ in range(NUMBERS_AHEAD + 5):
                number = state.next_number()
                assert number > last
                last = number
                if number % 3:
                    state.note_file(number, 0, 0, None, 1, 1)

    def test_no_two_open_files_have_the_same_slot(self, fd: int) -> None:
        state = begun(fd)
        numbers = [state.next_number() for _ in range(1000)]
        for number in numbers:
            state.note_file(number, 0, 0, None, 1, 1)
        for number in numbers[::2]:
            state.forget_file(number)
        state = begun(fd)
        more = [state.next_number() for _ in range(600)]
        slots = [number % SLOTS for number in (*numbers[1::2], *more)]
        assert len(set(slots)) == len(slots)
        assert max(slots) < 1200, "those that are free are used again"

    def test_a_file_that_was_not_noted_in_time_can_be_noted_later(self, fd: int) -> None:
        number = begun(fd).next_number()
        state = begun(fd)
        assert state.has_room_for(number)
        state.note_file(number, 0, 0, None, 1, 1)
        assert not state.has_room_for(number)
        assert state.next_number() % SLOTS != number % SLOTS

    def test_all_slots(self, fd: int) -> None:
        state = begun(fd)
        assert len({state.next_number() % SLOTS for _ in range(SLOTS)}) == SLOTS
        with pytest.raises(LookupError):
            state.next_number()


class TestMemory:
    def test_it_takes_none_for_what_is_not_used(self, fd: int) -> None:
        state = begun(fd)
        list(state.files(0))
        assert state.journal(0).left == []
        assert used_bytes(fd) <= mmap.PAGESIZE

    def test_it_is_given_back(self, fd: int) -> None:
        state = begun(fd)
        numbers = [state.next_number() for _ in range(2 * GIVEN_BACK_FROM)]
        for number in numbers:
            state.note_file(number, 0, 0, None, 1, 1)
            state.note_told(number, Told(1, FileFlag(0), b"x" * 200, 0))
        assert used_bytes(fd) > 2 * GIVEN_BACK_FROM * (64 + 200)
        for number in numbers:
            state.forget_file(number)
        assert used_bytes(fd) <= mmap.PAGESIZE
        number = state.next_number()
        state.note_file(number, 0, 0, None, 1, 1)
        assert [known.number for known in begun(fd).files(0)] == [number]

    def test_nobody_can_change_its_size(self, fd: int) -> None:
        """A server that was taken over could end the next one by it."""
        for size in (0, STATE_BYTES + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)


class TestHeader:
    def test_the_init_request(self, fd: int) -> None:
        state = begun(fd)
        assert (state.init_request, state.has_begun) == (b"", False)
        state.note_init(b"init" * 10)
        assert (begun(fd).init_request, begun(fd).has_begun) == (b"init" * 10, True)
        state.note_init(bytes(MAX_INIT_BYTES + 1))
        assert begun(fd).init_request == b"init" * 10

    def test_the_zones_in_their_order(self, fd: int) -> None:
        state = begun(fd)
        zones = [(node, name) for node in range(MAX_ZONES // 2) for name in ("DMA32", "Movable")]
        for zone in (*zones, (99, "Normal")):
            state.note_zone(zone)
        assert begun(fd).zones == zones

    @pytest.mark.parametrize("header", [bytes(16), b"memnotify state\0\xff\0\0\0"])
    def test_another_layout_is_refused(self, header: bytes, fd: int) -> None:
        os.pwrite(fd, header, 0)
        with pytest.raises(StateError, match="layout"):
            begun(fd)

    def test_another_size_is_refused(self) -> None:
        fd = os.memfd_create("other")
        try:
            with pytest.raises(StateError, match="no header"):
                begun(fd)
            os.pwrite(fd, MAGIC + LAYOUT.to_bytes(4, sys.byteorder) + bytes(100), 0)
            with pytest.raises(StateError, match="bytes"):
                begun(fd)
        finally:
            os.close(fd)


class TestSample:
    def test_the_last_one(self, fd: int) -> None:
        state = begun(fd)
        assert state.sample == b""
        state.note_sample(b"a longer one")
        state.note_sample(b"the last")
        assert begun(fd).sample == b"the last"
        state.note_sample(bytes(SAMPLE_BYTES))
        assert begun(fd).sample == b""


class TestPressure:
    def test_the_last_one(self, fd: int) -> None:
        state = begun(fd)
        assert state.pressure == b""
        for data in (b"one", b"another", b"a longer one", b"the last"):
            state.note_pressure(data)
            assert begun(fd).pressure == data
        assert begun(fd).sample == b"", "the sample has a place of its own"
        state.note_pressure(bytes(PRESSURE_BYTES))
        assert begun(fd).pressure == b""

    def test_a_server_that_is_killed_while_it_writes_leaves_what_was_there_before(self, fd: int) -> None:
        state = begun(fd)
        state.note_sample(b"sample")
        state.note_pressure(b"before")
        before = os.pread(fd, STATE_BYTES, 0)
        state.note_pressure(b"after!")
        after = os.pread(fd, STATE_BYTES, 0)
        pages = [at for at in range(0, STATE_BYTES, PAGE) if before[at : at + PAGE] != after[at : at + PAGE]]
        changed = [at for page in pages for at in range(page, page + PAGE) if before[at] != after[at]]
        # In the order in which they are written: what says which of the two holds comes last.
        which, *rest = changed
        for count in range(len(rest) + 1):
            for at in changed:
                os.pwrite(fd, before[at : at + 1], at)
            for at in rest[:count]:
                os.pwrite(fd, after[at : at + 1], at)
            assert begun(fd).pressure == b"before"
            assert begun(fd).sample == b"sample"
        os.pwrite(fd, after[which : which + 1], which)
        assert begun(fd).pressure == b"after!"

    @given(st.binary(min_size=1, max_size=16), st.integers(0, 40))
    @settings(max_examples=50)
    def test_whatever_is_in_it_it_can_be_read(self, junk: bytes, at: int) -> None:
        fd = create_state()
        try:
            begun(fd).note_pressure(b"sound")
            os.pwrite(fd, junk, 24 + at)
            os.pwrite(fd, junk, STATE_BYTES - 2 * PRESSURE_BYTES)
            assert len(begun(fd).pressure) <= PRESSURE_BYTES
        finally:
            os.close(fd)


class TestJournal:
    def test_what_was_not_answered_is_left(self, fd: int) -> None:
        journal = begun(fd).journal(1)
        messages = [(40 + number).to_bytes(4, "little") + bytes([number]) * 36 for number in range(5)]
        entries = []
        for message in messages:
            entry = journal.take()
            assert entry is not None
            journal.entry(entry)[: len(message)] = message
            entries.append(entry)
        journal.clear(entries[1])
        journal.clear(entries[3])
        following = begun(fd).journal(1)
        assert [message[4:5] for _, message in following.left] == [b"\0", b"\2", b"\4"]
        assert begun(fd).journal(0).left == []
        taken = {following.take() for _ in range(4)}
        assert not taken & {entry for entry, _ in following.left}

    def test_of_a_long_request_there_is_the_beginning(self, fd: int) -> None:
        journal = begun(fd).journal(0)
        entry = journal.take()
        assert entry is not None
        journal.entry(entry)[:4] = (5000).to_bytes(4, "little")
        ((_, message),) = begun(fd).journal(0).left
        assert len(message) == REQUEST_BYTES

    def test_an_entry_in_which_nothing_was_put_is_free(self, fd: int) -> None:
        journal = begun(fd).journal(0)
        entry = journal.take()
        assert entry is not None
        journal.give_back(entry)
        assert journal.take() == entry
        assert begun(fd).journal(0).left == []
