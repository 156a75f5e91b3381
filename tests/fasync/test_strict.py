"""The lines of trace_pipe that show F_SETFL."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.fasync.strict import SetFlags, parse_set_flags

LINE = b"          python-22268   [001] .....  4780.737758: sys_fcntl(fd: 4, cmd: 4, arg: 0x2800)"
SET = SetFlags(22268, 4, os.O_ASYNC | os.O_NONBLOCK)


def test_a_request() -> None:
    assert list(parse_set_flags(LINE + b"\n")) == [SET]


def test_descriptors_and_flags_are_hexadecimal() -> None:
    line = LINE.replace(b"fd: 4", b"fd: 1f").replace(b"0x2800", b"0x800")
    assert list(parse_set_flags(line + b"\n")) == [SetFlags(22268, 0x1F, os.O_NONBLOCK)]


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
