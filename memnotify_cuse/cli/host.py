"""What ``memnotify doctor`` looks at, and the form of what it finds."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from memnotify_cuse.kernel.capabilities import Capability, parse_capability_masks
from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.files import read_kernel_text

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``fail``: the server cannot run; ``warn``: it does without something."""

    level: Level
    name: str
    found: str
    meaning: str

    def line(self) -> str:
        """Return ``ok|warn|fail  name: what was found — what it means``."""
        return f"{self.level:<4}  {self.name}: {self.found} — {self.meaning}"


@dataclass(frozen=True, slots=True)
class Host:
    """A machine as one process sees it; a test gives another ``root`` and other rights.

    The capabilities are masks (bit N is capability N). ``memlock_bytes`` is the soft RLIMIT_MEMLOCK, None for
    unlimited.
    """

    root: Path = Path("/")
    euid: int = field(default_factory=os.geteuid)
    effective: int = 0
    bounding: int = 0
    memlock_bytes: int | None = 0

    @property
    def is_this(self) -> bool:
        """Whether it is the machine that runs us, where things can be tried."""
        return self.root == Path("/")

    @property
    def proc(self) -> Path:
        """The /proc of this machine."""
        return self.root / "proc"

    @property
    def sys(self) -> Path:
        """The /sys of this machine."""
        return self.root / "sys"

    def can(self, capability: Capability) -> bool:
        """Whether this process has ``capability``."""
        return bool(self.effective >> capability & 1)

    def could(self, capability: Capability) -> bool:
        """Whether a set-user-id program started by this process could have ``capability``."""
        return bool(self.bounding >> capability & 1)


def this_host() -> Host:
    """Return the machine that runs us. Raises the errors of :func:`parse_capabilities` and its reader."""
    status = Path("/proc/self/status")
    effective, bounding = parse_capabilities(read_kernel_text(status), str(status))
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return Host(
        effective=effective,
        bounding=bounding,
        memlock_bytes=None if limit == resource.RLIM_INFINITY else limit,
    )


def parse_capabilities(text: str, path: str = "/proc/self/status") -> tuple[int, int]:
    """Return the masks CapEff and CapBnd of a /proc/PID/status. Raises MalformedKernelFileError.

    Kernel source: fs/proc/array.c, task_cap().
    """
    masks = parse_capability_masks(text, path)
    try:
        return masks["CapEff"], masks["CapBnd"]
    except KeyError as error:
        raise MalformedKernelFileError(path, 0, f"no line '{error.args[0]}: MASK'") from None
