"""A text is rendered once for all who read it, and each reader sees one state of it."""

from __future__ import annotations

import pytest

from memnotify_cuse.transport.texts import KEPT_RENDERINGS, Text


class Bench:
    """A text that says how often it was rendered."""

    def __init__(self) -> None:
        self.version = 0
        self.rendered = 0
        self.broken = False
        self.text = Text(self._render, lambda: self.version)

    def _render(self) -> str:
        if self.broken:
            raise OSError("gone")
        self.rendered += 1
        return f"rendering {self.rendered}\n"

    def read(self, generation: int) -> str:
        return self.text.read(generation, 0, 100).decode()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_opens_without_a_change_share_one_rendering(bench: Bench) -> None:
    assert len({bench.text.open() for _ in range(1000)}) == 1
    assert bench.rendered == 1


def test_a_change_is_seen_by_the_next_open_and_not_by_those_before(bench: Bench) -> None:
    before = bench.text.open()
    bench.version += 1
    after = bench.text.open()
    assert (bench.read(before), bench.read(after)) == ("rendering 1\n", "rendering 2\n")


def test_a_reader_in_pieces_sees_one_state_for_a_while_and_then_the_newest(bench: Bench) -> None:
    first = bench.text.open()
    for _ in range(KEPT_RENDERINGS - 1):
        bench.version += 1
        bench.text.open()
    assert bench.text.read(first, 0, 9) + bench.text.read(first, 9, 100) == b"rendering 1\n"
    bench.version += 1
    bench.text.open()
    assert bench.read(first) == f"rendering {KEPT_RENDERINGS + 1}\n"


def test_reads_beyond_the_end_get_nothing(bench: Bench) -> None:
    assert bench.text.read(bench.text.open(), 1 << 40, 10) == b""


def test_a_rendering_that_fails_is_tried_again_at_the_next_open(bench: Bench) -> None:
    bench.broken = True
    with pytest.raises(OSError, match="gone"):
        bench.text.open()
    bench.broken = False
    assert bench.read(bench.text.open()) == "rendering 1\n"
    bench.version, bench.broken = 1, True
    with pytest.raises(OSError, match="gone"):
        bench.text.open()
    bench.broken = False
    assert bench.read(bench.text.open()) == "rendering 2\n"
