"""Processes of ours: real ones."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from memnotify_cuse.keeper.children import ANSWER_BYTES, END_SIGNAL, ApartError, apart, fork, whole_step
from tests.support.mounted import LIMIT_S, state_of, wait_until


def pause() -> int:
    while True:
        signal.pause()


class TestFork:
    @pytest.mark.parametrize("code", [0, 3])
    def test_the_exit_code_is_what_the_body_returns(self, code: int) -> None:
        child = fork("memnotify-test", lambda: code)
        assert child.reap(LIMIT_S)
        assert child.code == code
        assert child.reap(0), "as often as one likes"

    def test_an_error_is_shown_and_the_code_says_so(self, capfd: pytest.CaptureFixture[str]) -> None:
        def fail() -> int:
            raise RuntimeError("a mistake of ours")

        child = fork("memnotify-test", fail)
        assert child.reap(LIMIT_S)
        assert child.code == 70
        assert "a mistake of ours" in capfd.readouterr().err

    @pytest.mark.parametrize(("argument", "code"), [(3, 3), ("a message", 1)])
    def test_sys_exit(self, argument: object, code: int) -> None:
        child = fork("memnotify-test", lambda: sys.exit(argument))  # type: ignore[arg-type]
        assert child.reap(LIMIT_S)
        assert child.code == code

    def test_it_has_a_name_and_does_not_end_with_its_terminal(self) -> None:
        """The signals that end the keeper come to all processes of a terminal at once; the keeper ends the others."""
        child = fork("memnotify-test", pause)
        try:
            wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "memnotify-test\n", "its name")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(child.pid, number)
            wait_until(lambda: state_of(child.pid) == "S", "the child asleep")
            assert not child.reap(0)
        finally:
            child.kill()
        assert child.reap(LIMIT_S)
        assert child.code == -signal.SIGKILL

    def test_one_that_is_ended_finishes_the_step_that_it_is_in(self, tmp_path: Path) -> None:
        begun, done, after = (tmp_path / name for name in ("begun", "done", "after"))
        read_end, write_end = os.pipe()

        def work() -> int:
            with whole_step():
                begun.mkdir()
                os.read(read_end, 1)
                done.mkdir()
            after.mkdir()
            return 0

        child = fork("memnotify-test", work, in_steps=True)
        try:
            wait_until(begun.exists, "the step begun")
            child.end_after_step()
            os.write(write_end, b"!")
            assert child.reap(LIMIT_S)
        finally:
            child.kill()
            os.close(read_end)
            os.close(write_end)
        assert child.code == -END_SIGNAL
        assert done.exists()
        assert not after.exists()

    def test_one_that_has_ended_is_not_killed(self) -> None:
        child = fork("memnotify-test", lambda: 0)
        child.kill()
        assert child.reap(LIMIT_S)
        child.kill()

    def test_no_descriptor_is_left_open(self) -> None:
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(3):
            assert fork("memnotify-test", lambda: 0).reap(LIMIT_S)
        assert set(os.listdir("/proc/self/fd")) == before


class TestApart:
    def test_what_it_returns(self) -> None:
        assert apart(lambda: "an answer\nof two lines", LIMIT_S, "the test") == "an answer\nof two lines"

    def test_nothing(self) -> None:
        assert apart(lambda: None, LIMIT_S, "the test") == ""

    def test_a_name_that_is_not_utf8(self) -> None:
        name = os.fsdecode(b"/home/u/\xff\xe0")
        assert apart(lambda: name, LIMIT_S, "the test") == name

    def test_it_is_done_in_another_process(self) -> None:
        assert apart(lambda: str(os.getpid()), LIMIT_S, "the test") != str(os.getpid())

    def test_a_long_answer_is_cut(self) -> None:
        answer = apart(lambda: "x" * 100_000, LIMIT_S, "the test")
        assert answer == "x" * (ANSWER_BYTES - 1)

    @pytest.mark.parametrize("message", ["what is wrong", "+ what is wrong"])
    def test_an_error_is_raised_here(self, message: str) -> None:
        def fail() -> str:
            raise ValueError(message)

        with pytest.raises(ApartError) as caught:
            apart(fail, LIMIT_S, "the test")
        assert str(caught.value) == message

    def test_an_error_without_a_message_and_a_process_that_dies_are_named(self) -> None:
        def fail() -> str:
            raise ValueError

        def die() -> str:
            os.kill(os.getpid(), signal.SIGKILL)
            return ""

        for work in (fail, die):
            with pytest.raises(ApartError, match="the test: the process that did it died"):
                apart(work, LIMIT_S, "the test")

    def test_one_that_takes_too_long_is_ended(self) -> None:
        read_end, write_end = os.pipe()

        def hang() -> str:
            os.write(write_end, str(os.getpid()).encode())
            time.sleep(LIMIT_S)
            return ""

        with pytest.raises(ApartError, match=r"the test: no answer within 0\.3 s"):
            apart(hang, 0.3, "the test")
        os.close(write_end)
        with os.fdopen(read_end) as told:
            pid = told.read()
        # On a slow machine it may not even have begun.
        if pid:
            wait_until(lambda: state_of(int(pid)) == "", "its end")

    def test_no_descriptor_is_left_open(self) -> None:
        before = set(os.listdir("/proc/self/fd"))
        apart(lambda: "x", LIMIT_S, "the test")
        with pytest.raises(ApartError):
            apart(lambda: str(pause()), 0.1, "the test")
        assert set(os.listdir("/proc/self/fd")) == before
