"""Mutated kernel files, to every parser of memnotify_cuse/kernel.

Each may return or raise a KernelFileError. Any other exception is a finding, and so is a text that takes more CPU time
than LIMIT_S. Seeds are the captures in tests/fixtures, and samples for what has no capture.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Final

import memnotify_cuse.kernel
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.kernel.zoneinfo import ZoneId
from tests.fuzz.findings import Findings, Outcome
from tests.fuzz.mutate import mutated_text, pick

LIMIT_S: Final = 1.0
"""CPU time for one text of at most 64 KiB. The slowest seed takes half a millisecond."""

FIXTURES: Final = Path(__file__).parents[1] / "fixtures"

_SWAPS: Final = (
    b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    b"/dev/zram0                              partition\t262140\t\t1536\t\t100\n"
    b"/var/swap\\040file                       file\t\t1048572\t\t0\t\t-2\n"
)
_MM_STAT: Final = b"  524288000  190840832 197132288        0 203423744      812        0     1024     4096\n"
_STATUS: Final = (
    b"Name:\ta b)\\nUid:\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4711\nNgid:\t0\nPid:\t4712\nPPid:\t1\n"
    b"Uid:\t1000\t1001\t1002\t1003\nGid:\t1000\t1000\t1000\t1000\nFDSize:\t64\nGroups:\t4 24 \nThreads:\t2\n"
    b"SigQ:\t0/95906\nSigPnd:\t0000000000000000\nShdPnd:\t0000000010000000\nSigBlk:\t0000000000010000\n"
    b"SigIgn:\t0000000000001000\nSigCgt:\t0000000000000440\nCapInh:\t0000000000000000\n"
)
_MOUNTINFO: Final = (
    b"22 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"
    b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    b"90 28 0:52 / /run/mem_notify rw,nosuid,nodev,noexec - fuse.memnotify memnotify rw,user_id=0,allow_other\n"
)
_STAT: Final = (
    b"4712 (a b) (c)) S 1 4711 4711 0 -1 4194560 1265 0 4 0 2 1 0 0 20 0 2 0 1838914 16510976 2412 "
    b"18446744073709551615 94020 94021 140722 0 0 0 0 4096 1088 0 0 0 17 1 "
    b"0 0 0 0 0 94022 94023 94024 140723 140724 140725 140726 0\n"
)
_CAPABILITIES: Final = (
    b"Name:\tCapEff:\t0\nCapInh:\t0000000000000000\nCapPrm:\t0000000000080020\nCapEff:\t0000000000080020\n"
    b"CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n"
)
_FDINFO: Final = b"pos:\t0\nflags:\t0104000\nmnt_id:\t64\nino:\t140123456\n"

_MEMORY_STAT: Final = (
    b"anon 4096\nfile 8192\nfile_mapped 4096\nshmem 0\ninactive_anon 4096\nactive_anon 0\ninactive_file 8192\n"
    b"active_file 0\nslab_reclaimable 4096\npgscan 12\npgsteal 10\n"
)

_TRACE_LINES: Final = (
    b"CPU:0 [LOST 123 EVENTS]",
    b"       my program-4711    [001] .....  1234.568001: mm_vmscan_direct_reclaim_begin: order=0 gfp_flags=GFP_KERNEL",
    b"         kswapd0-52      [000] d..2.  1234.568123: mm_vmscan_lru_shrink_active: nid=0 nr_taken=32 nr_active=0 "
    b"nr_deactivated=32 nr_referenced=0 priority=12 flags=RECLAIM_WB_ANON|RECLAIM_WB_ASYNC",
)
_FILE_CALLS: Final = (
    b"          python-22268   [001] .....  4780.737758: fcntl: (security_file_fcntl+0x0/0x60) "
    b"file=0xffff888004321b00 cmd=4 arg=0x2800\nCPU:1 [LOST 12 EVENTS]\n"
    b"              a b-7      [000] .....  4780.737759: fcntl: (security_file_fcntl+0x0/0x60) "
    b"file=0xffff888004321b00 cmd=15 arg=0xff80123456780001\n"
)


def _latin(data: bytes) -> str:
    """As KernelFile gives it."""
    return data.decode("latin-1")


def _bytes(data: bytes) -> bytes:
    return data


@dataclass(frozen=True, slots=True)
class Target:
    """A parser, `function` of memnotify_cuse.kernel.`module`: what it is given (`decode`), and where seeds are from.

    `fixtures` is a pattern of file names; `samples` stand beside them. `allowed` may come out as well as a
    KernelFileError. `more` are the arguments behind the text.
    """

    module: str
    function: str
    fixtures: str = ""
    samples: tuple[bytes, ...] = ()
    decode: Callable[[bytes], str | bytes] = _latin
    allowed: tuple[type[Exception], ...] = ()
    more: tuple[object, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.module}.{self.function}"

    @property
    def parser(self) -> Callable[..., object] | None:
        """None where the module is not there any more."""
        try:
            return getattr(importlib.import_module(f"memnotify_cuse.kernel.{self.module}"), self.function, None)
        except ModuleNotFoundError:
            return None

    def seeds(self) -> list[bytes]:
        files = sorted(FIXTURES.rglob(self.fixtures)) if self.fixtures else []
        return [*(file.read_bytes() for file in files), *self.samples]


TARGETS: Final = (
    Target("zoneinfo", "parse_zoneinfo", "zoneinfo*"),
    Target("zoneinfo", "insert_status_lines", "zoneinfo*", more=({ZoneId(0, "Normal"): 1, ZoneId(0, "DMA32"): 0},)),
    Target("vmstat", "parse_vmstat", "vmstat*"),
    Target("meminfo", "parse_meminfo", "meminfo*"),
    Target("pressure", "parse_pressure", "pressure_*"),
    Target("trace", "parse_trace", "trace_*", decode=_bytes),
    Target("trace", "parse_line", samples=_TRACE_LINES, decode=_bytes),
    Target("kprobes", "parse_file_calls", samples=(_FILE_CALLS,), decode=_bytes),
    Target("swaps", "parse_swaps", samples=(_SWAPS,)),
    Target("swaps", "parse_mm_stat", samples=(_MM_STAT, b"4096 74 12288 0 12288 0 0\n")),
    Target("process", "parse_thread_status", samples=(_STATUS,)),
    Target("process", "parse_signals", samples=(_STATUS,)),
    Target("mountinfo", "parse_mountinfo", samples=(_MOUNTINFO,), decode=os.fsdecode),
    Target("lru_gen", "parse_lru_gen_enabled", samples=(b"0x0007\n", b"0x0000\n")),
    Target("arcstats", "parse_arcstats", samples=(b"name type data\nsize 4 4194304\nc_min 4 1048576\n",)),
    Target("tiers", "parse_demotion_enabled", samples=(b"true\n", b"0\n")),
    Target("tiers", "parse_nodelist", samples=(b"0,2-3\n", b"\n"), more=("nodelist",)),
    Target("process", "parse_start_time", samples=(_STAT,)),
    Target("capabilities", "parse_capability_masks", samples=(_CAPABILITIES,)),
    Target("fdinfo", "parse_inode", samples=(_FDINFO,), decode=_bytes),
    Target("cgroup", "parse_cgroup", samples=(b"4:memory:/a/b\n0::/c\n",), more=(False,)),
    Target("cgroup", "parse_memory_stat", samples=(_MEMORY_STAT,), more=(True,)),
)
"""Every function `parse_*` of the room is here; the tests look."""


def parsers() -> set[str]:
    """The names, `module.function`, of all functions of memnotify_cuse.kernel that parse."""
    found = set()
    for module in pkgutil.iter_modules(memnotify_cuse.kernel.__path__):
        loaded = importlib.import_module(f"memnotify_cuse.kernel.{module.name}")
        for name, value in vars(loaded).items():
            if name.startswith("parse_") and inspect.isfunction(value) and value.__module__ == loaded.__name__:
                found.add(f"{module.name}.{name}")
    return found


class _TooSlowError(BaseException):
    """Not an Exception: no parser can take it for its own."""


@contextmanager
def _cpu_limit() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGVTALRM, end)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fuzz_texts(count: int, seed: int) -> Outcome:
    """Feed `count` mutated texts, the same ones for the same seed. In the main thread: it uses SIGVTALRM."""
    random = Random(seed)
    findings = Findings()
    facts: Counter[str] = Counter()
    targets = [(each, parser, each.seeds()) for each in TARGETS if (parser := each.parser) is not None]
    start_s = time.monotonic()
    with _cpu_limit():
        for number in range(count):
            target, parser, seeds = targets[number % len(targets)]
            text = mutated_text(pick(seeds, random), random)
            try:
                signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
                result = parser(target.decode(text), *target.more)
                if isinstance(result, Iterator):
                    # It parses as it is read.
                    deque(result, maxlen=0)
                facts["texts were understood"] += 1
            except KernelFileError:
                facts["texts were refused by a KernelFileError"] += 1
            except target.allowed:
                facts["texts were refused by the error that the caller expects"] += 1
            except _TooSlowError:
                findings.add(f"{target.name} took more than {LIMIT_S} s", repr(text))
            except Exception as error:
                findings.add(f"{target.name} raised {type(error).__name__}", repr(text))
    return Outcome("kernel files", count, time.monotonic() - start_s, findings, facts)
