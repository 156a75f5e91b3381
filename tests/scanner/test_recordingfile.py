"""Recordings as files: whole, cut short, damaged, and not to be written at all."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.scanner import recordingfile
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.recording import Header
from memnotify_cuse.scanner.recordingfile import Recording, RecordingSource, RecordingWriter
from memnotify_cuse.scanner.sample import Sample
from tests.scanner.samples import CLASSIC, sample, shrink, zone
from tests.support.replay import TRACES, capture, play_samples

HEADER = Header(CLASSIC, "6.18.44", "tracefs")
SAMPLES = [
    sample(zone(free=100_000 - 7 * n), time_ms=20 * n, pgscan_kswapd=n * n, events=[shrink(n)]) for n in range(50)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.jsonl.gz"


def write(path: Path, samples: list[Sample]) -> bytes:
    with RecordingWriter(path, HEADER) as writer:
        for each in samples:
            writer.write(each)
    return path.read_bytes()


WHOLE = gzip.decompress((TRACES / "episode.jsonl.gz").read_bytes())
EPISODE = list(capture("episode").samples())


@contextmanager
def file_of(data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "some.jsonl.gz")
        path.write_bytes(data)
        yield path


def samples_or_error(path: Path) -> list[Sample] | str:
    try:
        return list(Recording(path).samples())
    except RecordingError as error:
        return str(error)


def test_what_was_written_is_read_again_and_again(path: Path) -> None:
    write(path, SAMPLES)
    recording = Recording(path)
    assert recording.header == HEADER
    assert list(recording.samples()) == SAMPLES
    assert list(recording.samples()) == SAMPLES


def test_gzip_can_read_it(path: Path) -> None:
    assert gzip.decompress(write(path, SAMPLES)).count(b"\n") == 1 + len(SAMPLES)


def test_every_sample_is_in_the_file_at_once(path: Path) -> None:
    with RecordingWriter(path, HEADER) as writer:
        assert list(Recording(path).samples()) == []
        for count, each in enumerate(SAMPLES, start=1):
            writer.write(each)
            assert list(Recording(path).samples()) == SAMPLES[:count]
            assert (writer.samples, writer.size_bytes) == (count, path.stat().st_size)


def test_a_source_is_listened_in_on(path: Path) -> None:
    class Source:
        def sample(self, events: tuple[TraceEvent, ...] | None = None) -> Sample:
            return sample(time_ms=5, events=events)

    with RecordingWriter(path, HEADER) as writer:
        source = RecordingSource(Source(), writer)
        assert source.sample() == sample(time_ms=5)
        assert source.sample((shrink(),)) == sample(time_ms=5, events=[shrink()])
    assert list(Recording(path).samples()) == [sample(time_ms=5), sample(time_ms=5, events=[shrink()])]


def test_a_file_that_exists_is_refused_unless_it_is_to_be_replaced(path: Path) -> None:
    before = write(path, SAMPLES)
    with pytest.raises(RecordingError, match=f"^{path}: File exists$"):
        RecordingWriter(path, HEADER)
    assert path.read_bytes() == before
    RecordingWriter(path, HEADER, replace=True).close()
    assert list(Recording(path).samples()) == []


def test_a_full_disk_is_one_error() -> None:
    with pytest.raises(RecordingError, match=r"^/dev/full: No space left on device$"):
        RecordingWriter(Path("/dev/full"), HEADER, replace=True)


LIMITED = """
import resource, signal, sys
from pathlib import Path
from memnotify_cuse.scanner.recordingfile import Recording, RecordingWriter
from memnotify_cuse.scanner.errors import RecordingError
source = Recording(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3001, 3001))
with RecordingWriter(Path(sys.argv[2]), source.header) as writer:
    try:
        for each in source.samples():
            writer.write(each)
    except RecordingError as error:
        print(writer.samples, error)
"""


def test_a_disk_that_fills_up_leaves_what_was_there_before(path: Path) -> None:
    """The limit on a file's size cuts a write short, as a disk does that fills up."""
    argv = [sys.executable, "-c", LIMITED, str(TRACES / "episode.jsonl.gz"), str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    count, _, reason = done.stdout.strip().partition(" ")
    assert reason == f"{path}: File too large"
    assert path.stat().st_size == 3001
    assert 10 < int(count) < len(EPISODE)
    found = list(Recording(path).samples())
    assert found == EPISODE[: len(found)]
    assert len(found) - int(count) in (0, 1), "the one that did not fit may be there but for the end of its block"


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(RecordingError, match=f"^{path}: No such file or directory$"):
        Recording(path)
    with pytest.raises(RecordingError, match="Is a directory"):
        Recording(path.parent)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", ": ends before its first line"),
        (b"#!/bin/sh\n", ": not a recording of memnotify"),
        (gzip.compress(b"", mtime=0), ": ends before its first line"),
        (gzip.compress(b"#!/bin/sh\n", mtime=0), ":1: not JSON"),
        (gzip.compress(b'{"format":"other"}\n', mtime=0), ":1: not a recording of memnotify"),
        (gzip.compress(WHOLE[:100], mtime=0), ":1: ends before the end of a line"),
        (gzip.compress(WHOLE[:-1], mtime=0), f":{WHOLE.count(10)}: ends before the end of a line"),
        (gzip.compress(WHOLE, mtime=0) + b"more", ": something else follows the recording"),
        (gzip.compress(WHOLE, mtime=0) * 2, ": something else follows the recording"),
        (
            gzip.compress(WHOLE.replace(b'"pgscan_file"', b'"pgscan_fire"'), mtime=0),
            ":2: vmstat has no counter 'pgscan_fire'",
        ),
    ],
)
def test_what_is_not_a_recording_is_said(data: bytes, reason: str, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(RecordingError) as caught:
        list(Recording(path).samples())
    assert str(caught.value).startswith(f"{path}{reason}")


def test_a_line_without_an_end_is_not_read_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordingfile, "LONGEST_LINE_BYTES", 1 << 20)
    path.write_bytes(gzip.compress(WHOLE + b" " * (1 << 24), 1))
    with pytest.raises(RecordingError, match=f":{WHOLE.count(10) + 1}: the line does not end"):
        list(Recording(path).samples())


@pytest.mark.parametrize("flushed", [True, False])
@settings(deadline=None)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_recording_cut_anywhere_is_a_shorter_recording(flushed: bool, part: float) -> None:
    data = (TRACES / "episode.jsonl.gz").read_bytes() if flushed else gzip.compress(WHOLE)
    with file_of(data[: int(part * len(data))]) as path:
        found = samples_or_error(path)
        assert found == EPISODE[: len(found)] or found == f"{path}: ends before its first line"


@settings(deadline=None, max_examples=200)
@given(at=st.floats(0, 1, exclude_max=True), by=st.binary(min_size=1, max_size=20), compressed=st.booleans())
def test_a_damaged_recording_is_an_error_or_a_recording(at: float, by: bytes, compressed: bool) -> None:
    whole = (TRACES / "episode.jsonl.gz").read_bytes() if compressed else WHOLE
    start = int(at * len(whole))
    data = whole[:start] + by + whole[start + len(by) :]
    with file_of(data if compressed else gzip.compress(data)) as path:
        found = samples_or_error(path)
        if isinstance(found, str):
            assert found.startswith(f"{path}:")
            assert found.isprintable()
        else:
            # Whatever the counters are now, the rules can be asked.
            play_samples(found, CLASSIC)


def test_a_recording_that_is_not_read_to_its_end_is_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    samples = capture("episode").samples()
    next(samples)
    del samples
    assert len(os.listdir("/proc/self/fd")) == before
