"""Requests on open device files, without a kernel: messages in, messages out, and a clock that is set by hand."""

from __future__ import annotations

import errno
import os
import select
import tracemalloc

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.accounts import Bounds, Users
from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.identify import IDENTIFY
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import Record
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.endpoint import ENDED, HELD_READ_BOUNDS, OPEN_REPLY, READABLE, DeviceEndpoint
from tests.transport.messages import (
    Reply,
    flush_request,
    interrupt_request,
    ioctl_request,
    open_request,
    poll_request,
    read_request,
    release_request,
    request,
)

NORMAL = ZoneId(0, "Normal")
DMA32 = ZoneId(0, "DMA32")
MS = 1_000_000
GONE = 999


class Bench:
    """A device and an endpoint, and what the endpoint sent since the last look."""

    def __init__(self, policy: Policy | None = None, held_reads: Bounds = HELD_READ_BOUNDS) -> None:
        self.device = Device(4, policy)
        self._sent: list[bytes] = []
        self.now_ms = 1000
        self.identifiers: set[int] = set()
        self.users = Users()
        self.endpoint = DeviceEndpoint(
            self.device, self._sent.append, lambda: self.now_ms * MS, self.identifiers, self.users, held_reads
        )

    def replies(self) -> list[Reply]:
        sent, self._sent[:] = list(self._sent), []
        return [Reply.parse(message) for message in sent]

    def reply(self) -> Reply:
        (reply,) = self.replies()
        return reply

    def handle(self, message: bytes) -> None:
        assert self.endpoint.handle(wire.decode_header(message), message)

    def try_open(self, flags: int = 0, zone: ZoneId | None = None, uid: int = 0) -> Reply:
        message = open_request(flags, uid=uid)
        self.endpoint.open(wire.decode_header(message), message, zone)
        return self.reply()

    def open(self, zone: ZoneId | None = None) -> int:
        """The fh of a new open file."""
        reply = self.try_open(zone=zone)
        assert reply.error == 0
        return reply.number(0, 8)

    def hold(self, fh: int, unique: int, size_bytes: int = 4096) -> None:
        """A blocked read."""
        self.handle(read_request(fh, size_bytes, unique=unique))
        assert self.replies() == []

    def notify(self, zone: ZoneId = NORMAL) -> None:
        state = ZoneState(zone, 1, free_pages=50, high_pages=60, reserve_pages=0, reason="anon_scan", time_ns=1)
        self.device.notified((state,), self.now_ms * MS)

    def relieve(self) -> None:
        self.device.pressure_ended((NORMAL, DMA32), self.now_ms * MS)


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestOpen:
    def test_the_kernel_is_asked_for_a_stream_without_page_cache_seeking_and_flush(self, bench: Bench) -> None:
        reply = bench.try_open()
        assert reply.number(8, 4) == OPEN_REPLY == 0b110101
        assert len(reply.body) == 16

    def test_each_open_file_has_a_number_of_its_own(self, bench: Bench) -> None:
        assert len({bench.open() for _ in range(3)}) == 3

    @pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_NONBLOCK])
    def test_for_writing_is_eacces_for_root_too(self, flags: int, bench: Bench) -> None:
        assert bench.try_open(flags, uid=0).error == errno.EACCES
        assert bench.device.open_files == 0

    def test_truncating_is_eacces(self, bench: Bench) -> None:
        assert bench.try_open(os.O_RDONLY | os.O_TRUNC).error == errno.EACCES

    def test_beyond_a_user_s_bound_is_emfile_and_beyond_the_device_s_enfile(self) -> None:
        bench = Bench(Policy(max_open_per_user=2, max_open=3, root_reserve=0))
        assert [bench.try_open(uid=0).error for _ in range(3)] == [0, 0, errno.EMFILE]
        assert [bench.try_open(uid=uid).error for uid in (1, 2)] == [0, errno.ENFILE]


