"""/sys/kernel/mm/lru_gen/enabled: whether the multi-generational LRU (MGLRU) is in use.

    0x0007

Kernel source: mm/vmscan.c, enabled_show(); Documentation/admin-guide/mm/multigen_lru.rst. Bit 0 is the main
switch, the others are parts of it. The file exists since 6.1 with CONFIG_LRU_GEN.
"""

from __future__ import annotations

import re
from pathlib import Path

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.files import KernelFile, read_kernel_text

_PATH = "/sys/kernel/mm/lru_gen/enabled"
_MASK = re.compile(r"0x([0-9a-f]{1,8})\n?")


def parse_lru_gen_enabled(text: str, path: str = _PATH) -> bool:
    """True when bit 0 of the mask is set. Raises MalformedKernelFileError."""
    match = _MASK.fullmatch(text)
    if match is None:
        raise MalformedKernelFileError(path, 1, f"expected a mask like 0x0007, got {text[:40]!r}")
    return bool(int(match[1], 16) & 1)


def read_lru_gen(sys_root: Path = Path("/sys")) -> bool | None:
    """Whether MGLRU is on; None where the kernel does not have it (classic LRU), or /sys is closed to this user.

    Raises KernelFileGoneError when the file exists and cannot be read for another reason.
    """
    file = lru_gen_path(sys_root)
    try:
        text = read_kernel_text(file)
    except KernelFileGoneError as error:
        if isinstance(error.__cause__, (FileNotFoundError, PermissionError)):
            return None
        raise
    return parse_lru_gen_enabled(text, str(file))


def lru_gen_path(sys_root: Path = Path("/sys")) -> Path:
    """Where the switch is."""
    return sys_root / "kernel" / "mm" / "lru_gen" / "enabled"


class LruGen:
    """The switch, kept open, since it can be turned at any time. A kernel without it, or that hides it, has it off."""

    def __init__(self, sys_root: Path = Path("/sys")) -> None:
        self._file: KernelFile | None = None
        try:
            self._file = KernelFile(lru_gen_path(sys_root))
        except KernelFileGoneError:
            return

    def read(self) -> bool:
        """Whether MGLRU is on now. Raises KernelFileGoneError or MalformedKernelFileError."""
        return self._file is not None and parse_lru_gen_enabled(self._file.read_text(), self._file.path)

    def close(self) -> None:
        """Close the file; closing it twice does nothing."""
        if self._file is not None:
            self._file.close()
