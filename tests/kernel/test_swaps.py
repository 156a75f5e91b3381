"""/proc/swaps and zram's mm_stat, as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.swaps import Swap, ZramStat, parse_mm_stat, parse_swaps

FIXTURES = Path(__file__).parents[1] / "fixtures"
TITLE = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
MM_STAT = "  524288000  190840832 197132288        0 203423744      812        0     1024     4096\n"


def test_no_swap() -> None:
    assert parse_swaps(TITLE) == ()
    assert parse_swaps("") == ()


def test_a_name_with_a_byte_that_looks_like_a_line_end() -> None:
    text = (FIXTURES / "odd" / "swaps_byte_85").read_bytes().decode("latin-1")
    assert parse_swaps(text) == (Swap("/srv/\u00c3\u0085rhus/swapfile", 4194300, 0),)


def test_each_device_and_file() -> None:
    text = (
        f"{TITLE}/dev/zram0                              partition\t262140\t\t1536\t\t100\n"
        "/var/swap\\040file                       file\t\t1048572\t\t0\t\t-2\n"
    )
    swaps = parse_swaps(text)
    assert swaps == (Swap("/dev/zram0", 262140, 1536), Swap("/var/swap\\040file", 1048572, 0))
    assert [swap.zram for swap in swaps] == ["zram0", None]


@pytest.mark.parametrize("name", ["/dev/zram", "/dev/zram0p1", "/var/dev/zram0", "/dev/mapper/zram0"])
def test_what_only_looks_like_zram_is_not(name: str) -> None:
    assert Swap(name, 1, 0).zram is None


@pytest.mark.parametrize(
    ("text", "line"), [("Swap\n", 1), (f"{TITLE}/dev/sda2 partition\n", 2), (f"{TITLE}/a file x 0 -2\n", 2)]
)
def test_what_is_not_so_is_named(text: str, line: int) -> None:
    with pytest.raises(MalformedKernelFileError, match=f"/proc/swaps.*{line}"):
        parse_swaps(text)


def test_mm_stat() -> None:
    assert parse_mm_stat(MM_STAT) == ZramStat(stored_bytes=524288000, memory_bytes=197132288)
    assert parse_mm_stat("4096 74 12288 0 12288 0 0\n") == ZramStat(4096, 12288)


@pytest.mark.parametrize("text", ["", "\n", "1 2\n", "many 1 2 3\n", "-1 2 3 4\n"])
def test_mm_stat_that_is_not_so_is_named(text: str) -> None:
    with pytest.raises(MalformedKernelFileError, match="mm_stat"):
        parse_mm_stat(text)


@pytest.mark.parametrize("name", ["/var/Ångström", "/media/à", "/var/a\fb", "/var/a\x1cb"])
def test_a_name_may_have_any_bytes_that_the_kernel_does_not_escape(name: str) -> None:
    """They come as latin-1 (`KernelFile`), in which half a UTF-8 letter can look like a blank or a line end."""
    as_read = name.encode().decode("latin-1")
    text = (
        f"{TITLE}{as_read}                            file\t\t1048572\t\t7\t\t-2\n/dev/sda2 partition\t9\t\t1\t\t-3\n"
    )
    assert parse_swaps(text) == (Swap(as_read, 1048572, 7), Swap("/dev/sda2", 9, 1))
