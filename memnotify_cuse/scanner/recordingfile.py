"""Recordings as files: gzip'd lines that can be read while they are written, and up to wherever they end.

What was recorded last matters most, because a machine out of memory may end the recorder with SIGKILL: every sample
is flushed to the file as it is written. That makes the file 40 % larger (docs/recording.md).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.recording import Decoder, Header, SampleEncoder, encode_header
from memnotify_cuse.scanner.sample import Sample, SampleSource

CHUNK_BYTES: Final = 64 * 1024
LONGEST_LINE_BYTES: Final = 16 * 1024 * 1024
_GZIP: Final = 16 + zlib.MAX_WBITS


class RecordingWriter:
    """Writes a recording to `path`: the header at once, then sample by sample.

    Raises RecordingError for what cannot be written, and has it in `failure` from then on; the file stays readable
    up to the last sample before. A file that exists is refused, unless it is to be replaced.
    """

    def __init__(self, path: Path, header: Header, *, replace: bool = False) -> None:
        self._path = str(path)
        self._compress = zlib.compressobj(wbits=_GZIP)
        self._encoder = SampleEncoder()
        self._fd = -1
        self.samples = 0
        self.size_bytes = 0
        self.failure: RecordingError | None = None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if replace else os.O_EXCL)
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            raise RecordingError(self._path, 0, error.strerror or str(error)) from error
        try:
            self._write(encode_header(header), zlib.Z_SYNC_FLUSH)
        except RecordingError:
            os.close(self._fd)
            raise

    def write(self, sample: Sample) -> None:
        """Add `sample`, which is in the file when this returns."""
        self._write(self._encoder.encode(sample), zlib.Z_SYNC_FLUSH)
        self.samples += 1

    def close(self) -> None:
        """End the recording properly, unless it was cut short by an error."""
        if self._fd >= 0:
            try:
                if self.failure is None:
                    self._write(b"", zlib.Z_FINISH)
            finally:
                os.close(self._fd)
                self._fd = -1

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, text: bytes, flush: int) -> None:
        data = memoryview(self._compress.compress(text) + self._compress.flush(flush))
        try:
            while data:
                count = os.write(self._fd, data)
                self.size_bytes += count
                data = data[count:]
        except OSError as error:
            self.failure = RecordingError(self._path, 0, error.strerror or str(error))
            raise self.failure from error


class RecordingSource:
    """The samples of another source, written down as they are taken."""

    def __init__(self, source: SampleSource, writer: RecordingWriter) -> None:
        self._source = source
        self._writer = writer

    def sample(self, events: tuple[TraceEvent, ...] | None = None) -> Sample:
        sample = self._source.sample(events)
        self._writer.write(sample)
        return sample


class Recording:
    """A recording in a file: its header, and its samples, as often as they are asked for.

    Raises RecordingError, as does reading the samples. One that was cut short, by a full disk or because its recorder
    was killed, ends with its last whole sample.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header, _ = self._begin()

    def samples(self) -> Iterator[Sample]:
        """The samples in their order; the file is read as they are taken."""
        _, (decoder, lines) = self._begin()
        yield from map(decoder.sample, lines)

    def _begin(self) -> tuple[Header, tuple[Decoder, Iterator[bytes]]]:
        lines = _lines(self.path)
        decoder = Decoder(str(self.path))
        first = next(lines, None)
        if first is None:
            raise RecordingError(str(self.path), 0, "ends before its first line")
        return decoder.header(first), (decoder, lines)


def _lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a gzip'd file, without their ends."""
    decompress = zlib.decompressobj(_GZIP)
    rest = b""
    number = 0
    try:
        with path.open("rb") as file:
            ended = False
            while not (ended or decompress.eof):
                data = decompress.unconsumed_tail or file.read(CHUNK_BYTES)
                ended = not data
                text = decompress.flush() if ended else decompress.decompress(data, CHUNK_BYTES)
                *lines, rest = (rest + text).split(b"\n")
                for line in lines:
                    number += 1
                    yield line
                if len(rest) > LONGEST_LINE_BYTES:
                    raise RecordingError(str(path), number + 1, "the line does not end")
            if decompress.eof and rest:
                raise RecordingError(str(path), number + 1, "ends before the end of a line")
            if decompress.unused_data or file.read(1):
                raise RecordingError(str(path), 0, "something else follows the recording")
    except zlib.error:
        reason = "damaged from here on" if number else "not a recording of memnotify"
        raise RecordingError(str(path), number and number + 1, reason) from None
    except OSError as error:
        raise RecordingError(str(path), 0, error.strerror or str(error)) from error
