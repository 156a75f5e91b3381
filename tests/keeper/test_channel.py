"""Messages between processes of ours: real sockets."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.keeper.channel import MAX_DESCRIPTORS, MESSAGE_BYTES, Channel

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = Channel.pair()
    yield ends
    for end in ends:
        end.close()


words = st.text(st.characters(codec="utf-8", exclude_characters=" "), min_size=1, max_size=20)


@given(words, st.text(max_size=200))
def test_a_word_and_a_rest_arrive_as_they_were_sent(word: str, rest: str) -> None:
    one, other = Channel.pair()
    try:
        assert one.send(word, rest)
        assert other.receive() == (word, rest, ())
        assert other.receive() is None
    finally:
        one.close()
        other.close()


def test_a_path_that_is_not_utf8_arrives_whole(pair: Pair) -> None:
    path = os.fsdecode(b"/home/u/\xff\xe0")
    pair[0].send("undo", f"umount {path}")
    assert pair[1].receive() == ("undo", f"umount {path}", ())


def test_a_word_alone(pair: Pair) -> None:
    pair[0].send("ready")
    assert pair[1].receive() == ("ready", "", ())


def test_messages_come_in_order_one_at_a_time_in_both_directions(pair: Pair) -> None:
    one, other = pair
    for number in range(3):
        one.send("undo", str(number))
        other.send("answer", str(number))
    for number in range(3):
        assert other.receive() == ("undo", str(number), ())
        assert one.receive() == ("answer", str(number), ())


def test_nothing_to_receive_does_not_wait(pair: Pair) -> None:
    assert pair[0].receive() is None


def test_descriptors_arrive_and_are_closed_on_exec(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    assert pair[0].send("trace", "/path", (read_end, write_end))
    message = pair[1].receive()
    assert message is not None
    _, _, (read_copy, write_copy) = message
    os.write(write_copy, b"through")
    assert os.read(read_end, 16) == b"through"
    for fd in (read_copy, write_copy):
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    for fd in (read_end, write_end, read_copy, write_copy):
        os.close(fd)


def test_more_descriptors_than_are_taken_do_not_pile_up(pair: Pair) -> None:
    """The other end is not trusted."""
    before = set(os.listdir("/proc/self/fd"))
    fds = tuple(os.dup(0) for _ in range(2 * MAX_DESCRIPTORS))
    assert pair[0].send("x", "", fds)
    message = pair[1].receive()
    assert message is not None
    assert len(message[2]) <= MAX_DESCRIPTORS + 1
    for fd in (*fds, *message[2]):
        os.close(fd)
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_other_end_is_gone(pair: Pair) -> None:
    one, other = pair
    other.send("last")
    other.close()
    assert one.receive() == ("last", "", ())
    for _ in range(2):
        with pytest.raises(EOFError):
            one.receive()
    assert not one.send("x")


def test_the_other_end_is_gone_with_messages_unread(pair: Pair) -> None:
    """The kernel says so with an error of its own."""
    one, other = pair
    one.send("unread")
    other.close()
    with pytest.raises(EOFError):
        one.receive()


def test_one_who_does_not_read_keeps_nobody_waiting(pair: Pair) -> None:
    sent = 0
    while pair[0].send("undo", "x" * 1000):
        sent += 1
        assert sent < 100_000
    assert sent > 10
    assert pair[1].receive() == ("undo", "x" * 1000, ())


def test_a_message_that_is_too_long_is_not_sent(pair: Pair) -> None:
    assert not pair[0].send("undo", "x" * MESSAGE_BYTES)
    assert pair[1].receive() is None
    assert pair[0].send("undo", "x" * (MESSAGE_BYTES - len("undo ")))


def test_the_end_of_a_descriptor_that_was_handed_over(pair: Pair) -> None:
    one, other = Channel.pair()
    pair[0].send("helpers", "", (one.fileno(),))
    one.close()
    message = pair[1].receive()
    assert message is not None
    (fd,) = message[2]
    taken = Channel.of(fd)
    other.send("helper", "1")
    assert taken.receive() == ("helper", "1", ())
    assert taken.receive() is None
    taken.close()
    other.close()
