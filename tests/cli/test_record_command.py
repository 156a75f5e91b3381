"""``record`` on folders in place of /proc, and on the machine as it is."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memnotify_cuse import recorder
from memnotify_cuse.cli.main import main
from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.meminfo import read_meminfo
from memnotify_cuse.kernel.trace import TraceEvent
from memnotify_cuse.kernel.vmstat import read_vmstat
from memnotify_cuse.kernel.zoneinfo import read_zoneinfo
from memnotify_cuse.scanner.errors import RecordingError
from memnotify_cuse.scanner.recordingfile import Recording, RecordingWriter
from memnotify_cuse.scanner.sample import Sample, Sampler
from memnotify_cuse.scanner.sources import trace_path
from tests.support.mounted import LIMIT_S, NOBODY, ProcTree, calm_proc
from tests.support.server import Lines

MEMNOTIFY = [sys.executable, "-m", "memnotify_cuse"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def ignoring(number: signal.Signals) -> Iterator[None]:
    """What is ignored stays so in programs that are started."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.fixture(autouse=True)
def _tests_stay_ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that runs the tests is not to be locked into memory, nor hidden from the OOM killer."""
    monkeypatch.setattr(recorder, "lock_memory", lambda: None)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """What to give to --proc."""
    return calm_proc(tmp_path).path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.jsonl.gz"


def test_what_the_scanner_sees_is_recorded(proc: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", str(file), "--proc", str(proc), "--seconds", "0.05"]) == 0
    recording = Recording(file)
    first = next(recording.samples())
    assert (first.zoneinfo, first.vmstat, first.meminfo) == (read_zoneinfo(proc), read_vmstat(proc), read_meminfo(proc))
    assert recording.header.machine.page_kb == os.sysconf("SC_PAGE_SIZE") // 1024
    assert recording.header.kernel is None
    out, err = capsys.readouterr()
    count = len(list(recording.samples()))
    size_bytes = file.stat().st_size
    assert out == f"{file}: {count} samples, {size_bytes} bytes; no zone came under pressure\n"
    assert f"recording: file={file} wakeup={recording.header.wakeup}\n" in err


def test_the_kernel_release_is_that_of_the_folder(proc: Path, file: Path) -> None:
    release = proc / "sys" / "kernel" / "osrelease"
    release.parent.mkdir(parents=True)
    release.write_text("5.14.0-something\n")
    assert main(["record", str(file), "--proc", str(proc), "--seconds", "0"]) == 0
    assert Recording(file).header.kernel == "5.14.0-something"


def test_without_a_wakeup_source_and_without_memory_to_spare_it_looks_often(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "open_source", lambda proc: None)
    tight = ProcTree(tmp_path / "tight", zoneinfo="arm-4.1", vmstat="x86-4.9", meminfo="x86-4.20-noswap")
    assert main(["record", str(file), "--proc", str(tight.path), "--seconds", "0.5"]) == 0
    recording = Recording(file)
    assert recording.header.wakeup == "timer"
    assert len(list(recording.samples())) >= 3


def test_a_file_that_exists_is_refused(proc: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("precious")
    assert main(["record", str(file), "--proc", str(proc)]) == 2
    assert capsys.readouterr() == ("", f"memnotify: {file} exists; --force replaces it\n")
    assert file.read_text() == "precious"
    assert main(["record", str(file), "--proc", str(proc), "--seconds", "0", "--force"]) == 0
    assert len(list(Recording(file).samples())) == 1


def test_what_cannot_be_sampled_does_not_cost_the_file(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("precious")
    assert main(["record", str(file), "--proc", str(tmp_path), "--force"]) == 2
    assert "zoneinfo: No such file" in capsys.readouterr().err
    assert file.read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/dev/full", "No space left on device"), ("/nonexistent/file", "No such file or directory")],
)
def test_what_cannot_be_written_is_one_line(
    path: str, reason: str, proc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", path, "--proc", str(proc), "--force"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"memnotify: {path}: {reason}"


def test_a_disk_that_fills_up_later_ends_it_with_one_line(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = RecordingWriter.write

    def failing(writer: RecordingWriter, sample: Sample) -> None:
        if writer.samples == 2:
            writer.failure = RecordingError(str(file), 0, "No space left on device")
            raise writer.failure
        write(writer, sample)

    monkeypatch.setattr(RecordingWriter, "write", failing)
    monkeypatch.setattr(recorder, "open_source", lambda proc: None)
    tight = ProcTree(tmp_path / "tight", zoneinfo="arm-4.1", vmstat="x86-4.9", meminfo="x86-4.20-noswap")
    assert main(["record", str(file), "--proc", str(tight.path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"memnotify: {file}: No space left on device"
    assert len(list(Recording(file).samples())) == 2


@contextmanager
def recording_to(file: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A recorder of this machine in a process of its own, once it records."""
    argv = [*MEMNOTIFY, "record", str(file), *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            stdout, process.stdout = process.stdout, process.stderr
            lines = Lines(process, limit_s=LIMIT_S)
            while not lines.next().startswith("recording: "):
                pass
            process.stdout = stdout
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2], ids=lambda each: each.name
)
def test_a_signal_ends_the_recording_properly(number: signal.Signals, file: Path) -> None:
    with recording_to(file) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert out.decode().startswith(f"{file}: ")
    assert err == b""
    trace = trace_path(process.pid)
    assert trace is None or not trace.exists()
    # gzip itself would complain of one that was cut short.
    assert gzip.decompress(file.read_bytes()).count(b"\n") == 1 + len(list(Recording(file).samples()))
    assert Recording(file).header.kernel == os.uname().release


