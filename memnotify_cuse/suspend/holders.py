"""Which processes have a file of the device open: a node, or anything in the mount of a server.

Each descriptor is looked at through /proc/PID/fd without a request to its file system (AT_STATX_DONT_SYNC), so that
neither our own server nor a silent one can hold this up. Network file systems are the exception: the kernel revalidates
what such a link leads to. A descriptor on one of these is not looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memnotify_cuse.kernel.statx import FileId, file_id_at

FSTYPE: Final = "fuse.memnotify"
SYS_CUSE: Final = Path("/sys/class/cuse")
CUSE_PREFIX: Final = "mem_notify"
"""How the names of the character devices begin whose holders are looked for."""
OUR_PREFIX: Final = "memnotify-"
SERVER: Final = "memnotify-serve"
"""What the process that answers is called, and how the names of all under the keeper begin."""
CONNECTIONS: Final = ("/dev/fuse", "/dev/cuse")
NETWORK: Final = ("nfs", "cifs", "smb", "afs", "ceph", "9p", "coda", "gfs2", "ocfs2", "lustre")
"""How the types of file systems begin whose answers may come from another machine."""

_MOUNT_ID: Final = re.compile(rb"^mnt_id:\t([0-9]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Process:
    """A process and its name, which it may have chosen itself."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class Found:
    """`holders` have a file of the device open; `servers` have the name and a connection of one that answers."""

    holders: tuple[Process, ...]
    servers: tuple[Process, ...]


def find_holders(proc: Path = Path("/proc"), sys_cuse: Path = SYS_CUSE) -> Found:
    """Look at all processes but this one. Those that begin or end meanwhile may be missing."""
    devices = served_devices(proc, sys_cuse)
    networks: dict[str, frozenset[bytes]] = {}
    holders, servers = [], []
    for pid in _pids(proc):
        folder = proc / str(pid)
        try:
            process = Process(pid, (folder / "comm").read_text(errors="replace").rstrip("\n"))
            if process.name == SERVER and _has_connection(folder):
                servers.append(process)
            elif devices and _holds(folder, devices, networks):
                holders.append(process)
        except OSError:
            # It has ended.
            continue
    return Found(tuple(holders), tuple(servers))


def served_devices(proc: Path = Path("/proc"), sys_cuse: Path = SYS_CUSE) -> frozenset[FileId]:
    """The numbers of the mounts and of the character devices that are served now."""
    found = set()
    for namespace in ("self", "1"):
        try:
            lines = (proc / namespace / "mountinfo").read_bytes().split(b"\n")
        except OSError:
            continue
        for line in lines:
            if f" - {FSTYPE} ".encode() in line:
                found.add(_file_id(line.split(b" ")[2].decode(), is_character_device=False))
    for node in sys_cuse.glob(f"{CUSE_PREFIX}*"):
        try:
            found.add(_file_id((node / "dev").read_text(), is_character_device=True))
        except OSError:
            continue
    return frozenset(found)


def _file_id(numbers: str, *, is_character_device: bool) -> FileId:
    major, _, minor = numbers.partition(":")
    return FileId(is_character_device, int(major), int(minor))


def _pids(proc: Path) -> Iterator[int]:
    own = os.getpid()
    return (int(name) for name in os.listdir(proc) if name.isdecimal() and int(name) != own)


def _has_connection(folder: Path) -> bool:
    for name in os.listdir(folder / "fd"):
        try:
            if os.readlink(folder / "fd" / name) in CONNECTIONS:
                return True
        except OSError:
            continue
    return False


def _holds(folder: Path, devices: Collection[FileId], networks: dict[str, frozenset[bytes]]) -> bool:
    """Whether a process has one of `devices` open. `networks` is kept from one process to the next."""
    avoid = _network_mounts(folder, networks)
    for name in os.listdir(folder / "fd"):
        try:
            if avoid and _mount_id((folder / "fdinfo" / name).read_bytes()) in avoid:
                continue
            if file_id_at(str(folder / "fd" / name)) in devices:
                return True
        except OSError:
            # It has been closed.
            continue
    return False


def _network_mounts(folder: Path, networks: dict[str, frozenset[bytes]]) -> frozenset[bytes]:
    """The ids of the mounts of network file systems that a process sees; by mount namespace, to read each once."""
    namespace = os.readlink(folder / "ns" / "mnt")
    if namespace not in networks:
        found = set()
        for line in (folder / "mountinfo").read_bytes().split(b"\n"):
            mount, separator, rest = line.partition(b" - ")
            if separator and rest.startswith(tuple(kind.encode() for kind in NETWORK)):
                found.add(mount.split(b" ", 1)[0])
        networks[namespace] = frozenset(found)
    return networks[namespace]


def _mount_id(fdinfo: bytes) -> bytes | None:
    match = _MOUNT_ID.search(fdinfo)
    return match[1] if match else None
