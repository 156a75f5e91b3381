"""Which doorbell is taken, and that each can be waited for."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from memnotify_cuse.kernel.errors import KernelFileError, NoKernelMemoryError
from memnotify_cuse.kernel.tracefs import find_tracefs
from memnotify_cuse.scanner import doorbell
from memnotify_cuse.scanner.doorbell import Doorbell, PsiDoorbell, TraceDoorbell, open_doorbell

PROC = Path("/proc")


def readable(bell: Doorbell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def without_trace() -> None:
    raise KernelFileError("tracefs is not mounted, or not for us to see")


def without_memory() -> None:
    raise NoKernelMemoryError("/sys/kernel/tracing/instances/memnotify-1", "cannot be made: Cannot allocate memory")


@pytest.mark.skipif(os.geteuid() != 0 or find_tracefs() is None, reason="tracefs needs root, and to be mounted")
def test_the_trace_is_taken_where_it_can_be_had() -> None:
    bell, trace_may_come = open_doorbell(PROC)
    assert isinstance(bell, TraceDoorbell)
    assert not trace_may_come
    instance = bell._instance.path
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


@pytest.mark.skipif(not (PROC / "pressure/memory").exists(), reason="this kernel has no PSI")
def test_else_a_psi_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell, "_open_first_trace", without_trace)
    bell, trace_may_come = open_doorbell(PROC)
    assert isinstance(bell, PsiDoorbell)
    assert not trace_may_come
    try:
        assert bell.drain() is None
        assert not readable(bell), "nothing stalls here"
    finally:
        bell.close()


def test_else_none_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doorbell, "_open_first_trace", without_trace)
    assert open_doorbell(tmp_path) == (None, False)
    assert "relying on a timer" in caplog.text
    assert str(tmp_path / "pressure" / "memory") in caplog.text


def test_a_shortage_of_memory_leaves_the_trace_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doorbell, "_open_first_trace", without_memory)
    assert open_doorbell(tmp_path) == (None, True)
    assert "no trace events yet" in caplog.text
