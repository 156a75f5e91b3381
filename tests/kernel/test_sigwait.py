"""Whether a thread waits for a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel import sigwait
from memnotify_cuse.kernel.process import read_signals
from memnotify_cuse.kernel.sigwait import awaited_signals, parse_sigwait_address

LIMIT_S = 60.0
WAITING = "128 0x7ffc6e2a1b90 0x7ffc6e2a1b10 0x0 0x8 0x0 0x0 0x7ffc6e2a1a98 0x7f3f2f0a1c27\n"
REALTIME = int(signal.SIGRTMIN) + 2

WAITS = """
import signal, sys
numbers = {int(word) for word in sys.argv[1:]}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
signal.sigwaitinfo(numbers)
"""


@pytest.fixture
def x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sigwait, "_NUMBERS", {128, 421})


@pytest.mark.usefixtures("x86_64")
class TestParse:
    def test_in_sigtimedwait(self) -> None:
        assert parse_sigwait_address(WAITING) == 0x7FFC6E2A1B90

    @pytest.mark.parametrize(
        "text",
        [
            "running\n",
            "",
            "-1 0x7ffc6e2a1b90 0x7f3f2f0a1c27\n",
            WAITING.replace("128", "7", 1),
            WAITING.replace("128", "x", 1),
            WAITING.rsplit(" ", 1)[0],
        ],
    )
    def test_elsewhere(self, text: str) -> None:
        assert parse_sigwait_address(text) is None

    @given(st.text())
    def test_anything_parses_or_is_a_value_error(self, text: str) -> None:
        try:
            parse_sigwait_address(text)
        except ValueError:
            assert text.split()[0] in ("128", "421")


@pytest.mark.parametrize("numbers", [{int(signal.SIGIO)}, {REALTIME, int(signal.SIGUSR1)}])
def test_a_process_that_waits(numbers: set[int]) -> None:
    mask = sum(1 << (number - 1) for number in numbers)
    with subprocess.Popen([sys.executable, "-c", WAITS, *map(str, numbers)]) as child:
        try:
            deadline = time.monotonic() + LIMIT_S
            while awaited_signals(child.pid) != mask:
                assert time.monotonic() < deadline
                assert child.poll() is None
                time.sleep(0.002)
            # Why it has to be asked: what is waited for does not look blocked.
            assert not read_signals(child.pid).blocked & mask
        finally:
            child.kill()


def test_a_process_that_does_something_else() -> None:
    with subprocess.Popen(["sleep", str(LIMIT_S)]) as child:
        try:
            assert awaited_signals(child.pid) == 0
        finally:
            child.kill()


def test_this_thread_and_one_that_has_ended(tmp_path: Path) -> None:
    assert awaited_signals(threading.get_native_id()) == 0
    assert awaited_signals(4711, tmp_path) == 0


def test_an_address_that_is_not_mapped(tmp_path: Path) -> None:
    folder = tmp_path / "4711"
    folder.mkdir()
    number = next(iter(sigwait._NUMBERS))
    (folder / "syscall").write_text(WAITING.replace("128", str(number), 1).replace("0x7ffc6e2a1b90", "0x" + 16 * "f"))
    os.symlink("/proc/self/mem", folder / "mem")
    assert awaited_signals(4711, tmp_path) == 0


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 128), ("aarch64", 137), ("i686", 177), ("s390x", 177)])
def test_the_number_of_the_system_call(machine: str, number: int) -> None:
    table = sigwait._RT_SIGTIMEDWAIT | sigwait._RT_SIGTIMEDWAIT_OTHERS
    assert table[machine] == number