def test_nohup_keeps_it_from_ending_with_its_terminal(file: Path) -> None:
    with ignoring(signal.SIGHUP), recording_to(file) as process:
        words = Path(f"/proc/{process.pid}/status").read_text().split()
        assert int(words[words.index("SigIgn:") + 1], 16) >> (signal.SIGHUP - 1) & 1
        process.terminate()
        assert process.wait(LIMIT_S) == 0


def test_a_closing_terminal_ends_it_and_leaves_nothing(file: Path) -> None:
    leader, terminal = os.openpty()
    argv = [*MEMNOTIFY, "record", str(file)]
    # Its session's terminal, whose end the kernel tells it with SIGHUP.
    with subprocess.Popen(["setsid", "--ctty", *argv], stdin=terminal, stdout=terminal, stderr=terminal) as process:
        try:
            os.close(terminal)
            said = b""
            while b"recording: " not in said:
                said += os.read(leader, 4096)
            os.close(leader)
            # It has no place to say what came of it.
            assert process.wait(LIMIT_S) == 2
        finally:
            process.kill()
    assert gzip.decompress(file.read_bytes()).count(b"\n") == 1 + len(list(Recording(file).samples()))
    trace = trace_path(process.pid)
    assert trace is None or not trace.exists()


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", ">&- 2>&-"])
def test_it_records_without_a_place_for_what_it_says(redirect: str, proc: Path, file: Path) -> None:
    command = f'{sys.executable} -m memnotify_cuse record "$0" --proc "$1" --seconds 0.05 {redirect}'
    done = subprocess.run(["sh", "-c", command, file, proc], stdout=subprocess.PIPE, timeout=LIMIT_S, check=False)
    assert done.returncode == 0
    assert len(list(Recording(file).samples())) >= 1


def test_it_goes_on_recording_when_nobody_reads_any_more(proc: Path, file: Path) -> None:
    command = f'{sys.executable} -m memnotify_cuse record "$0" --proc "$1" --seconds 0.05 2>&1 | true'
    subprocess.run(["sh", "-c", command, file, proc], timeout=LIMIT_S, check=True)
    assert len(list(Recording(file).samples())) >= 1


def test_a_killed_recorder_leaves_its_samples(file: Path) -> None:
    with recording_to(file) as process:
        process.kill()
        process.wait(LIMIT_S)
    with pytest.raises(EOFError):
        gzip.decompress(file.read_bytes())
    assert len(list(Recording(file).samples())) >= 1


RECORD_AS_NOBODY = f"""
import os, sys
import trio
import memnotify_cuse.cli.main, memnotify_cuse.cli.record, memnotify_cuse.recorder
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
sys.exit(memnotify_cuse.cli.main.main(sys.argv[1:]))
"""


@as_root
def test_an_ordinary_user_can_record() -> None:
    with tempfile.TemporaryDirectory(prefix="memnotify-") as directory:
        os.chown(directory, NOBODY, NOBODY)
        file = Path(directory, "some.jsonl.gz")
        done = subprocess.run(
            [sys.executable, "-c", RECORD_AS_NOBODY, "record", str(file), "--seconds", "0.2"],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        recording = Recording(file)
        assert recording.header.wakeup in ("psi", "timer")
        assert all(each.events is None for each in recording.samples())
        assert file.stat().st_uid == NOBODY


def test_a_malformed_counter_while_it_records_does_not_end_it(
    proc: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the server: it is said once, and tried again."""

    class Stumbling(Sampler):
        calls = 0

        def sample(self, events: tuple[TraceEvent, ...] | None = None) -> Sample:
            self.calls += 1
            if self.calls == 3:
                raise MalformedKernelFileError("zoneinfo", 5, "made up")
            return super().sample(events)

    monkeypatch.setattr(recorder, "Sampler", Stumbling)
    monkeypatch.setattr(recorder, "open_source", lambda proc: None)
    monkeypatch.setattr("memnotify_cuse.scanner.choices.REST_S", 0.01)
    monkeypatch.setattr("memnotify_cuse.scanner.loop.FIRST_RETRY_S", 0.01)
    assert main(["record", str(file), "--proc", str(proc), "--seconds", "0.5"]) == 0
    assert len(list(Recording(file).samples())) >= 2
