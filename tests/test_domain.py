"""The names of cgroups, and what makes two of them one."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.board import ZoneState
from memnotify_cuse.domain import CGROUP_NODE, MAX_NAME_CHARS, CgroupId, cgroup_name
from memnotify_cuse.kernel.zoneinfo import ZoneId
from memnotify_cuse.record import Record

BYTES_OF_NAMES = st.binary(min_size=1, max_size=400).map(lambda name: str(name, "latin-1"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/system.slice/x.service", "cgroup:/system.slice/x.service"),
        ("/user@1000.service/a-b_c~d!e,f+g:h", "cgroup:/user@1000.service/a-b_c~d!e,f+g:h"),
        ("/a b", "cgroup:/a%20b"),
        ("/level=critical", "cgroup:/level%3Dcritical"),
        ("/a\nnode=0 zone=Normal", "cgroup:/a%0Anode%3D0%20zone%3DNormal"),
        ("/a%20b", "cgroup:/a%2520b"),
        ("/\x00\t\x7f", "cgroup:/%00%09%7F"),
        (str("/gr\u00fcn".encode(), "latin-1"), "cgroup:/gr%C3%BCn"),
        ("/\xff\xfe", "cgroup:/%FF%FE"),
    ],
)
def test_what_could_not_stand_in_a_record_is_percent_encoded(path: str, name: str) -> None:
    assert cgroup_name(path) == name
    cgroup = CgroupId(path)
    assert (cgroup.name, str(cgroup), cgroup.node, cgroup.path) == (name, name, CGROUP_NODE, path)


def test_the_longest_name_is_whole_and_of_a_longer_one_the_end_is_kept() -> None:
    longest = "/" + "a" * (MAX_NAME_CHARS - len("cgroup:/"))
    assert cgroup_name(longest) == f"cgroup:{longest}"
    longer = cgroup_name("/first" + longest + "/last")
    assert len(longer) == MAX_NAME_CHARS
    assert longer.startswith("cgroup:...a")
    assert longer.endswith("a/last")


@pytest.mark.parametrize("shift", range(3))
def test_a_name_is_not_cut_within_a_character(shift: int) -> None:
    path = "/" + " " * 300 + "a" * shift
    kept = cgroup_name(path).removeprefix("cgroup:...")
    assert path.encode("latin-1").endswith(unquote_to_bytes(kept))


def test_one_cgroup_is_equal_by_path_and_generation() -> None:
    first, again, later, other = CgroupId("/a", 1), CgroupId("/a", 1), CgroupId("/a", 2), CgroupId("/b", 1)
    assert first == again
    assert hash(first) == hash(again)
    assert first != later
    assert first != other
    assert len({first, again, later, other}) == 3
    assert {first: "x"}[again] == "x"
    assert first not in {later: "x", other: "x"}


def test_two_long_paths_with_one_name_are_two_cgroups() -> None:
    end = "/" + "a" * MAX_NAME_CHARS
    first, second = CgroupId("/x" + end), CgroupId("/y" + end)
    assert first.name == second.name
    assert first != second
    assert len({first, second}) == 2


def test_a_cgroup_is_never_a_zone() -> None:
    cgroup = CgroupId("/a")
    zone = ZoneId(cgroup.node, cgroup.name)
    assert cgroup != zone
    assert zone != cgroup
    assert len({cgroup: 1, zone: 2}) == 2
    with pytest.raises(ValueError, match="not a zone"):
        ZoneId.parse(str(cgroup))


@given(BYTES_OF_NAMES)
def test_a_record_of_any_cgroup_is_read_back(name: str) -> None:
    state = ZoneState(CgroupId("/" + name), 1, 100, 60, 0, "file_exhausted", 5, level="critical")
    record = Record.parse(state.record(page_kb=4).format())
    assert record == state.record(page_kb=4)
    assert (record.node, record.zone) == (-1, cgroup_name("/" + name))
    assert record.zone.startswith("cgroup:")
    assert len(record.zone) <= MAX_NAME_CHARS
