"""What `serve` was asked for, and how it says that it cannot: shared by the keeper and the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from memnotify_cuse.device.policy import Policy


class ServeError(Exception):
    """The server cannot start; the message is one line for the user."""


class NodeKind(Enum):
    """What the device is: a character device, a FUSE file shown at its path, or the first where that can be had."""

    AUTO = "auto"
    CUSE = "cuse"
    FUSE = "fuse"


class SigioMode(Enum):
    """When a file is armed.

    While O_ASYNC is set, or as soon as it has an owner if O_ASYNC never was (auto); as soon as it has an owner (owner);
    while O_ASYNC is set (strict); never (off).
    """

    AUTO = "auto"
    OWNER = "owner"
    STRICT = "strict"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Config:
    """What `serve` was asked for. `device` None makes no node outside the mount.

    `replay` is a recording to take the samples from, in place of `proc`; `headroom_kb` None measures it.
    """

    device: Path | None
    mount: Path
    node: NodeKind = NodeKind.AUTO
    proc: Path = Path("/proc")
    replay: Path | None = None
    policy: Policy = field(default_factory=Policy)
    sigio: SigioMode = SigioMode.AUTO
    headroom_kb: int | None = None
