"""The signal masks in /proc/TID/status."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.process import PendingSignals, parse_signals, read_signals

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