class TestPoll:
    def test_without_pressure_nothing_is_ready(self, bench: Bench) -> None:
        bench.handle(poll_request(bench.open(), unique=5))
        assert bench.reply() == Reply(5, 0, bytes(8))
        assert bench.device.watchers == 0

    def test_a_sleeper_is_notified_under_its_kh_and_then_answered(self, bench: Bench) -> None:
        fh = bench.open()
        bench.handle(poll_request(fh, kh=1234, waiting=True))
        assert bench.reply().number(0, 4) == 0
        assert bench.device.watchers == 1
        bench.notify()
        woken = bench.reply()
        assert (woken.unique, woken.error, woken.number(0, 8)) == (0, wire.NOTIFY_POLL, 1234)
        bench.handle(poll_request(fh, kh=1234))
        assert bench.reply().number(0, 4) == READABLE

    def test_who_does_not_sleep_is_not_notified(self, bench: Bench) -> None:
        bench.handle(poll_request(bench.open()))
        bench.replies()
        bench.notify()
        assert bench.replies() == []

    def test_of_an_unknown_fh_is_ebadf(self, bench: Bench) -> None:
        bench.handle(poll_request(GONE, waiting=True, unique=6))
        assert bench.reply() == Reply(6, errno.EBADF, b"")

    def test_of_a_released_fh_is_ebadf(self, bench: Bench) -> None:
        fh = bench.open()
        bench.handle(release_request(fh))
        bench.replies()
        bench.handle(poll_request(fh))
        assert bench.reply().error == errno.EBADF


class TestRead:
    def test_under_pressure_gets_a_record(self, bench: Bench) -> None:
        bench.notify()
        bench.handle(read_request(bench.open(), unique=5))
        reply = bench.reply()
        assert (reply.unique, reply.error) == (5, 0)
        assert Record.parse(reply.body).reason == "anon_scan"

    def test_nonblocking_is_eagain(self, bench: Bench) -> None:
        bench.handle(read_request(bench.open(), flags=os.O_NONBLOCK, unique=5))
        assert bench.reply() == Reply(5, errno.EAGAIN, b"")
        assert bench.endpoint.held_reads == 0

    def test_of_no_bytes_returns_nothing_at_once(self, bench: Bench) -> None:
        bench.handle(read_request(bench.open(), 0, unique=5))
        assert bench.reply() == Reply(5, 0, b"")

    def test_of_an_unknown_fh_is_ebadf(self, bench: Bench) -> None:
        bench.handle(read_request(GONE))
        assert bench.reply().error == errno.EBADF

    def test_a_held_read_is_served_by_a_notification(self, bench: Bench) -> None:
        bench.hold(bench.open(), 5)
        assert (bench.endpoint.held_reads, bench.device.watchers) == (1, 1)
        bench.notify()
        reply = bench.reply()
        assert reply.unique == 5
        Record.parse(reply.body)
        assert bench.endpoint.held_reads == 0

    def test_a_held_read_gets_no_more_than_it_asked_for(self, bench: Bench) -> None:
        fh = bench.open()
        bench.hold(fh, 5, size_bytes=3)
        bench.notify()
        begun = bench.reply().body
        assert len(begun) == 3
        bench.handle(read_request(fh, flags=os.O_NONBLOCK))
        Record.parse(begun + bench.reply().body)

    def test_of_two_reads_held_on_one_file_each_notification_serves_the_first(self, bench: Bench) -> None:
        fh = bench.open()
        bench.hold(fh, 5)
        bench.hold(fh, 6)
        assert bench.device.watchers == 1
        bench.notify()
        assert bench.reply().unique == 5
        assert bench.endpoint.held_reads == 1
        bench.now_ms += 10_000
        bench.notify()
        assert bench.reply().unique == 6
        assert bench.endpoint.held_reads == 0

    def test_small_reads_held_on_one_file_share_a_record(self, bench: Bench) -> None:
        fh = bench.open()
        bench.hold(fh, 5, size_bytes=4)
        bench.hold(fh, 6, size_bytes=4)
        bench.notify()
        assert [(reply.unique, len(reply.body)) for reply in bench.replies()] == [(5, 4), (6, 4)]

    def test_reader_and_sleeper_of_one_file_are_both_woken(self, bench: Bench) -> None:
        fh = bench.open()
        bench.hold(fh, 5)
        bench.handle(poll_request(fh, kh=9, waiting=True))
        bench.replies()
        bench.notify()
        assert [reply.unique for reply in bench.replies()] == [5, 0]

    def test_a_held_read_of_a_zone_waits_for_that_zone(self, bench: Bench) -> None:
        bench.hold(bench.open(DMA32), 5)
        bench.notify(NORMAL)
        assert bench.replies() == []
        bench.notify(DMA32)
        assert Record.parse(bench.reply().body).zone == "DMA32"


