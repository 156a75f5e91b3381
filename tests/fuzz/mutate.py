"""Mutations of bytes: each call makes one changed copy, and depends on nothing but its random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

MAX_CHANGES: Final = 4
MAX_GROWN_BYTES: Final = 64 * 1024

HOSTILE: Final = (
    b"",
    b"\0",
    b"\n",
    b"\r",
    b"\n\n",
    b" ",
    b"\t",
    b"-",
    b"-1",
    b"0x",
    b":",
    b"=",
    b"%",
    b"\\",
    b"\\777",
    b"\x1c",
    b"\x85",
    b"\xa0",
    b"\xb2",  # superscript two: a digit to str.isdigit(), no number to int()
    b"\xff",
    "\u0663".encode(),
    "\u2028".encode(),
    b"nan",
    b"1e99",
    b"18446744073709551615",
    b"18446744073709551616",
    b"9" * 21,
    b"9" * 5000,  # more digits than int() takes
    b" " * 3000,
    b"a" * 3000,
)
"""What parsers stumble over, put in at any place."""


def mutated(data: bytes, random: Random) -> bytes:
    """A copy of `data` with one to MAX_CHANGES changes; no longer than MAX_GROWN_BYTES or `data` itself."""
    text = bytearray(data)
    for _ in range(random.randint(1, MAX_CHANGES)):
        _change(text, random)
    return bytes(text[: max(len(data), MAX_GROWN_BYTES)])


def mutated_text(data: bytes, random: Random) -> bytes:
    """As `mutated`, also with whole lines and words moved about, as a torn or unknown kernel file would have them."""
    if random.random() < 0.3:
        separator = random.choice((b"\n", b" "))
        pieces = data.split(separator)
        _move(pieces, random)
        data = separator.join(pieces)
        if random.random() < 0.5:
            return data[:MAX_GROWN_BYTES]
    return mutated(data, random)


def _change(text: bytearray, random: Random) -> None:
    at = random.randrange(len(text) + 1)
    end = min(len(text), at + random.choice((1, 2, 4, 8, random.randint(1, 512))))
    match random.randrange(6):
        case 0 if at < len(text):
            text[at] ^= 1 << random.randrange(8)
        case 1:
            text[at:end] = random.randbytes(end - at)
        case 2:
            del text[at:end]
        case 3:
            text[at:at] = text[at:end]
        case 4:
            del text[at:]
        case _:
            text[at : random.choice((at, end))] = random.choice(HOSTILE)


def _move(pieces: list[bytes], random: Random) -> None:
    first, second = (random.randrange(len(pieces)) for _ in range(2))
    match random.randrange(4):
        case 0:
            pieces[first], pieces[second] = pieces[second], pieces[first]
        case 1:
            pieces.insert(first, pieces[second])
        case 2:
            del pieces[first]
        case _:
            del pieces[min(first, second) : max(first, second)]


def pick(seeds: Sequence[bytes], random: Random) -> bytes:
    return seeds[random.randrange(len(seeds))]
