"""The text record: what is written can be read, and what is not a record is refused by name."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.record import KEYS, Record, RecordError

SAMPLE = Record(
    node=0,
    zone="Normal",
    pressure=1,
    free_pages=123,
    high_pages=45,
    reserve_pages=0,
    reclaim_target_kb=512,
    reason="pgscan_anon",
    time_ns=123456789,
)
LINE = (
    b"node=0 zone=Normal pressure=1 free_pages=123 high_pages=45 reserve_pages=0 reclaim_target_kb=512 "
    b"reason=pgscan_anon time_ns=123456789 level=low\n"
)

numbers = st.integers(-(2**63), 2**63)
words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="="), min_size=1)
records = st.builds(Record, numbers, words, numbers, numbers, numbers, numbers, numbers, words, numbers)


def test_the_line_is_the_one_of_the_contract() -> None:
    assert SAMPLE.format() == LINE


def test_the_fields_are_in_the_order_of_the_keys() -> None:
    assert tuple(field.name for field in dataclasses.fields(Record)) == (*KEYS, "level")


@given(records)
def test_a_formatted_record_reads_back(record: Record) -> None:
    assert Record.parse(record.format()) == record


@given(records)
def test_a_record_is_one_line(record: Record) -> None:
    assert record.format().count(b"\n") == 1
    assert record.format().endswith(b"\n")


@pytest.mark.parametrize("line", [LINE, LINE.rstrip(), LINE.decode(), LINE.decode().rstrip()])
def test_bytes_and_text_with_or_without_newline(line: bytes | str) -> None:
    assert Record.parse(line) == SAMPLE


@pytest.mark.parametrize("extra", [b" colour=red", b" colour=", b" colour=a=b", b" colour=low cgroup=/a"])
def test_later_keys_are_ignored(extra: bytes) -> None:
    assert Record.parse(LINE.rstrip() + extra + b"\n") == SAMPLE


@pytest.mark.parametrize("level", ["low", "medium", "critical"])
def test_the_level_reads_back(level: str) -> None:
    assert Record.parse(dataclasses.replace(SAMPLE, level=level).format()).level == level


def test_a_server_that_says_no_level_means_low() -> None:
    assert Record.parse(LINE.replace(b" level=low", b"")) == SAMPLE


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(RecordError) as caught:
        Record.parse(LINE.replace(b"level=low", b"level=high"))
    assert caught.value.key == "level"


@pytest.mark.parametrize("count", range(len(KEYS)))
def test_a_missing_end_names_the_first_missing_key(count: int) -> None:
    with pytest.raises(RecordError) as caught:
        Record.parse(b" ".join(LINE.split()[:count]))
    assert caught.value.key == KEYS[count]
    assert KEYS[count] in str(caught.value)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["", "\N{SUPERSCRIPT TWO}"])
def test_a_malformed_value_is_refused(key: str, value: str) -> None:
    line = " ".join(f"{name}={value if name == key else getattr(SAMPLE, name)}" for name in KEYS)
    with pytest.raises(RecordError):
        Record.parse(line)


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("zone", "reason")])
@pytest.mark.parametrize("value", ["x", "1.5", "0x10", "+1", "1_000", "-", "9" * 21])
def test_a_malformed_number_names_its_key(key: str, value: str) -> None:
    line = " ".join(f"{name}={value if name == key else getattr(SAMPLE, name)}" for name in KEYS)
    with pytest.raises(RecordError) as caught:
        Record.parse(line)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b"", "node"),
        (b"\n", "node"),
        (LINE.replace(b"zone=Normal ", b""), "zone"),
        (LINE.replace(b"node=0 zone=Normal", b"zone=Normal node=0"), "node"),
        (LINE.replace(b" zone", b"  zone"), "zone"),
        (LINE.replace(b"zone=Normal", b"zone=No=rmal"), "zone"),
        (LINE.replace(b"free_pages=", b"free_pages:"), "free_pages"),
        (LINE.rstrip() + b" level\n", "level"),
        (LINE.rstrip() + b" =low\n", ""),
        (LINE + LINE, ""),
        (LINE.replace(b"Normal", b"Norm\xe4l"), ""),
        (LINE.replace(b"Normal", b"Norm\tal"), ""),
        (b"\0" * 64, ""),
    ],
)
def test_what_is_not_a_record_is_refused(line: bytes, key: str) -> None:
    with pytest.raises(RecordError) as caught:
        Record.parse(line)
    assert caught.value.key == key
    assert isinstance(caught.value, ValueError)


@given(st.binary() | st.text())
def test_anything_else_is_a_record_error(line: bytes | str) -> None:
    try:
        Record.parse(line)
    except RecordError:
        return
    raise AssertionError("random input was taken for a record")


@pytest.mark.parametrize("word", ["", "two words", "a=b", "line\n", "M\N{LATIN SMALL LETTER O WITH DIAERESIS}"])
@pytest.mark.parametrize("key", ["zone", "reason"])
def test_a_word_that_could_not_be_read_back_is_not_written(key: str, word: str) -> None:
    record = dataclasses.replace(SAMPLE, zone=word) if key == "zone" else dataclasses.replace(SAMPLE, reason=word)
    with pytest.raises(RecordError) as caught:
        record.format()
    assert caught.value.key == key
