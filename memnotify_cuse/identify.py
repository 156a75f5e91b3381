"""The ioctl by which a thread of ours learns which open file a descriptor belongs to.

`IDENTIFY` is `_IOR('m', 0x4d, char[8])`: the server answers the number of the open file, 8 bytes in host byte order.
How the number of an ioctl is put together differs between machines; include/uapi/asm-generic/ioctl.h has most of them:

    direction 2 bits (read 2) | size 14 bits | type 8 bits | number 8 bits

    powerpc, mips, sparc, alpha: direction 3 bits (read 2) | size 13 bits | type 8 bits | number 8 bits

Source: arch/{powerpc,mips,sparc,alpha}/include/uapi/asm/ioctl.h.
"""

from __future__ import annotations

import platform
from typing import Final

NUMBER_BYTES: Final = 8

_READ: Final = 2
_THREE_DIRECTION_BITS: Final = ("ppc", "powerpc", "mips", "sparc", "alpha")


def ioctl_read(kind: str, number: int, size_bytes: int, machine: str | None = None) -> int:
    """`_IOR(kind, number, size)`: the ioctl by which a driver gives `size_bytes`. `machine` as in uname(2)."""
    machine = platform.machine() if machine is None else machine
    direction_shift = 29 if machine.startswith(_THREE_DIRECTION_BITS) else 30
    return _READ << direction_shift | size_bytes << 16 | ord(kind) << 8 | number


IDENTIFY: Final = ioctl_read("m", 0x4D, NUMBER_BYTES)
