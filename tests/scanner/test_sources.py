"""Which wakeup source is taken, and that each can be waited for."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest

from memnotify_cuse.kernel.errors import KernelFileError, KernelFileGoneError, NoKernelMemoryError
from memnotify_cuse.kernel.tracefs import find_tracefs
from memnotify_cuse.scanner import sources
from memnotify_cuse.scanner.sources import (
    FirstTrace,
    PsiSource,
    TraceSource,
    WakeupSource,
    open_first_trace,
    open_psi,
    open_source,
    trace_path,
)

PROC = Path("/proc")


def readable(source: WakeupSource) -> bool:
    return bool(select.select([source], [], [], 0)[0])


def without_trace(_pid: int) -> None:
    raise KernelFileError("tracefs is not mounted, or not for us to see")


def without_memory(_pid: int) -> None:
    raise NoKernelMemoryError("/sys/kernel/tracing/instances/memnotify-1", "cannot be made: Cannot allocate memory")


@pytest.mark.skipif(os.geteuid() != 0 or find_tracefs() is None, reason="tracefs needs root, and to be mounted")
def test_the_trace_is_taken_where_it_can_be_had() -> None:
    source = open_source(PROC)
    assert isinstance(source, TraceSource)
    instance = trace_path(os.getpid())
    assert instance is not None
    try:
        assert instance.exists()
        source.drain()
        source.pause(paused=True)
        assert source.drain() is None
        assert (instance / "tracing_on").read_text().strip() == "0"
        source.pause(paused=False)
        assert (instance / "tracing_on").read_text().strip() == "1"
    finally:
        source.close()
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
        source = TraceSource(instance.pipe)
        source.drain()
        source.close()
        assert instance.path.exists()


@pytest.mark.skipif(not (PROC / "pressure/memory").exists(), reason="this kernel has no PSI")
def test_else_a_psi_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_open_first_trace", without_trace)
    assert open_first_trace() == FirstTrace(None, may_come=False)
    source = open_source(PROC)
    assert isinstance(source, PsiSource)
    try:
        assert source.drain() is None
        assert not readable(source), "nothing stalls here"
    finally:
        source.close()


def test_a_trigger_that_hangs_up_is_an_error_and_does_not_ring_for_ever() -> None:
    """As one of a FUSE server that has ended."""
    read_end, write_end = os.pipe()
    source = PsiSource(read_end, PROC / "pressure" / "memory")
    try:
        assert source.drain() is None
        os.close(write_end)
        assert readable(source)
        with pytest.raises(KernelFileGoneError, match=r"pressure/memory: the trigger hung up"):
            source.drain()
    finally:
        source.close()


def test_a_spare_that_cannot_be_had_is_not_worth_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert open_psi(tmp_path, spare=True) is None
    assert not caplog.records


def test_else_none_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sources, "_open_first_trace", without_trace)
    assert open_source(tmp_path) is None
    assert open_psi(tmp_path) is None
    assert "relying on a timer" in caplog.text
    assert str(tmp_path / "pressure" / "memory") in caplog.text


def test_a_shortage_of_memory_leaves_the_trace_for_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sources, "_open_first_trace", without_memory)
    assert open_first_trace() == FirstTrace(None, may_come=True)
    assert "no trace events yet" in caplog.text