class TestHeldReads:
    """There are only so many, whoever asks: each takes memory here and in the kernel."""

    BOUNDS = Bounds(total=20, per_user=3, root_reserve=4, subordinate_divisor=1)

    def hold_as(self, bench: Bench, fh: int, uid: int, count: int, first: int) -> list[int]:
        """The errors of so many blocked reads, 0 for one that is held."""
        errors = []
        for unique in range(first, first + count):
            bench.handle(read_request(fh, unique=unique, uid=uid))
            replies = bench.replies()
            errors.append(replies[0].error if replies else 0)
        return errors

    def test_beyond_a_user_s_bound_are_ebusy_and_those_of_another_user_are_held(self) -> None:
        bench = Bench(held_reads=self.BOUNDS)
        fh = bench.open()
        assert self.hold_as(bench, fh, 1000, 5, 10) == [0, 0, 0, errno.EBUSY, errno.EBUSY]
        assert self.hold_as(bench, fh, 1001, 1, 20) == [0]
        assert bench.endpoint.held_reads == 4

    def test_that_ended_make_room(self) -> None:
        bench = Bench(held_reads=self.BOUNDS)
        fh = bench.open()
        assert self.hold_as(bench, fh, 1000, 4, 10)[-1] == errno.EBUSY
        bench.handle(interrupt_request(10))
        bench.replies()
        assert self.hold_as(bench, fh, 1000, 2, 20) == [0, errno.EBUSY]
        bench.notify()
        bench.replies()
        assert self.hold_as(bench, fh, 1000, 2, 30) == [0, errno.EBUSY]
        bench.handle(release_request(fh))
        bench.replies()
        fh = bench.open()
        bench.relieve()
        assert self.hold_as(bench, fh, 1000, 4, 40) == [0, 0, 0, errno.EBUSY]

    def test_leave_something_for_root_when_all_the_others_have_theirs(self) -> None:
        bench = Bench(held_reads=self.BOUNDS)
        fh = bench.open()
        for user in range(100):
            self.hold_as(bench, fh, 1000 + user, 1, 100 + user)
        assert self.hold_as(bench, fh, 5000, 1, 300) == [errno.EBUSY]
        assert self.hold_as(bench, fh, 0, 1, 400) == [0]

    def test_of_an_id_that_turns_out_to_be_another_user_s_are_that_user_s(self) -> None:
        bench = Bench(held_reads=self.BOUNDS)
        fh = bench.open()
        assert self.hold_as(bench, fh, 100_000, 2, 10) == [0, 0]
        bench.users.count_to(100_000, 1000)
        assert self.hold_as(bench, fh, 1000, 2, 20) == [0, errno.EBUSY]
        for unique in (10, 11, 20):
            bench.handle(interrupt_request(unique))
        bench.replies()
        assert self.hold_as(bench, fh, 100_000, 4, 30) == [0, 0, 0, errno.EBUSY]


class TestIdentify:
    HELPER = 77

    def ask(self, bench: Bench, fh: int, command: int = IDENTIFY, out_bytes: int = 8) -> Reply:
        bench.handle(ioctl_request(fh, command, out_bytes, unique=5, thread_id=self.HELPER))
        return bench.reply()

    def test_a_thread_of_ours_learns_the_number_of_the_open_file(self, bench: Bench) -> None:
        bench.open()
        fh = bench.open()
        bench.identifiers.add(self.HELPER)
        reply = self.ask(bench, fh)
        assert (reply.unique, reply.error, reply.body[:16]) == (5, 0, bytes(16))
        assert (len(reply.body), reply.number(16, 8)) == (24, fh)

    def test_anybody_else_is_told_that_there_is_no_such_ioctl(self, bench: Bench) -> None:
        fh = bench.open()
        bench.identifiers.add(self.HELPER + 1)
        assert self.ask(bench, fh) == Reply(5, errno.ENOTTY, b"")

    def test_a_thread_that_is_no_longer_ours_is_anybody_else(self, bench: Bench) -> None:
        fh = bench.open()
        bench.identifiers.add(self.HELPER)
        assert self.ask(bench, fh).error == 0
        bench.identifiers.remove(self.HELPER)
        assert self.ask(bench, fh).error == errno.ENOTTY

    def test_a_thread_that_the_server_cannot_see_is_nobody(self, bench: Bench) -> None:
        """Its id is 0: that of every thread of another PID namespace."""
        fh = bench.open()
        bench.identifiers.add(self.HELPER)
        bench.handle(ioctl_request(fh, IDENTIFY, unique=5, thread_id=0))
        assert bench.reply().error == errno.ENOTTY

    def test_every_other_ioctl_and_file_is_enotty(self, bench: Bench) -> None:
        fh = bench.open()
        bench.identifiers.add(self.HELPER)
        for asked in ((fh, 0x541B, 8), (fh, IDENTIFY, 4), (GONE, IDENTIFY, 8)):
            assert self.ask(bench, *asked) == Reply(5, errno.ENOTTY, b"")


