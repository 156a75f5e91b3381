"""Which doorbell is taken, and that each can be waited for."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.tracefs import find_tracefs
from memnotify_cuse.scanner import doorbell
from memnotify_cuse.scanner.doorbell import Doorbell, PsiDoorbell, TraceDoorbell, open_doorbell

PROC = Path("/proc")


def readable(bell: Doorbell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def without_trace() -> None:
    raise KernelFileError("tracefs is not mounted, or not for us to see")


@pytest.mark.skipif(os.geteuid() != 0 or find_tracefs() is None, reason="tracefs needs root, and to be mounted")
def test_the_trace_is_taken_where_it_can_be_had() -> None:
    bell = open_doorbell(PROC)
    assert isinstance(bell, TraceDoorbell)
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
    monkeypatch.setattr(doorbell, "_open_trace", without_trace)
    bell = open_doorbell(PROC)
    assert isinstance(bell, PsiDoorbell)
    try:
        assert bell.drain() is None
        assert not readable(bell), "nothing stalls here"
    finally:
        bell.close()


def test_else_none_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doorbell, "_open_trace", without_trace)
    assert open_doorbell(tmp_path) is None
    assert "relying on a timer" in caplog.text
    assert str(tmp_path / "pressure" / "memory") in caplog.text
