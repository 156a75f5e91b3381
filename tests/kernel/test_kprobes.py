"""kprobe events of fcntl: how they are defined and found again, and the lines of trace_pipe that they make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.errors import KernelFileGoneError
from memnotify_cuse.kernel.kprobes import (
    EVENTS_FILE,
    FileCall,
    argument_registers,
    define_event,
    event_name,
    kprobes_problem,
    parse_file_calls,
    remove_stale_events,
)
from memnotify_cuse.kernel.tracefs import own_namespace

LINE = (
    b"          python-22268   [001] .....  4780.737758: fcntl: (security_file_fcntl+0x0/0x60) "
    b"file=0xffff888004321b00 cmd=4 arg=0x2800"
)
CALL = FileCall(4_780_737_758_000, 0xFFFF888004321B00, 4, 0x2800, after_loss=False)


def test_a_call() -> None:
    assert list(parse_file_calls(LINE + b"\n")) == [CALL]


def test_an_argument_of_64_bits() -> None:
    line = LINE.replace(b"cmd=4", b"cmd=15").replace(b"0x2800", b"0xff80123456780001")
    assert list(parse_file_calls(line)) == [CALL._replace(cmd=15, arg=0xFF80123456780001)]


def test_the_call_after_lost_ones_says_so() -> None:
    text = LINE + b"\nCPU:1 [LOST 12 EVENTS]\n" + LINE + b"\n" + LINE
    assert [call.after_loss for call in parse_file_calls(text)] == [False, True, False]


def test_other_lines_are_skipped() -> None:
    others = [LINE.replace(b": fcntl:", b": sys_fcntl:"), LINE + b" more", LINE.replace(b"cmd=4 ", b""), b""]
    assert list(parse_file_calls(b"\n".join([*others, LINE, b""]))) == [CALL]


@given(st.binary(max_size=15))
def test_a_program_s_name_can_be_anything(name: bytes) -> None:
    """A line feed in it, too; it cannot hide a call, nor make one, nor a loss."""
    assert list(parse_file_calls(LINE + b"\n" + name.rjust(16) + LINE[16:])) == [CALL, CALL]


@given(st.binary())
def test_anything_parses(data: bytes) -> None:
    for call in parse_file_calls(data):
        assert call.time_ns >= 0


@pytest.mark.parametrize(
    ("machine", "registers"),
    [
        ("x86_64", ("di", "si", "dx")),
        ("aarch64", ("x0", "x1", "x2")),
        ("riscv64", ("a0", "a1", "a2")),
        ("alpha", None),
    ],
)
def test_registers(machine: str, registers: tuple[str, str, str] | None) -> None:
    assert argument_registers(machine) == registers


def test_why_there_are_none(tmp_path: Path) -> None:
    assert kprobes_problem(tmp_path, "x86_64") == f"no {tmp_path / EVENTS_FILE}: this kernel has no kprobe events"
    (tmp_path / EVENTS_FILE).touch()
    assert kprobes_problem(tmp_path, "x86_64") is None
    assert kprobes_problem(tmp_path, "alpha") == "not known on alpha"


def test_the_definitions_of_others_stay(tmp_path: Path) -> None:
    events = tmp_path / EVENTS_FILE
    events.write_text("p:kprobes/mine do_exit\n")
    define_event(tmp_path, "memnotify_1/fcntl")
    others, ours = events.read_text().splitlines()
    assert others == "p:kprobes/mine do_exit"
    assert ours.startswith("p:memnotify_1/fcntl security_file_fcntl file=%")


def test_what_servers_left_behind_that_no_longer_run(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    for pid, command in ((10, None), (20, b"python\0-m\0memnotify_cuse\0serve"), (30, b"cat"), (40, b"memnotify")):
        if command is not None:
            (proc / str(pid)).mkdir(parents=True)
            (proc / str(pid) / "cmdline").write_bytes(command)
    namespace = own_namespace()
    suffix = f"_{namespace}" if namespace else ""
    events = tmp_path / EVENTS_FILE
    definition = "security_file_fcntl file=%di:x64"
    lines = [f"p:memnotify_{pid}{suffix}/fcntl {definition}" for pid in (10, 20, 30, 40)]
    others = ["p:kprobes/fcntl do_exit", "p:memnotify_x/fcntl do_exit", "r8:memnotifyer_10/fcntl do_exit"]
    events.write_text("\n".join(lines + others) + "\n")
    removed = remove_stale_events(tmp_path, proc=proc, own_pid=40)
    assert removed == [f"memnotify_{pid}{suffix}/fcntl" for pid in (10, 30, 40)]
    assert [line for line in events.read_text().splitlines() if line.startswith("-:")] == [f"-:{n}" for n in removed]


def test_no_events_file(tmp_path: Path) -> None:
    with pytest.raises(KernelFileGoneError, match=EVENTS_FILE):
        remove_stale_events(tmp_path, own_pid=os.getpid())
    with pytest.raises(KernelFileGoneError, match=EVENTS_FILE):
        define_event(tmp_path, event_name(os.getpid()))
