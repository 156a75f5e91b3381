"""What was changed, written down before it is, so that it is put back whatever happens."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.reclaim.counters import STATE_PATH, ZRAM_CONTROL, ReclaimError, read_sysctl, write_sysctl


@dataclass(slots=True)
class Undo:
    """What was changed, as kept in the state file."""

    owner_pid: int
    owner_start_ticks: int
    sysctls: dict[str, str] = field(default_factory=dict)
    zram_index: int | None = None
    files: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Write the state file in one step, so that a crash leaves the old or the new one."""
        temporary = STATE_PATH.with_suffix(".tmp")
        temporary.write_text(
            json.dumps(
                {
                    "owner_pid": self.owner_pid,
                    "owner_start_ticks": self.owner_start_ticks,
                    "sysctls": self.sysctls,
                    "zram_index": self.zram_index,
                    "files": self.files,
                }
            )
        )
        temporary.replace(STATE_PATH)

    def apply(self) -> None:
        """Put everything back, keep going on errors, and drop the state file if nothing is left to do."""
        problems = []
        for name, value in self.sysctls.items():
            try:
                if read_sysctl(name) != value:
                    write_sysctl(name, value)
            except OSError as error:
                problems.append(f"{name}: {error}")
        for name in self.files:
            Path(name).unlink(missing_ok=True)
        if self.zram_index is not None:
            try:
                remove_zram(self.zram_index)
            except OSError as error:
                problems.append(f"zram{self.zram_index}: {error}")
        if problems:
            raise ReclaimError("not everything could be put back: " + "; ".join(problems))
        STATE_PATH.unlink(missing_ok=True)


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is gone or only a zombie is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def read_undo() -> Undo | None:
    try:
        return Undo(**json.loads(STATE_PATH.read_text()))
    except FileNotFoundError:
        return None


def restore_leftovers() -> bool:
    """Put back what a crashed run left; True when there was something. A run still alive is an error."""
    undo = read_undo()
    if undo is None:
        return False
    if start_ticks(undo.owner_pid) == undo.owner_start_ticks:
        raise ReclaimError(f"process {undo.owner_pid} is making real reclaim now")
    undo.apply()
    return True


def _libc_call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def add_zram(index: int, size_bytes: int) -> None:
    """Make a swap area of the zram device `index` and swap to it before any other."""
    block = Path(f"/sys/block/zram{index}")
    node = Path(f"/dev/zram{index}")
    algorithms = (block / "comp_algorithm").read_text().replace("[", "").replace("]", "").split()
    for wanted in ("lz4", "lzo-rle"):
        if wanted in algorithms:
            (block / "comp_algorithm").write_text(wanted)
            break
    (block / "disksize").write_text(str(size_bytes))
    if not node.exists():
        major, minor = map(int, (block / "dev").read_text().split(":"))
        os.mknod(node, 0o600 | 0o060000, os.makedev(major, minor))
    subprocess.run(["mkswap", str(node)], check=True, capture_output=True)
    swap_flag_prefer, priority = 0x8000, 100
    _libc_call("swapon", os.fsencode(node), swap_flag_prefer | priority)


def remove_zram(index: int) -> None:
    node = f"/dev/zram{index}"
    block = Path(f"/sys/block/zram{index}")
    if not block.exists():
        return
    if any(line.startswith(node + " ") for line in Path("/proc/swaps").read_text().splitlines()):
        _libc_call("swapoff", os.fsencode(node))
    for attempt in range(50):
        try:
            (block / "reset").write_text("1")
            (ZRAM_CONTROL / "hot_remove").write_text(str(index))
            return
        except OSError:
            # udev and the like open a new block device for a moment.
            if attempt == 49:
                raise
            time.sleep(0.02)
