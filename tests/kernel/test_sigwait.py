"""Whether a thread waits for signals: real ones that do, and that do something else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memnotify_cuse.kernel.process import read_signals
from memnotify_cuse.kernel.sigwait import is_sigwait, waits_for_signals
from tests.support.mounted import LIMIT_S, state_of, wait_until

REALTIME = int(signal.SIGRTMIN) + 2

WAITS = """
import signal, sys
numbers = {int(word) for word in sys.argv[2:]}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", flush=True)
if sys.argv[1] == "sigwaitinfo":
    signal.sigwaitinfo(numbers)
else:
    signal.sigtimedwait(numbers, 1000)
"""

IN_A_THREAD = """
import signal, threading
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
thread = threading.Thread(target=signal.sigwaitinfo, args=({signal.SIGIO},))
thread.start()
print(thread.native_id, flush=True)
signal.pause()
"""


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def first_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("do_sigtimedwait", True),
        ("do_sigtimedwait.isra.0", True),
        ("__x64_sys_rt_sigtimedwait", True),
        ("0", False),
        ("", False),
        ("do_sys_poll", False),
        ("__x64_sys_rt_sigsuspend", False),
    ],
)
def test_the_function_in_which_it_sleeps(text: str, expected: bool) -> None:
    assert is_sigwait(text) == expected


@pytest.mark.parametrize("call", ["sigwaitinfo", "sigtimedwait"])
@pytest.mark.parametrize("numbers", [{int(signal.SIGIO)}, {REALTIME, int(signal.SIGUSR1)}])
def test_a_process_that_waits(call: str, numbers: set[int]) -> None:
    mask = sum(1 << (number - 1) for number in numbers)
    with running(sys.executable, "-c", WAITS, call, *map(str, numbers)) as child:
        assert first_line(child) == "ready"
        wait_until(lambda: waits_for_signals(child.pid), f"the child in {call}")
        # Why it has to be asked: what is waited for does not look blocked.
        assert not read_signals(child.pid).blocked & mask


def test_of_a_process_s_threads_the_one_that_waits() -> None:
    with running(sys.executable, "-c", IN_A_THREAD) as child:
        tid = int(first_line(child))
        wait_until(lambda: waits_for_signals(tid), "the thread in sigwaitinfo")
        assert not waits_for_signals(child.pid)


@pytest.mark.parametrize(
    "code",
    ["import time; time.sleep(1000)", "import signal; signal.pause()", "import select; select.poll().poll()"],
    ids=["sleep", "pause", "poll"],
)
def test_a_process_that_sleeps_in_something_else(code: str) -> None:
    with running(sys.executable, "-c", f"print(flush=True); {code}") as child:
        first_line(child)
        wait_until(lambda: state_of(child.pid) == "S", "the child asleep")
        assert not waits_for_signals(child.pid)


def test_a_thread_that_runs_and_one_that_has_ended(tmp_path: Path) -> None:
    assert not waits_for_signals(threading.get_native_id())
    assert not waits_for_signals(4711, tmp_path)
    with running("true") as child:
        child.wait(LIMIT_S)
    assert not waits_for_signals(child.pid)


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    folder = tmp_path / "4711"
    folder.mkdir()
    (folder / "wchan").write_bytes(b"\xff\xfe sigtimedwait")
    assert waits_for_signals(4711, tmp_path)


def test_it_is_known_without_the_memory_of_the_process(tmp_path: Path) -> None:
    """A page of it may be one of a file that never answers; nothing but wchan is read."""
    folder = tmp_path / "4711"
    folder.mkdir()
    for name in ("mem", "syscall", "stack"):
        os.mkfifo(folder / name)
    (folder / "wchan").write_text("do_sigtimedwait")
    assert waits_for_signals(4711, tmp_path)
