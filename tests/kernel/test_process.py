"""The signal masks in /proc/TID/status."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.process import (
    PendingSignals,
    ThreadStatus,
    parse_signals,
    parse_start_time,
    parse_thread_status,
    read_signals,
    read_start_time,
    read_thread_status,
)

STATUS = (
    "Name:\tSigPnd:\\nx\nState:\tS (sleeping)\nSigQ:\t0/95906\n"
    "SigPnd:\t0000000000000200\nShdPnd:\t0000000000000100\nSigBlk:\t0000000000000200\n"
    "SigIgn:\t0000000000001000\nSigCgt:\t0000000180000442\nCapInh:\t0000000000000000\n"
)


def test_masks() -> None:
    signals = parse_signals(STATUS)
    assert signals == PendingSignals(pending=0x300, blocked=0x200, ignored=0x1000, caught=0x180000442)
    assert signals.deliverable == 1 << (signal.SIGKILL - 1)


@pytest.mark.parametrize(
    ("old", "new", "line_number"),
    [
        ("ShdPnd:\t0000000000000100", "ShdPnd:\t000000000000010", 5),
        ("SigBlk:\t0", "SigBlk:\tx", 6),
        ("SigBlk:\t0000000000000200\n", "", 0),
        (STATUS[STATUS.index("SigIgn") + 15 :], "", 7),
        (STATUS, "", 0),
    ],
)
def test_malformed_text_names_the_line(old: str, new: str, line_number: int) -> None:
    assert old in STATUS
    with pytest.raises(MalformedKernelFileError) as caught:
        parse_signals(STATUS.replace(old, new))
    assert caught.value.line_number == line_number


@given(st.data())
def test_mutated_text_parses_or_is_malformed(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(STATUS)))
    end = data.draw(st.integers(start, len(STATUS)))
    with contextlib.suppress(MalformedKernelFileError):
        parse_signals(STATUS[:start] + data.draw(st.text(max_size=30)) + STATUS[end:])


def test_this_thread() -> None:
    tid = threading.get_native_id()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
        signals = read_signals(tid)
        bit = 1 << (signal.SIGUSR2 - 1)
        assert signals.pending & bit
        assert signals.blocked & bit
        assert not signals.deliverable & bit
        assert signal.sigtimedwait({signal.SIGUSR2}, 1) is not None
        assert not read_signals(tid).pending & bit
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_thread_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(KernelFileGoneError, match="ENOENT"):
        read_signals(os.getpid(), tmp_path)


THREAD = STATUS.replace("SigQ:", "Tgid:\t4711\nNgid:\t0\nUid:\t1000\t1001\t1002\t1003\nGid:\t7\t7\t7\t7\nSigQ:")


def test_thread_status() -> None:
    assert parse_thread_status(THREAD) == ThreadStatus(4711, 1000, 1001, 1002, parse_signals(STATUS))


def test_a_thread_s_name_cannot_pass_for_another_line() -> None:
    text = THREAD.replace("Name:\tSigPnd:\\nx", "Name:\tTgid:\\t1\\nUid:")
    assert parse_thread_status(text).tgid == 4711


@pytest.mark.parametrize(("old", "new"), [("Tgid:\t4711\n", ""), ("\t1003\n", "\n"), ("Tgid:\t4711", "Tgid:\tx")])
def test_malformed_thread_status(old: str, new: str) -> None:
    assert old in THREAD
    with pytest.raises(MalformedKernelFileError):
        parse_thread_status(THREAD.replace(old, new))


def test_the_status_of_this_thread() -> None:
    status = read_thread_status(threading.get_native_id())
    assert status.tgid == os.getpid()
    assert (status.real_uid, status.effective_uid, status.saved_uid) == os.getresuid()


def test_a_thread_that_has_ended_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(KernelFileGoneError):
        read_thread_status(4711, tmp_path)


STAT = "4711 (a) b (c)) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 95906 1000 200 18446744073709551615\n"


def test_when_a_thread_began_whatever_its_name() -> None:
    assert parse_start_time(STAT) == 95906


@pytest.mark.parametrize("text", ["", "4711 (x)", STAT.replace("95906", "x"), STAT.partition(" 95906")[0]])
def test_a_malformed_start_time(text: str) -> None:
    with pytest.raises(MalformedKernelFileError, match="no start time"):
        parse_start_time(text)


@given(st.text())
def test_any_text_has_a_start_time_or_is_malformed(text: str) -> None:
    with contextlib.suppress(MalformedKernelFileError):
        parse_start_time(text)


def test_a_thread_that_began_later_has_a_later_start_time() -> None:
    """In ticks of the clock, by which the first must have aged."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    first = read_start_time(os.getpid())
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - first * tick_s
    assert age_s > tick_s, "importing these tests takes longer"
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(read_start_time(threading.get_native_id())))
    thread.start()
    thread.join()
    now = time.clock_gettime(time.CLOCK_BOOTTIME) / tick_s
    assert first < found[0] <= now


def test_a_thread_that_has_ended_has_no_start_time(tmp_path: Path) -> None:
    with pytest.raises(KernelFileGoneError):
        read_start_time(4711, tmp_path)