class TestInterrupt:
    def test_ends_the_read_that_it_names_and_no_other(self, bench: Bench) -> None:
        fh = bench.open()
        bench.hold(fh, 5)
        bench.hold(fh, 6)
        bench.handle(interrupt_request(6))
        assert bench.reply() == Reply(6, errno.EINTR, b"")
        bench.notify()
        assert bench.reply().unique == 5

    def test_of_an_unknown_request_is_ignored(self, bench: Bench) -> None:
        bench.handle(interrupt_request(5))
        assert bench.replies() == []

    def test_of_a_read_that_was_served_is_ignored(self, bench: Bench) -> None:
        bench.hold(bench.open(), 5)
        bench.notify()
        bench.replies()
        bench.handle(interrupt_request(5))
        assert bench.replies() == []

    def test_twice_is_answered_once(self, bench: Bench) -> None:
        bench.hold(bench.open(), 5)
        bench.handle(interrupt_request(5))
        bench.handle(interrupt_request(5))
        assert len(bench.replies()) == 1

    def test_leaves_the_notification_to_the_next_read(self, bench: Bench) -> None:
        fh = bench.open()
        bench.hold(fh, 5)
        bench.handle(interrupt_request(5))
        bench.replies()
        bench.notify()
        bench.handle(read_request(fh, unique=6))
        assert bench.replies()[-1].unique == 6

    def test_a_reader_that_was_interrupted_takes_no_place_in_the_queue(self, bench: Bench) -> None:
        """One notification wakes one of two: not the file that nobody waits on any more."""
        bench.hold(bench.open(), 5)
        bench.hold(bench.open(), 6)
        bench.handle(interrupt_request(5))
        bench.replies()
        bench.notify()
        assert [reply.unique for reply in bench.replies()] == [6]


class TestRelease:
    def test_closes_the_file(self, bench: Bench) -> None:
        fh = bench.open()
        bench.handle(release_request(fh, unique=5))
        assert bench.reply() == Reply(5, 0, b"")
        assert bench.device.open_files == 0

    def test_of_an_unknown_fh_is_answered(self, bench: Bench) -> None:
        bench.handle(release_request(GONE, unique=5))
        assert bench.reply() == Reply(5, 0, b"")

    def test_with_held_reads_forgets_them(self, bench: Bench) -> None:
        fh = bench.open()
        bench.hold(fh, 5)
        bench.hold(fh, 6)
        bench.handle(release_request(fh))
        bench.replies()
        assert (bench.endpoint.held_reads, bench.device.watchers) == (0, 0)
        bench.handle(interrupt_request(5))
        bench.notify()
        assert bench.replies() == []

    def test_flush_is_answered(self, bench: Bench) -> None:
        bench.handle(flush_request(bench.open(), unique=5))
        assert bench.reply() == Reply(5, 0, b"")

    def test_the_end_of_the_connection_closes_everything(self, bench: Bench) -> None:
        bench.open()
        bench.hold(bench.open(), 5)
        bench.endpoint.close()
        assert (bench.device.open_files, bench.endpoint.held_reads) == (0, 0)
        bench.notify()
        assert bench.replies() == []


