"""/sys/kernel/mm/lru_gen/enabled."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.lru_gen import LruGen, parse_lru_gen_enabled, read_lru_gen


@pytest.mark.parametrize(
    ("text", "enabled"), [("0x0007\n", True), ("0x0001", True), ("0x0000\n", False), ("0x0006\n", False)]
)
def test_bit_0_is_the_switch(text: str, enabled: bool) -> None:
    assert parse_lru_gen_enabled(text) is enabled


@pytest.mark.parametrize("text", ["", "7\n", "0x\n", "y\n", "0x0007\n\n", "0x7 "])
def test_anything_else_is_malformed(text: str) -> None:
    with pytest.raises(MalformedKernelFileError, match=r"lru_gen/enabled:1"):
        parse_lru_gen_enabled(text)


@given(st.text(max_size=12))
def test_arbitrary_text_parses_or_is_malformed(text: str) -> None:
    with contextlib.suppress(MalformedKernelFileError):
        assert parse_lru_gen_enabled(text) in (True, False)


def test_absent_present_unreadable(tmp_path: Path) -> None:
    assert read_lru_gen(tmp_path) is None
    folder = tmp_path / "kernel" / "mm" / "lru_gen"
    folder.mkdir(parents=True)
    (folder / "enabled").write_text("0x0007\n")
    assert read_lru_gen(tmp_path) is True
    (folder / "enabled").unlink()
    (folder / "enabled").mkdir()
    with pytest.raises(KernelFileGoneError):
        read_lru_gen(tmp_path)


def test_a_switch_that_is_turned(tmp_path: Path) -> None:
    absent = LruGen(tmp_path)
    assert absent.read() is False
    absent.close()
    file = tmp_path / "kernel" / "mm" / "lru_gen" / "enabled"
    file.parent.mkdir(parents=True)
    file.write_text("0x0000\n")
    switch = LruGen(tmp_path)
    assert switch.read() is False
    file.write_text("0x0007\n")
    assert switch.read() is True
    switch.close()
    with pytest.raises(KernelFileGoneError, match="closed"):
        switch.read()
