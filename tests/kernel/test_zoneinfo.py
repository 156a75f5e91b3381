"""/proc/zoneinfo: real machines, constructed ones, malformed ones, and any model that the kernel could print."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.zoneinfo import (
    Node,
    Zone,
    ZoneId,
    Zoneinfo,
    format_zoneinfo,
    insert_status_lines,
    parse_zoneinfo,
    read_zoneinfo,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
ALL = sorted(FIXTURES.glob("**/zoneinfo"))


def load(folder: str) -> Zoneinfo:
    return read_zoneinfo(FIXTURES / folder)


def zone(info: Zoneinfo, name: str) -> Zone:
    return next(z for z in info.zones if str(z.id) == name)


def test_zone_id_as_text_and_back() -> None:
    assert str(ZoneId(12, "DMA32")) == "node12-DMA32"
    assert ZoneId.parse("node12-DMA32") == ZoneId(12, "DMA32")
    assert sorted([ZoneId(10, "DMA"), ZoneId(2, "Normal"), ZoneId(2, "DMA")]) == [
        ZoneId(2, "DMA"),
        ZoneId(2, "Normal"),
        ZoneId(10, "DMA"),
    ]


@pytest.mark.parametrize(
    "text", ["", "all", "node-Normal", "node0", "node00-Normal", "node٣-Normal", "node0-../x", "node0-Normal\n"]
)
def test_zone_id_refuses_what_it_would_not_write(text: str) -> None:
    with pytest.raises(ValueError, match="not a zone"):
        ZoneId.parse(text)


def test_two_nodes_with_empty_zones() -> None:
    info = load("x86-5.14-2node")
    assert [str(z.id) for z in info.zones] == [
        f"node{node}-{name}" for node in (0, 1) for name in ("DMA", "DMA32", "Normal", "Movable", "Device")
    ]
    assert info.nodes == (
        Node(0, 10469, 117, 528007, 119027, 13949, 141, 19608),
        Node(1, 22434, 107, 109598, 42134, 11117, 146, 13828),
    )
    dma = zone(info, "node0-DMA")
    assert dma == Zone(
        ZoneId(0, "DMA"), 3580, None, 42, 52, 62, 4095, 3998, 3840, (0, 1934, 3917, 3917, 3917), 0, 0, 0, 0, 0
    )
    assert dma.lowmem_reserve_pages == 3917
    assert zone(info, "node1-Device") == Zone(
        ZoneId(1, "Device"), 0, None, 0, 0, 0, 0, 0, 0, (0, 0, 0, 0, 0), 0, 0, 0, 0, 0
    )


def test_today_high_is_the_watermark_and_not_the_pagesets() -> None:
    normal = zone(load("host-6.18"), "node0-Normal")
    text = (FIXTURES / "host-6.18" / "zoneinfo").read_text()
    section = text[text.index("zone   Normal") :]
    watermark, *pagesets = (int(n) for n in re.findall(r" high:? +(\d+)", section.partition("Movable")[0]))
    assert pagesets
    assert watermark not in pagesets
    assert normal.high_pages == watermark
    assert normal.min_pages is not None
    assert normal.low_pages is not None
    assert normal.min_pages < normal.low_pages < normal.high_pages
    assert normal.boost_pages == 0
    assert normal.anon_pages == normal.inactive_anon_pages + normal.active_anon_pages > 0
    assert normal.file_pages == normal.inactive_file_pages + normal.active_file_pages > 0


def test_counters_of_the_zone_and_no_managed_pages_before_3_9() -> None:
    info = load("x86-3.2")
    normal = zone(info, "node0-Normal")
    assert normal.managed_pages is None
    assert normal.boost_pages is None
    assert (normal.inactive_anon_pages, normal.active_anon_pages) == (83, 18921)
    assert (normal.inactive_file_pages, normal.active_file_pages) == (253692, 204772)
    assert info.nodes == (Node(0, None, None, None, None, None),)


def test_protection_after_the_counters_until_4_10() -> None:
    info = load("x86-4.9")
    assert zone(info, "node0-DMA").protection_pages == (0, 2934, 3886, 3886, 3886)
    assert info.nodes == (Node(0, 145, 68583, 53782, 23035, 39562, 333),)
    arm = load("arm-4.1")
    assert [str(z.id) for z in arm.zones] == ["node0-Normal"]
    assert arm.zones[0].free_pages < arm.zones[0].high_pages


def test_counter_without_a_name() -> None:
    assert "\n                   176096\n" in (FIXTURES / "x86-4.17" / "zoneinfo").read_text()
    assert load("x86-4.17").nodes == (Node(0, 22677, 53674, 59867, 67285, 23964, 50674, 24966),)


def test_highmem_and_64k_pages() -> None:
    highmem = zone(load("constructed/i386-highmem-6.1"), "node0-HighMem")
    assert (highmem.high_pages, highmem.inactive_anon_pages) == (2050, 35180)
    arm = load("constructed/arm64-64k-6.1")
    assert [z.present_pages > 0 for z in arm.zones] == [True, False, False, False]
    assert arm.zones[0].unevictable_pages == 12


def test_lowmem_reserve_is_the_largest_entry_wherever_it_stands() -> None:
    text = (FIXTURES / "arm-4.1" / "zoneinfo").read_text().replace("(0, 0)", "(0, 700, 30)")
    assert parse_zoneinfo(text).zones[0].lowmem_reserve_pages == 700


def test_node_without_memory_has_no_counters() -> None:
    info = load("constructed/memoryless-node-6.12")
    assert info.nodes == (Node(0, None, None, None, None, None), Node(1, 91399, 1342, 401, 399, 5507, 0, 0))
    normal = zone(info, "node1-Normal")
    assert (normal.boost_pages, normal.high_pages, normal.lowmem_reserve_pages) == (512, 12674, 32768)


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.parent.name)
def test_every_fixture_parses_into_sound_zones(file: Path) -> None:
    info = parse_zoneinfo(file.read_text(), str(file))
    assert {z.id.node for z in info.zones} == {n.node for n in info.nodes}
    for z in info.zones:
        assert z.min_pages is not None
        assert z.low_pages is not None
        assert z.spanned_pages is not None
        assert z.min_pages <= z.low_pages <= z.high_pages
        assert z.managed_pages is None or z.managed_pages <= z.present_pages <= z.spanned_pages
        assert z.present_pages or not (z.anon_pages or z.file_pages or z.free_pages)


@pytest.mark.parametrize(
    ("name", "line_number", "reason"),
    [
        ("zoneinfo_cut_in_a_number", 58, "ends before the end of a line"),
        ("zoneinfo_cut_before_counters", 54, "node0-DMA has no 'nr_zone_inactive_anon'"),
        ("zoneinfo_negative_high", 58, "'        high     -1'"),
    ],
)
def test_malformed_files_name_the_line(name: str, line_number: int, reason: str) -> None:
    with pytest.raises(MalformedKernelFileError, match=re.escape(reason)) as caught:
        parse_zoneinfo((FIXTURES / "hostile" / name).read_text(), "a/zoneinfo")
    assert (caught.value.path, caught.value.line_number) == ("a/zoneinfo", line_number)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Node 0, zone    DMA32", "Node 0, zone      DMA"),
        ("Node 0, zone      DMA\n", "Knot 0, zone      DMA\n"),
        ("  pages free     ", "  pages fee      "),
        ("      nr_zone_active_file ", "      nr_zone_passive_file "),
        ("protection: (0, ", "protection: (0; "),
        ("protection: ", "prohibition: "),
        ("        present  3998", "        present  ٣998"),
        ("        present  3998", "        present  " + "9" * 5000),
        ("        high     ", "        hight    "),
    ],
)
def test_one_wrong_word_is_malformed(old: str, new: str) -> None:
    text = (FIXTURES / "host-6.18" / "zoneinfo").read_text()
    assert old in text
    with pytest.raises(MalformedKernelFileError):
        parse_zoneinfo(text.replace(old, new, 1))


@pytest.mark.parametrize("line", ["", "junk", "        new      7", "        new      many", "      nr_new -1", "a: b"])
@pytest.mark.parametrize(
    "before", ["  pages free", "        spanned", "        high", "      nr_zone_active_an", "Node"]
)
def test_a_line_that_nobody_needs_may_look_like_anything_and_stand_anywhere(before: str, line: str) -> None:
    text = (FIXTURES / "host-6.18" / "zoneinfo").read_text()
    assert parse_zoneinfo(text.replace(before, f"{line}\n{before}", 3)) == parse_zoneinfo(text)


@pytest.mark.parametrize(
    ("old", "new", "node_fields", "zone_fields"),
    [
        ("      nr_active_anon ", "      nr_passive_anon ", {"active_anon_pages": None}, {}),
        ("      nr_mapped    ", "      nr_mapped    x", {"mapped_pages": None}, {}),
        ("      nr_shmem    ", "      nr_shmem    x", {"shmem_pages": None}, {}),
        ("  per-node stats\n", "  per-node facts\n", {}, {}),
        ("        spanned  4095", "        spanned  ٤095", {}, {"spanned_pages": None}),
        ("        min ", "        mean", {}, {"min_pages": None}),
        ("      nr_zone_unevictable ", "      nr_zone_immovable ", {}, {"unevictable_pages": None}),
    ],
)
def test_a_counter_that_only_refines_may_be_missing(
    old: str, new: str, node_fields: dict[str, Any], zone_fields: dict[str, Any]
) -> None:
    text = (FIXTURES / "host-6.18" / "zoneinfo").read_text()
    assert old in text
    sound = parse_zoneinfo(text)
    info = parse_zoneinfo(text.replace(old, new, 1))
    assert info.nodes[0] == replace(sound.nodes[0], **node_fields)
    assert info.zones[0] == replace(sound.zones[0], **zone_fields)
    assert info.zones[1:] == sound.zones[1:]
    assert parse_zoneinfo(format_zoneinfo(info)) == info


def test_empty_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(MalformedKernelFileError):
        parse_zoneinfo("")
    with pytest.raises(KernelFileGoneError, match=r"zoneinfo: .*ENOENT"):
        read_zoneinfo(tmp_path)


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.parent.name)
def test_what_was_parsed_can_be_written_again(file: Path) -> None:
    info = parse_zoneinfo(file.read_text(), str(file))
    assert parse_zoneinfo(format_zoneinfo(info)) == info


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.parent.name)
def test_status_lines_follow_protection_and_change_nothing_else(file: Path) -> None:
    text = file.read_text()
    info = parse_zoneinfo(text)
    status = {z.id: n % 3 - 1 for n, z in enumerate(info.zones)}
    lines = insert_status_lines(text, status).splitlines(keepends=True)
    places = [n for n, line in enumerate(lines) if "mem_notify_status" in line]
    assert [lines[n] for n in places] == [f"  mem_notify_status: {value}\n" for value in status.values()]
    assert all("protection: (" in lines[n - 1] for n in places)
    assert "".join(line for n, line in enumerate(lines) if n not in places) == text


def test_status_lines_only_for_the_named_zones() -> None:
    text = (FIXTURES / "x86-5.14-2node" / "zoneinfo").read_text()
    result = insert_status_lines(text, {ZoneId(1, "Normal"): 1, ZoneId(7, "Normal"): 1})
    assert result.count("mem_notify_status") == 1
    before = result.partition("mem_notify_status")[0]
    assert re.findall(r"^Node.*", before, re.MULTILINE)[-1] == "Node 1, zone   Normal"
    assert insert_status_lines("", {ZoneId(0, "Normal"): 1}) == ""


counts = st.integers(0, 2**64 - 1)
populated = st.tuples(counts, counts, counts, counts, counts)


@st.composite
def zoneinfos(draw: st.DrawFn) -> Zoneinfo:
    zones: list[Zone] = []
    nodes: list[Node] = []
    for node in draw(st.lists(st.integers(0, 1023), min_size=1, max_size=3, unique=True)):
        counters = Node(node, None, None, None, None, None)
        names = draw(
            st.lists(
                st.sampled_from(["DMA", "DMA32", "Normal", "HighMem", "Movable", "Device"]),
                min_size=1,
                unique=True,
            )
        )
        for name in names:
            lru = draw(st.one_of(st.none(), populated))
            if lru is not None and counters.mapped_pages is None:
                counters = Node(node, *draw(populated), draw(counts), draw(counts))
            zones.append(
                Zone(
                    ZoneId(node, name),
                    draw(counts),
                    draw(st.one_of(st.none(), counts)),
                    draw(counts),
                    draw(counts),
                    draw(counts),
                    draw(counts),
                    0 if lru is None else draw(st.integers(1, 2**64 - 1)),
                    draw(st.one_of(st.none(), counts)),
                    tuple(draw(st.lists(counts, min_size=1, max_size=6))),
                    *(lru or (0, 0, 0, 0, 0)),
                )
            )
        nodes.append(counters)
    return Zoneinfo(tuple(zones), tuple(nodes))


def render(info: Zoneinfo) -> str:
    """The text in which mm/vmstat.c would print `info`."""
    out: list[str] = []
    told: set[int] = set()
    nodes = {node.node: node for node in info.nodes}
    for z in info.zones:
        out.append(f"Node {z.id.node}, zone {z.id.name:>8}\n")
        node = nodes[z.id.node]
        if z.present_pages and z.id.node not in told:
            told.add(z.id.node)
            out.append("  per-node stats\n")
            out.append(f"      nr_inactive_anon {node.inactive_anon_pages}\n")
            out.append(f"      nr_active_anon {node.active_anon_pages}\n")
            out.append(f"      nr_inactive_file {node.inactive_file_pages}\n")
            out.append(f"      nr_active_file {node.active_file_pages}\n")
            out.append(f"      nr_unevictable 77\n      nr_slab_reclaimable {node.slab_reclaimable_pages}\n")
            out.append(f"      nr_slab_unreclaimable 4\n      nr_mapped    {node.mapped_pages}\n")
            out.append(f"      nr_shmem     {node.shmem_pages}\n      nr_shmem_hugepages 5\n")
        out.append(f"  pages free     {z.free_pages}\n")
        for key, value in (
            ("boost", z.boost_pages),
            ("min", z.min_pages),
            ("low", z.low_pages),
            ("high", z.high_pages),
            ("promo", 5 if z.boost_pages is not None else None),
            ("spanned", z.spanned_pages),
            ("present", z.present_pages),
            ("managed", z.managed_pages),
            ("cma", 6),
        ):
            if value is not None:
                out.append(f"        {key:8} {value}\n")
        out.append(f"        protection: ({', '.join(map(str, z.protection_pages))})\n")
        if z.present_pages:
            out.append(f"      nr_free_pages {z.free_pages}\n")
            out.append(f"      nr_zone_inactive_anon {z.inactive_anon_pages}\n")
            out.append(f"      nr_zone_active_anon {z.active_anon_pages}\n")
            out.append(f"      nr_zone_inactive_file {z.inactive_file_pages}\n")
            out.append(f"      nr_zone_active_file {z.active_file_pages}\n")
            out.append(f"      nr_zone_unevictable {z.unevictable_pages}\n")
            out.append("  pagesets\n    cpu: 0\n              high:     14\n  start_pfn:           1\n")
    return "".join(out)


@given(zoneinfos())
def test_any_model_comes_back_from_its_text(info: Zoneinfo) -> None:
    assert parse_zoneinfo(render(info)) == info
    assert parse_zoneinfo(format_zoneinfo(info)) == info


@given(st.sampled_from(ALL), st.data())
def test_mutated_text_parses_or_is_malformed(file: Path, data: st.DataObject) -> None:
    text = file.read_text()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 200)))
    mutated = text[:start] + data.draw(st.text(max_size=30)) + text[end:]
    with contextlib.suppress(MalformedKernelFileError):
        parse_zoneinfo(mutated)
    insert_status_lines(mutated, {ZoneId(0, "Normal"): 1})


@given(st.text())
def test_arbitrary_text_is_malformed(text: str) -> None:
    with pytest.raises(MalformedKernelFileError):
        parse_zoneinfo(text)
