"""What the setting up hands over to the servers: descriptors, and what they have to know, in one message on a channel.

    given NAME,…\\0KEY=VALUE\\0…     and the descriptors of these names

The setting up sends it to the keeper, which keeps it, and sends it to each server.

Paths can have any byte but zero in them.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memnotify_cuse.config import Config, NodeKind, SigioMode
from memnotify_cuse.device.policy import Policy
from memnotify_cuse.keeper.channel import Channel
from memnotify_cuse.keeper.rights import Identity
from memnotify_cuse.kernel.tracefs import TracePipe

_WORD: Final = "given"


@dataclass(frozen=True, slots=True)
class Given:
    """What a server begins with.

    `fuse_fd` and `cuse_fd` (None: no character device) are the connections, `lock_fd` holds the directory under the
    mount, `state_fd` is the state file (`statefile`). The inodes of the mount are above `first_inode`. `trace` is None
    where there is none, which may come to be (`trace_may_come`); `flags_trace` is for mode `strict`. `refused` is what
    was not permitted to be done for the server.
    """

    config: Config
    log_level: str
    node: str
    first_inode: int
    fuse_fd: int
    lock_fd: int
    state_fd: int
    cuse_fd: int | None = None
    trace: TracePipe | None = None
    trace_may_come: bool = False
    flags_trace: TracePipe | None = None
    identity: Identity | None = None
    refused: tuple[str, ...] = ()


def hand_over(channel: Channel, given: Given) -> bool:
    """Send it, with duplicates of the descriptors; False if there is no process to receive it."""
    config = given.config
    fds = {"fuse": given.fuse_fd, "lock": given.lock_fd, "state": given.state_fd}
    if given.cuse_fd is not None:
        fds["cuse"] = given.cuse_fd
    words = {
        "log_level": given.log_level,
        "node_is": given.node,
        "first_inode": str(given.first_inode),
        "trace_may_come": "yes" if given.trace_may_come else "",
        "identity": " ".join(map(str, given.identity or ())),
        "refused": "\n".join(given.refused),
        "device": str(config.device or ""),
        "mount": str(config.mount),
        "node": config.node.value,
        "proc": str(config.proc),
        "replay": str(config.replay or ""),
        "sigio": config.sigio.value,
        "headroom_kb": str(config.headroom_kb or ""),
        "herd_divisor": str(config.policy.herd_divisor or ""),
    }
    for name, trace in (("trace", given.trace), ("flags", given.flags_trace)):
        if trace is not None:
            words[name] = str(trace.path)
            fds |= {f"{name}_pipe": trace.pipe, f"{name}_switch": trace.switch}
    text = "\0".join([",".join(fds), *(f"{key}={value}" for key, value in words.items())])
    return channel.send(_WORD, text, tuple(fds.values()))


def take_over(channel: Channel) -> Given | None:
    """Wait for it; None if the other end has ended without handing anything over."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    poll.poll()
    try:
        message = channel.receive()
    except EOFError:
        return None
    if message is None or message[0] != _WORD:
        return None
    names, *pairs = message[1].split("\0")
    words = dict(pair.split("=", 1) for pair in pairs)
    fds = dict(zip(names.split(","), message[2], strict=True))
    numbers = words["identity"].split()
    return Given(
        config=_config(words),
        log_level=words["log_level"],
        node=words["node_is"],
        first_inode=int(words["first_inode"]),
        fuse_fd=fds["fuse"],
        lock_fd=fds["lock"],
        state_fd=fds["state"],
        cuse_fd=fds.get("cuse"),
        trace=_trace("trace", words, fds),
        trace_may_come=bool(words["trace_may_come"]),
        flags_trace=_trace("flags", words, fds),
        identity=(int(numbers[0]), int(numbers[1])) if numbers else None,
        refused=tuple(filter(None, words["refused"].split("\n"))),
    )


def close_handed_over(given: Given) -> None:
    """Close the descriptors here: they are the server's now, and a connection ends with its last one."""
    for fd in (given.fuse_fd, given.lock_fd, given.state_fd, given.cuse_fd):
        if fd is not None:
            os.close(fd)
    for trace in (given.trace, given.flags_trace):
        if trace is not None:
            trace.close()


def _config(words: dict[str, str]) -> Config:
    return Config(
        device=Path(words["device"]) if words["device"] else None,
        mount=Path(words["mount"]),
        node=NodeKind(words["node"]),
        proc=Path(words["proc"]),
        replay=Path(words["replay"]) if words["replay"] else None,
        policy=Policy(herd_divisor=int(words["herd_divisor"]) if words["herd_divisor"] else None),
        sigio=SigioMode(words["sigio"]),
        headroom_kb=int(words["headroom_kb"]) if words["headroom_kb"] else None,
    )


def _trace(name: str, words: dict[str, str], fds: dict[str, int]) -> TracePipe | None:
    return TracePipe(Path(words[name]), fds[f"{name}_pipe"], fds[f"{name}_switch"]) if name in words else None