def test_an_open_file_takes_little_memory_in_the_endpoint() -> None:
    """32,000 of them may be open, and the server's memory is locked."""
    count = 3_000
    bench = Bench(Policy(max_open=count, max_open_per_user=count))
    files = [bench.device.open(0, None, lambda _file: None) for _ in range(count)]
    for file in files:
        bench.device.close(file)
    ready = iter(files)
    bench.device.open = lambda uid, topic, wake: next(ready)  # type: ignore[method-assign]
    tracemalloc.start()
    try:
        for _ in range(count):
            fh = bench.open()
            bench.handle(poll_request(fh, kh=2**40 + fh, waiting=True))
            bench.replies()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken / count < 300


def test_what_an_endpoint_does_not_serve_is_left_to_others(bench: Bench) -> None:
    for opcode in (1, 3, 16, 22, 46, 4096):
        message = request(opcode, bytes(64))
        assert not bench.endpoint.handle(wire.decode_header(message), message)
    assert bench.replies() == []


def test_a_message_cut_short_is_a_wire_error_and_is_not_answered(bench: Bench) -> None:
    for opcode in (wire.Opcode.POLL, wire.Opcode.READ, wire.Opcode.RELEASE, wire.Opcode.INTERRUPT):
        message = request(opcode, b"")
        with pytest.raises(wire.WireError):
            bench.endpoint.handle(wire.decode_header(message), message)
    assert bench.replies() == []


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["open", "poll", "wait", "read", "nonblock", "interrupt", "release", "notify", "clear"]),
              st.integers(1, 4), st.integers(1, 300)),
    max_size=60,
)  # fmt: skip


@given(ACTIONS)
def test_every_request_is_answered_exactly_once_whatever_the_order(actions: list[tuple[str, int, int]]) -> None:
    bench = Bench()
    answered: list[int] = []
    held: set[int] = set()
    asked: set[int] = set()
    for unique, (action, fh, number) in enumerate(actions, 1):
        bench.now_ms += number
        match action:
            case "open":
                message = open_request(unique=unique)
                bench.endpoint.open(wire.decode_header(message), message, None)
            case "poll" | "wait":
                bench.handle(poll_request(fh, waiting=action == "wait", unique=unique))
            case "read" | "nonblock":
                flags = os.O_NONBLOCK if action == "nonblock" else 0
                bench.handle(read_request(fh, number, flags, unique=unique))
            case "interrupt":
                bench.handle(interrupt_request(number % (unique + 1)))
            case "release":
                # The kernel releases a file when no request on it is under way any more.
                for each in sorted(held):
                    bench.handle(interrupt_request(each))
                bench.handle(release_request(fh, unique=unique))
            case "notify":
                bench.notify()
            case _:
                bench.relieve()
        if action not in ("interrupt", "notify", "clear"):
            asked.add(unique)
        answered += [reply.unique for reply in bench.replies() if reply.unique]
        assert len(answered) == len(set(answered))
        held = asked - set(answered)
        assert len(held) == bench.endpoint.held_reads
    assert set(answered) <= asked


def test_at_the_end_who_sleeps_is_woken_and_every_poll_is_answered_that_it_is_over() -> None:
    """With POLLIN as well: there are programs that wake up for nothing else."""
    bench = Bench()
    sleeper, idle = bench.open(), bench.open()
    bench.handle(poll_request(sleeper, kh=sleeper, waiting=True))
    bench.replies()

    async def end() -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.endpoint.end)
                await trio.testing.wait_all_tasks_blocked()
                assert [reply.error for reply in bench.replies()] == [wire.NOTIFY_POLL]
                for fh in (sleeper, idle):
                    bench.handle(poll_request(fh, kh=fh, waiting=True))
                    assert bench.reply().number(0, 4) == ENDED == READABLE | select.POLLHUP | select.POLLERR
                bench.handle(read_request(sleeper, 4096))
                assert bench.reply().error == errno.ENOTCONN

    trio.run(end, clock=trio.testing.MockClock())


def test_at_the_end_who_does_not_ask_is_not_waited_for_long() -> None:
    bench = Bench()
    sleeper = bench.open()
    bench.handle(poll_request(sleeper, kh=sleeper, waiting=True))
    trio.run(bench.endpoint.end, clock=trio.testing.MockClock(autojump_threshold=0))
