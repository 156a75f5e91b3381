"""The codec against golden bytes, against this machine's <linux/fuse.h>, and against anything at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse import identify
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.endpoint import OPEN_REPLY
from tests.support.programs import Programs, compiler_problem
from tests.transport.messages import fields, poll_request, read_request, request

little = pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes are a little-endian machine's")

HEADER = "28000000 28000000 1817161514131211 2827262524232221 34333231 44434241 54535251 00000000"
FH = 0x0102030405060708
ATTR = (
    "0200000000000000 0000000000000000 0000000000000000 0500000000000000 0500000000000000 0500000000000000"
    "06000000 06000000 06000000 24810000 01000000 07000000 08000000 00000000 00100000 00000000"
)
GOLDEN = {
    "header": HEADER,
    "open_in": "00880000 00000000",
    "read_in": "0807060504030201 0900000000000000 00100000 02000000 0300000000000000 00080000 00000000",
    "release_in": "0807060504030201 01000000 02000000 0300000000000000",
    "poll_in": "0500000000000000 0807060504030201 01000000 41000000",
    "interrupt_in": "0807060504030201",
    "ioctl_in": "0807060504030201 01000000 4d6d0880 0200000000000000 03000000 08000000",
    "error": "10000000 f5ffffff 0900000000000000",
    "open_out": "20000000 00000000 0900000000000000",
    "open_out+": "0700000000000000 35000000 00000000",
    "ioctl_out": "28000000 00000000 0900000000000000",
    "ioctl_out+": "00000000 00000000 00000000 00000000",
    "entry_out": "90000000 00000000 0900000000000000",
    "entry_out+": "0200000000000000 0000000000000000 3c00000000000000 3c00000000000000 00000000 00000000" + ATTR,
    "attr_out": "78000000 00000000 0900000000000000",
    "attr_out+": "3c00000000000000 00000000 00000000" + ATTR,
    "poll_out": "18000000 00000000 0900000000000000",
    "poll_out+": "41000000 00000000",
    "notify": "18000000 01000000 0000000000000000",
    "notify+": "0807060504030201",
}

DECODERS: dict[str, tuple[Callable[[wire.Buffer], object], object]] = {
    "open_in": (wire.decode_open, 0x8800),
    "read_in": (wire.decode_read, wire.ReadRequest(FH, 4096, 0x800)),
    "release_in": (wire.decode_release, FH),
    "poll_in": (wire.decode_poll, wire.PollRequest(5, FH, True)),
    "interrupt_in": (wire.decode_interrupt, FH),
    "ioctl_in": (wire.decode_ioctl, wire.IoctlRequest(FH, 0x80086D4D, 8)),
}


def golden(name: str) -> bytes:
    return bytes.fromhex(GOLDEN[name])


def test_the_golden_bytes_are_those_of_the_kernel_s_header(tmp_path: Path) -> None:
    problem = compiler_problem()
    if problem is not None:
        pytest.skip(problem)
    if not Path("/usr/include/linux/fuse.h").exists():
        pytest.skip("no <linux/fuse.h>")
    program = Programs(Path(__file__).parent, tmp_path)("fuse_messages")
    *lines, opcodes = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    if sys.byteorder == "little":
        assert dict(line.split(" ") for line in lines) == {name: golden(name).hex() for name in GOLDEN}
    known = dict(word.split("=") for word in opcodes.split()[1:])
    assert {opcode.name: str(opcode.value) for opcode in wire.Opcode}.items() <= known.items()


@little
def test_a_header_is_decoded() -> None:
    header = wire.decode_header(golden("header"))
    assert header == (40, 40, 0x1112131415161718, 0x2122232425262728, 0x31323334, 0x41424344, 0x51525354)
    assert wire.HEADER_BYTES == 40


@little
@pytest.mark.parametrize("name", DECODERS)
def test_a_request_is_decoded(name: str) -> None:
    decode, expected = DECODERS[name]
    message = golden("header") + golden(name)
    assert decode(message) == expected
    assert decode(memoryview(message)) == expected
    assert decode(bytearray(message)) == expected


@pytest.mark.parametrize("name", DECODERS)
def test_a_longer_request_of_a_later_protocol_is_decoded(name: str) -> None:
    decode, _ = DECODERS[name]
    message = golden("header") + golden(name)
    assert decode(message + b"\xff" * 16) == decode(message)


@pytest.mark.parametrize("name", DECODERS)
def test_a_truncated_request_is_a_wire_error(name: str) -> None:
    decode, _ = DECODERS[name]
    message = golden("header") + golden(name)
    # What follows the fh of a release is not needed.
    needed = 48 if name == "release_in" else len(message) - (4 if name == "read_in" else 0)
    for length in range(needed):
        with pytest.raises(wire.WireError, match="too short for its opcode"):
            decode(message[:length])


def test_a_truncated_header_is_a_wire_error() -> None:
    for length in range(wire.HEADER_BYTES):
        with pytest.raises(wire.WireError, match="shorter than its header"):
            wire.decode_header(golden("header")[:length])


@pytest.mark.parametrize("says", [0, 39, 41, 2**32 - 1])
def test_a_message_that_is_not_as_long_as_it_says_is_a_wire_error(says: int) -> None:
    with pytest.raises(wire.WireError, match=f"of 40 bytes says that it has {says}"):
        wire.decode_header(fields((4, says)) + golden("header")[4:])


def test_an_unknown_opcode_is_left_to_others() -> None:
    assert wire.decode_header(request(4096, b"")).opcode == 4096


def test_poll_without_a_sleeper_is_not_waiting() -> None:
    assert not wire.decode_poll(poll_request(1)).waiting
    assert wire.decode_poll(poll_request(1, waiting=True)).waiting


def test_a_read_tells_the_flags_of_the_file_now() -> None:
    assert wire.decode_read(read_request(7, 10, 0o4000)) == (7, 10, 0o4000)


@little
def test_replies_are_encoded() -> None:
    assert wire.encode_error(9, 11) == golden("error")
    assert wire.encode_error(9, 0) == bytes.fromhex("10000000 00000000 0900000000000000")
    assert wire.encode_open(9, 7, OPEN_REPLY) == golden("open_out") + golden("open_out+")
    assert wire.encode_poll(9, 0x41) == golden("poll_out") + golden("poll_out+")
    assert wire.encode_ioctl(9, bytes(8)) == golden("ioctl_out") + golden("ioctl_out+") + bytes(8)
    attributes = wire.Attributes(2, 0o100444, 1, 7, 8, 5_000_000_006, 4096)
    assert wire.encode_entry(9, attributes, 60) == golden("entry_out") + golden("entry_out+")
    assert wire.encode_attributes(9, attributes, 60) == golden("attr_out") + golden("attr_out+")
    assert wire.encode_data(9, b"abc") == bytes.fromhex("13000000 00000000 0900000000000000") + b"abc"
    assert wire.encode_notify_poll(FH) == golden("notify") + golden("notify+")


def test_a_name_is_decoded_up_to_its_end() -> None:
    assert wire.decode_lookup(request(1, b"status\0")) == b"status"
    assert wire.decode_lookup(request(1, b"\0")) == b""
    assert wire.decode_lookup(request(1, b"\xff/\0more\0")) == b"\xff/"
    for body in (b"", b"status"):
        with pytest.raises(wire.WireError, match="no end"):
            wire.decode_lookup(request(1, body))


def test_a_reply_says_which_request_it_answers() -> None:
    assert wire.unique_of_reply(wire.encode_error(FH, 5)) == FH
    assert wire.unique_of_reply(wire.encode_notify_poll(FH)) == 0
    with pytest.raises(wire.WireError):
        wire.unique_of_reply(bytes(15))


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("x86_64", 0x80086D4D), ("aarch64", 0x80086D4D), ("s390x", 0x80086D4D), ("riscv64", 0x80086D4D)]
    + [(machine, 0x40086D4D) for machine in ("ppc", "ppc64", "ppc64le", "mips", "mips64", "sparc64", "alpha")],
)
def test_the_number_of_an_ioctl_is_that_of_the_machine(machine: str, expected: int) -> None:
    assert identify.ioctl_read("m", 0x4D, 8, machine) == expected


@given(st.binary(max_size=128), st.booleans())
def test_arbitrary_bytes_raise_nothing_but_wire_error(data: bytes, says_its_length: bool) -> None:
    message = fields((4, len(data))) + data[4:] if says_its_length and len(data) >= 4 else data
    for decode in (
        lambda message: wire.decode_header(message),
        wire.decode_lookup,
        wire.unique_of_reply,
        *(decode for decode, _ in DECODERS.values()),
    ):
        with suppress(wire.WireError):
            decode(message)
