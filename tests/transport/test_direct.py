"""Names and attributes are answered at once, from the table that also the directories are listed from."""

from __future__ import annotations

import errno
import stat

import pytest

from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.transport import tree, wire
from memnotify_cuse.transport.direct import DirectAnswers
from memnotify_cuse.transport.tree import Tree, TreeError
from tests.transport.messages import (
    Reply,
    flush_request,
    getattr_request,
    ioctl_request,
    lookup_request,
    release_request,
    request,
)

NORMAL, DMA32 = ZoneId(0, "Normal"), ZoneId(0, "DMA32")


class Bench:
    def __init__(self) -> None:
        self.zones = [NORMAL]
        self.tree = Tree(lambda: self.zones, owner=(7, 8))
        self.released: list[int] = []
        self._sent: list[bytes] = []
        self._direct = DirectAnswers(self.tree, self._sent.append, self.released.append)

    def ask(self, message: bytes) -> Reply | None:
        """The reply, None if there is none."""
        assert self._direct.handle(wire.decode_header(message), message)
        sent, self._sent[:] = list(self._sent), []
        return Reply.parse(sent[0]) if sent else None

    def lookup(self, name: bytes, parent: int = tree.ROOT) -> int:
        """The inode of a name, or minus the error."""
        reply = self.ask(lookup_request(name, inode=parent))
        assert reply is not None
        return reply.number(0, 8) if reply.error == 0 else -reply.error

    def stat(self, inode: int) -> tuple[int, int, int, int]:
        """Mode, links, user and group as GETATTR gives them."""
        reply = self.ask(getattr_request(inode=inode))
        assert reply is not None
        assert (reply.error, reply.number(0, 8), reply.number(16, 8)) == (0, tree.ATTR_TIMEOUT_S, inode)
        mode, links, uid, gid = (reply.number(start, 4) for start in (76, 80, 84, 88))
        return mode, links, uid, gid


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_every_entry_that_is_listed_is_found_with_the_same_inode_and_mode(bench: Bench) -> None:
    for directory in (tree.ROOT, tree.ZONES):
        for name, node in bench.tree.children(directory).items():
            assert bench.lookup(name, directory) == node.inode
            assert bench.stat(node.inode) == (node.mode, node.links, 7, 8)


def test_a_name_brings_its_attributes_along(bench: Bench) -> None:
    reply = bench.ask(lookup_request(b"simulate", unique=9))
    assert reply is not None
    assert (reply.unique, len(reply.body)) == (9, 128)
    assert [reply.number(start, 8) for start in (0, 8, 16, 24, 40)] == [tree.SIMULATE, 0, 60, 60, tree.SIMULATE]
    assert reply.number(40 + 60, 4) == stat.S_IFREG | 0o200


def test_names_that_are_not_there(bench: Bench) -> None:
    for name in (b"", b"Status", b"status\xff", b"node0-Normal", b"x" * 255):
        assert bench.lookup(name) == -errno.ENOENT
    assert bench.lookup(b"node0-DMA32", tree.ZONES) == -errno.ENOENT
    assert bench.lookup(b"x", tree.STATUS) == -errno.ENOTDIR
    assert bench.lookup(b".", tree.ZONES) == tree.ZONES
    assert bench.lookup(b"..", tree.ZONES) == tree.ROOT
    reply = bench.ask(getattr_request(inode=999, unique=4))
    assert reply == Reply(4, errno.ENOENT, b"")


def test_a_zone_that_comes_later_is_found_and_the_others_keep_their_inodes(bench: Bench) -> None:
    first = bench.lookup(b"node0-Normal", tree.ZONES)
    bench.zones = [DMA32, NORMAL]
    second = bench.lookup(b"node0-DMA32", tree.ZONES)
    assert bench.lookup(b"node0-Normal", tree.ZONES) == first != second
    zones = {inode: topic for inode, topic in bench.tree.device_inodes.items() if isinstance(topic, ZoneId)}
    assert zones == {first: NORMAL, second: DMA32}
    bench.zones = []
    assert bench.lookup(b"node0-Normal", tree.ZONES) == -errno.ENOENT
    assert bench.stat(first)[0] == stat.S_IFREG | 0o444


def test_only_directories_have_children(bench: Bench) -> None:
    for inode in (tree.DEVICE, tree.STATUS, 999):
        with pytest.raises(TreeError):
            bench.tree.children(inode)


def test_what_the_kernel_stops_asking_for_is_enosys(bench: Bench) -> None:
    for opcode in (wire.Opcode.STATX, wire.Opcode.ACCESS):
        assert bench.ask(request(opcode, bytes(32), unique=6)) == Reply(6, errno.ENOSYS, b"")


def test_forgetting_is_not_answered(bench: Bench) -> None:
    for opcode in (wire.Opcode.FORGET, wire.Opcode.BATCH_FORGET):
        assert bench.ask(request(opcode, bytes(16))) is None


def test_the_end_of_an_open_text_is_passed_on_and_answered(bench: Bench) -> None:
    assert bench.ask(flush_request(3, unique=6)) == Reply(6, 0, b"")
    assert bench.released == []
    assert bench.ask(release_request(3, unique=7)) == Reply(7, 0, b"")
    assert bench.released == [3]


def test_no_file_has_an_ioctl(bench: Bench) -> None:
    assert bench.ask(ioctl_request(3, 0x541B, unique=6)) == Reply(6, errno.ENOTTY, b"")
