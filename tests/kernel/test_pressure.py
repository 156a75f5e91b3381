"""/proc/pressure/memory and its triggers."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.pressure import (
    Pressure,
    PressureLine,
    open_memory_trigger,
    parse_pressure,
    read_pressure,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
PSI = Path("/proc/pressure/memory")


def test_some_and_full() -> None:
    text = (FIXTURES / "x86-4.20-noswap" / "pressure_memory").read_text()
    assert parse_pressure(text) == Pressure(
        PressureLine(0.10, 2.00, 3.85, 15),
        PressureLine(0.20, 3.00, 4.95, 25),
    )


def test_no_full_line_is_absent() -> None:
    text = (FIXTURES / "x86-4.20-noswap" / "pressure_cpu").read_text()
    assert parse_pressure(text).full is None


@pytest.mark.parametrize(
    ("text", "line_number"),
    [
        ("", 0),
        ("full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", 0),
        ("some avg10=0.00 avg60=0.00 avg300=0.00 total=0", 1),
        ("some avg10=0.00 avg60=0.00 avg300=0.00\n", 1),
        ("some avg10=0.00 avg60=1e5 avg300=0.00 total=0\n", 1),
        ("some avg10=0.00 avg60=0.00 avg300=0.00 total=-1\n", 1),
        ("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n" * 2, 2),
        ((FIXTURES / "hostile" / "pressure_nan").read_text(), 1),
    ],
)
def test_malformed_text_names_the_line(text: str, line_number: int) -> None:
    with pytest.raises(MalformedKernelFileError) as caught:
        parse_pressure(text)
    assert caught.value.line_number == line_number


@given(st.text())
def test_arbitrary_text_is_malformed(text: str) -> None:
    with pytest.raises(MalformedKernelFileError):
        parse_pressure(text)


def test_reading_a_root(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "memory").write_bytes((FIXTURES / "host-6.18" / "pressure_memory").read_bytes())
    assert read_pressure(tmp_path).full is not None


def test_trigger_without_psi_says_so(tmp_path: Path) -> None:
    with pytest.raises(KernelFileGoneError, match="no pressure stall information"):
        open_memory_trigger(tmp_path, stall_us=150_000, window_us=2_000_000)


def test_trigger_is_one_line_with_a_nul(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    file = tmp_path / "pressure" / "memory"
    file.touch()
    fd = open_memory_trigger(tmp_path, stall_us=150_000, window_us=2_000_000)
    try:
        assert not os.get_inheritable(fd)
        assert not os.get_blocking(fd)
    finally:
        os.close(fd)
    assert file.read_bytes() == b"some 150000 2000000\0"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EOPNOTSUPP, "switched off"),
        (errno.EPERM, "CAP_SYS_RESOURCE"),
        (errno.EINVAL, "a multiple of 2 s"),
        (errno.EBUSY, os.strerror(errno.EBUSY)),
    ],
)
def test_refused_trigger_says_why_and_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "memory").touch()

    def refuse(_fd: int, _data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(KernelFileGoneError, match=re.escape(reason)):
        open_memory_trigger(tmp_path, stall_us=1, window_us=3_000_000)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.skipif(not os.access(PSI, os.W_OK), reason="no writable /proc/pressure/memory")
def test_trigger_on_this_kernel() -> None:
    # Kernels before 6.4 refuse one to an ordinary user; that refusal is covered above.
    if os.geteuid() != 0:
        pytest.skip("not root")
    os.close(open_memory_trigger(Path("/proc"), stall_us=150_000, window_us=2_000_000))
    with pytest.raises(KernelFileGoneError, match="500 ms to 10 s"):
        open_memory_trigger(Path("/proc"), stall_us=10, window_us=1_000)
