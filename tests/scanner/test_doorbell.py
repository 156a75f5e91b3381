"""Which doorbell is taken, and that each can be waited for."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest

from memnotify_cuse.kernel.errors import KernelFileError, KernelFileGoneError, NoKernelMemoryError
from memnotify_cuse.kernel.tracefs import find_tracefs
from memnotify_cuse.scanner import doorbell
from memnotify_cuse.scanner.doorbell import (
    Doorbell,
    FirstTrace,
    PsiDoorbell,
    TraceDoorbell,
    open_doorbell,
    open_first_trace,
    open_psi,
    trace_path,
)

PROC = Path("/proc")


def readable(bell: Doorbell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def without_trace(_pid: int) -> None:
    raise KernelFileError("tracefs is not mounted, or not for us to see")


def without_memory(_pid: int) -> None:
    raise NoKernelMemoryError("/sys/kernel/tracing/instances/memnotify-1", "cannot be made: Cannot allocate memory")


@pytest.mark.skipif(os.geteuid() != 0 or find_tracefs() is None, reason="tracefs needs root, and to be mounted")
def test_the_trace_is_taken_where_it_can_be_had() -> None:
    bell = open_doorbell(PROC)
    assert isinstance(bell, TraceDoorbell)
    instance = trace_path(os.getpid())
    assert instance is not None
    try:
        assert instance.exists()
        bell.drain()
        bell.pause(paused=True)
        assert bell.drain() is None
        assert (instance / "tracing_on").read_text().strip() == "0"
        bell.pause(paused=False)
        assert (instance / "tracing_on").read_text().strip() == "1"
    finally:
        bell.close()
    assert not instance.exists()


@pytest.mark.skipif(os.geteuid() != 0 or find_tracefs() is None, reason="tracefs needs root, and to be mounted")
def test_a_server_that_was_given_the_trace_closes_it_and_leaves_the_instance_to_the_keeper() -> None:
    """It has no right to remove it."""
    ended = subprocess.Popen(["true"])
    ended.wait(10)
    trace = open_first_trace(ended.pid)
    assert trace.instance is not None
    assert not trace.may_come
    with trace.instance as instance:
        assert instance.path == trace_path(ended.pid)
        bell = TraceDoorbell(instance.pipe)
        bell.drain()
        bell.close()
        assert instance.path.exists()


@pytest.mark.skipif(not (PROC / "pressure/memory").exists(), reason="this kernel has no PSI")
def test_else_a_psi_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell, "_open_first_trace", without_trace)
    assert open_first_trace() == FirstTrace(None, may_come=False)
    bell = open_doorbell(PROC)
    assert isinstance(bell, PsiDoorbell)
    try:
        assert bell.drain() is None
        assert not readable(bell), "nothing stalls here"
    finally:
        bell.close()


def test_a_trigger_that_hangs_up_is_an_error_and_does_not_ring_for_ever() -> None:
    """As one of a FUSE server that has ended."""
    read_end, write_end = os.pipe()
    bell = PsiDoorbell(read_end, PROC / "pressure" / "memory")
    try:
        assert bell.drain() is None
        os.close(write_end)
        assert readable(bell)
        with pytest.raises(KernelFileGoneError, match=r"pressure/memory: the trigger hung up"):
            bell.drain()
    finally:
        bell.close()


def test_a_spare_that_cannot_be_had_is_not_worth_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert open_psi(tmp_path, spare=True) is None
    assert not caplog.records


def test_else_none_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doorbell, "_open_first_trace", without_trace)
    assert open_doorbell(tmp_path) is None
    assert open_psi(tmp_path) is None
    assert "relying on a timer" in caplog.text
    assert str(tmp_path / "pressure" / "memory") in caplog.text


def test_a_shortage_of_memory_leaves_the_trace_for_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doorbell, "_open_first_trace", without_memory)
    assert open_first_trace() == FirstTrace(None, may_come=True)
    assert "no trace events yet" in caplog.text
