"""The server's ``status`` file, as the subcommands read it.

Sample (the leading ``server`` lines may be absent, and keys may be added)::

    server pid=812 version=0.1.0 wakeup=tracefs lru=classic restarts=0
    server open_files=3 notifications=12 uptime_s=345.6
    node=0 zone=Normal status=1 free_pages=5210 high_pages=2100 reserve_pages=0 clear_pages=4200 raised=2 reason=pgscan_anon

Parsed without knowing the keys, so that an older command can show a newer server.
"""  # noqa: E501

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from memnotify_cuse.cli.common import CommandError

Value = int | float | str | None
Pairs = dict[str, Value]

IGNORED = -1
"""The status of a zone that is too small to count."""

_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]+", re.ASCII)


class StatusError(ValueError):
    """A line of the status file that is not key=value pairs. The message gives file, line number and text."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the server says: about itself (``server``; empty if it says nothing) and about each zone.

    Values that look like numbers are int or float, ``-`` (does not apply) is None, everything else is str.
    ``failing`` has the sources that fail, by the keys ``failing`` (which one), ``since_s`` and ``reason``. ``cgroups``
    are those that programs listen in; they are shown to root, and to the owner of the mount.
    """

    server: Pairs
    zones: tuple[Pairs, ...]
    failing: tuple[Pairs, ...] = ()
    cgroups: tuple[Pairs, ...] = ()

    @property
    def is_fine(self) -> bool:
        """Whether nothing fails; an older server does not say, and is taken for fine."""
        return self.server.get("health", "ok") == "ok"

    def zone_names(self) -> list[str]:
        """Return the names that ``simulate`` and ``zones/`` use, such as ``node0-Normal``."""
        return [zone_name(zone) for zone in self.zones if "node" in zone and "zone" in zone]


def zone_name(zone: Pairs) -> str:
    """Return ``node0-Normal`` for the pairs of one zone; absent keys are shown as ``?``."""
    return f"node{zone.get('node', '?')}-{zone.get('zone', '?')}"


def parse_status(text: str, path: str = "status") -> Status:
    """Return what ``text`` says; ``path`` is for messages. Raises StatusError."""
    server: Pairs = {}
    zones: list[Pairs] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        about_server = words[:1] == ["server"]
        pairs: Pairs = {}
        for word in words[about_server:]:
            key, equals, value = word.partition("=")
            if not key or not equals:
                raise StatusError(f"{path}:{number}: {word!r} is not key=value")
            pairs[key] = _value(value)
        if about_server:
            server.update(pairs)
        elif pairs:
            zones.append(pairs)
    return Status(server=server, zones=tuple(zones))


def read_status(mount: str) -> Status:
    """Return the status of the server mounted at ``mount``. Raises CommandError."""
    status = _read(mount, "status")
    try:
        os.stat(os.path.join(mount, "server"))
    except OSError:
        return status
    # The file has the pairs alone, without the word that marks them among the zones of the status file.
    pairs = _read(mount, "server")
    server = dict(status.server | pairs.server)
    failing = tuple(line for line in pairs.zones if "failing" in line)
    for line in pairs.zones:
        if "failing" not in line:
            server.update(line)
    return Status(server=server, zones=status.zones, failing=failing, cgroups=_read_cgroups(mount))


def _read_cgroups(mount: str) -> tuple[Pairs, ...]:
    path = Path(mount, "cgroups")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        # An older server has none, and not everybody may look.
        return ()
    return parse_status(text, str(path)).zones


def _read(mount: str, name: str) -> Status:
    path = Path(mount, name)
    try:
        text = path.read_text(encoding="utf-8")
        return parse_status(text, str(path))
    except StatusError as error:
        raise CommandError(str(error)) from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not text: is {mount} a mount of memnotify serve?") from None
    except OSError as error:
        raise mount_error(mount, error) from None


def mount_error(mount: str, error: OSError) -> CommandError:
    """Say in one line what ``error``, met while using a file in ``mount``, means for the user."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            there = "has no server's files in it" if os.path.isdir(mount) else "does not exist"
            return CommandError(f"{mount} {there}: start the server (memnotify serve), or name its mount with --mount")
        case errno.ENOTCONN | errno.ECONNABORTED:
            return CommandError(f"the server mounted at {mount} is gone: start it again (memnotify serve)")
        case errno.EACCES | errno.EPERM:
            return CommandError(f"no permission for {error.filename or mount}: ask as root or as its owner")
    return CommandError(f"cannot use {error.filename or mount}: {error.strerror}")


def _value(text: str) -> Value:
    if text == "-":
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    # As the server has it, and /proc/mounts.
    return text.replace("\\040", " ").replace("\\134", "\\")
