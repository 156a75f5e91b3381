"""What a server leaves of the pressure to the one that takes its place, as bytes of a fixed form. Pure.

    head      notifications so far and when the last one was, where a recording that is played was begun, two counts
    zones     one of each that was ever under pressure: its state, its simulation, the levels that programs were told
    nodes     one of each while a zone is under pressure: how fast its memory declines, and what its slab had

Times are CLOCK_MONOTONIC nanoseconds, which go on from one server to the next. Who reads it checks all of it: the
server that wrote it may have been taken over, and a time that lies ahead could keep programs from being told for good.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import LEVEL_LOW, LEVELS

NEVER: Final = -1
MOST: Final = 1 << 62
"""No counter gets there."""

_HEAD: Final = struct.Struct("=QqqQHH")
_ZONE: Final = struct.Struct("=i12s24sBBBBqqqQQq")
_NODE: Final = struct.Struct("=iQQ")
_PRESSED, _DUE, _TOLD = 1, 2, 4

_NAME: Final = re.compile(rb"[A-Za-z0-9]{1,12}")
_REASON: Final = re.compile(rb"[a-z_]{1,24}")


class CarriedError(ValueError):
    """What a server has left is not what a server leaves."""


class ToldLevels(NamedTuple):
    """Of a zone's pressure, as indices of `LEVELS`: the highest level told, the present one, and since when that has
    been below (None: it is not)."""

    highest: int
    now: int
    below_since_ns: int | None


class CarriedNode(NamedTuple):
    """By how many pages a second a node's memory declines, and the fewest pages that the kernel's caches ever had."""

    node: int
    decline_pages_s: int
    least_slab_pages: int


class Played(NamedTuple):
    """When the first sample of a recording was played, and how many were."""

    began_ns: int
    samples: int


@dataclass(frozen=True, slots=True)
class CarriedZone:
    """A zone. `pressed`, `reason`, `time_ns` and `raised` are the scanner's, without simulations; `due`: programs have
    yet to be told. `since_ns` is when its pressure began, simulated or not (None: it has none). `simulated_level` is
    that of a simulation.
    """

    zone: ZoneId
    pressed: bool
    reason: str | None
    time_ns: int
    raised: int
    simulations: int = 0
    simulated_until_ns: int | None = None
    due: bool = False
    told: ToldLevels | None = None
    since_ns: int | None = None
    simulated_level: str = LEVEL_LOW


@dataclass(frozen=True, slots=True)
class Carried:
    """All of it; `played` where it is a recording that is looked at."""

    notifications: int = 0
    last_notified_ns: int | None = None
    zones: tuple[CarriedZone, ...] = ()
    nodes: tuple[CarriedNode, ...] = ()
    played: Played | None = None


def encode(carried: Carried) -> bytes:
    """The bytes that `decode` reads."""
    played = carried.played or Played(NEVER, 0)
    counts = len(carried.zones), len(carried.nodes)
    head = _HEAD.pack(carried.notifications, _or_never(carried.last_notified_ns), *played, *counts)
    zones = map(_encode_zone, carried.zones)
    return b"".join([head, *zones, *(_NODE.pack(*each) for each in carried.nodes)])


def decode(data: bytes, now_ns: int, longest_simulation_ns: int) -> Carried:
    """What `encode` was given, at most until `now_ns`. Raises CarriedError."""
    if len(data) < _HEAD.size:
        raise CarriedError(f"{len(data)} bytes are too few")
    notifications, notified_ns, began_ns, samples, zones, nodes = _HEAD.unpack_from(data)
    zones_at = _HEAD.size
    nodes_at = zones_at + zones * _ZONE.size
    if len(data) != nodes_at + nodes * _NODE.size:
        raise CarriedError(f"{len(data)} bytes for {zones} zones and {nodes} nodes")
    played = None
    if began_ns != NEVER:
        played = Played(_past("the recording", began_ns, now_ns), _count("samples", samples))
    carried = Carried(
        notifications=_count("notifications", notifications),
        last_notified_ns=_time("the last notification", notified_ns, now_ns),
        zones=tuple(
            _decode_zone(each, now_ns, longest_simulation_ns) for each in _ZONE.iter_unpack(data[zones_at:nodes_at])
        ),
        nodes=tuple(
            CarriedNode(node, _count("a decline", decline), _count("slab", slab))
            for node, decline, slab in _NODE.iter_unpack(data[nodes_at:])
        ),
        played=played,
    )
    if len({each.zone for each in carried.zones}) < zones:
        raise CarriedError("a zone is there twice")
    return carried


def _encode_zone(each: CarriedZone) -> bytes:
    told = each.told or ToldLevels(0, 0, None)
    flags = _PRESSED * each.pressed | _DUE * each.due | _TOLD * (each.told is not None)
    return _ZONE.pack(
        each.zone.node,
        each.zone.name.encode(),
        (each.reason or "").encode(),
        flags,
        told.highest,
        told.now,
        LEVELS.index(each.simulated_level),
        _or_never(told.below_since_ns),
        each.time_ns,
        _or_never(each.simulated_until_ns),
        each.raised,
        each.simulations,
        _or_never(each.since_ns),
    )


def _decode_zone(fields: tuple[int, ...], now_ns: int, longest_ns: int) -> CarriedZone:
    node, raw_name, raw_reason, flags, highest, now, level, below_ns, time_ns, until_ns, *counts, since_ns = fields
    raised, simulations = counts
    name, reason = bytes(raw_name).rstrip(b"\0"), bytes(raw_reason).rstrip(b"\0")
    if node < 0 or not _NAME.fullmatch(name):
        raise CarriedError(f"not a zone: {node} {name!r}")
    # Both stand in the records that programs read.
    if reason and not _REASON.fullmatch(reason):
        raise CarriedError(f"not a reason: {reason!r}")
    if max(highest, now, level) >= len(LEVELS):
        raise CarriedError(f"not a level: {max(highest, now, level)}")
    told = ToldLevels(highest, now, _time("a level", below_ns, now_ns))
    return CarriedZone(
        zone=ZoneId(node, name.decode()),
        pressed=bool(flags & _PRESSED),
        reason=reason.decode() or None,
        time_ns=_past("evidence", time_ns, now_ns),
        raised=_count("raised", raised),
        simulations=_count("simulations", simulations),
        simulated_until_ns=_time("a simulation", until_ns, now_ns + longest_ns),
        due=bool(flags & _DUE),
        told=told if flags & _TOLD else None,
        since_ns=_time("pressure", since_ns, now_ns),
        simulated_level=LEVELS[level],
    )


def _or_never(time_ns: int | None) -> int:
    return NEVER if time_ns is None else time_ns


def _time(what: str, time_ns: int, latest_ns: int) -> int | None:
    return None if time_ns == NEVER else _past(what, time_ns, latest_ns)


def _past(what: str, time_ns: int, latest_ns: int) -> int:
    if not 0 <= time_ns <= latest_ns:
        raise CarriedError(f"the time of {what} is {time_ns}, which is not to be had by {latest_ns}")
    return time_ns


def _count(what: str, value: int) -> int:
    if value >= MOST:
        raise CarriedError(f"{what}: {value}")
    return value
