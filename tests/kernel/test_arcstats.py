"""/proc/spl/kstat/zfs/arcstats."""

from __future__ import annotations

import pytest

from memnotify_cuse.kernel.arcstats import parse_arcstats
from memnotify_cuse.kernel.errors import MalformedKernelFileError

TEXT = """9 1 0x01 147 39984 1405644657 619562335795635
name                            type data
hits                            4    138399132
c                               4    8589934592
c_min                           4    2107832704
c_max                           4    8589934592
size                            4    8345812312
compressed_size                 4    7000000000
l2_size                         4    1
memory_available_bytes          3    -174063616
"""


def test_what_zfs_gives_back_is_what_it_holds_above_its_minimum() -> None:
    stats = parse_arcstats(TEXT)
    assert (stats.size_bytes, stats.c_min_bytes) == (8345812312, 2107832704)
    assert stats.reclaimable_kb == (8345812312 - 2107832704) // 1024


def test_a_small_cache_gives_nothing_back() -> None:
    assert parse_arcstats("size 4 1000\nc_min 4 2107832704\n").reclaimable_kb == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), ("size 4 1000\n", "c_min"), (TEXT.replace("size   ", "size -"), "size"), ("c_min 4 1\n", "size")],
)
def test_a_size_that_is_missing_is_named(text: str, reason: str) -> None:
    with pytest.raises(MalformedKernelFileError, match=reason):
        parse_arcstats(text)
