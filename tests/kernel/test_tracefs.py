"""Trace instances: on a folder that stands in for tracefs, and for real where we are root."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memnotify_cuse.keeper.children import fork
from memnotify_cuse.kernel.capabilities import become_user
from memnotify_cuse.kernel.errors import KernelFileGoneError, NoKernelMemoryError
from memnotify_cuse.kernel.trace import KNOWN_EVENTS, TraceParser
from memnotify_cuse.kernel.tracefs import (
    TraceInstance,
    TracePipe,
    find_tracefs,
    instance_name,
    mount_tracefs,
    remove_stale_instances,
)

FILES = ("buffer_size_kb", "trace_clock", "buffer_percent", "tracing_on", "trace_options", "trace_pipe")
TRACEFS = find_tracefs()
real = pytest.mark.skipif(
    os.geteuid() != 0 or TRACEFS is None,
    reason="a trace instance needs root and a mounted tracefs",
)


@pytest.fixture
def tracefs(tmp_path: Path) -> Path:
    (tmp_path / "instances").mkdir()
    (tmp_path / "events").mkdir()
    return tmp_path


def vanish(path: Path) -> None:
    """Remove a folder that is not empty, as tracefs does."""
    os.rename(path, path.parents[1] / f"gone-{path.name}")


def fill_new_instances(monkeypatch: pytest.MonkeyPatch, events: tuple[str, ...]) -> None:
    """Let mkdir() fill an instance and rmdir() remove a full one, as tracefs does."""
    mkdir = os.mkdir

    def fill(path: Path, mode: int = 0o777) -> None:
        mkdir(path, mode)
        for name in FILES:
            (path / name).touch()
        for folder in (path / "events", path / "events" / "vmscan"):
            mkdir(folder)
        for event in events:
            mkdir(path / "events" / "vmscan" / event)
            for name in ("enable", "filter"):
                (path / "events" / "vmscan" / event / name).touch()

    monkeypatch.setattr(os, "mkdir", fill)
    monkeypatch.setattr(os, "rmdir", vanish)


def test_find_wants_instances_and_events(tracefs: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert find_tracefs((empty, tracefs)) == tracefs
    assert find_tracefs((str(empty), "/does/not/exist")) is None


def test_only_the_events_that_exist_are_enabled(tracefs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_new_instances(monkeypatch, (KNOWN_EVENTS[0], KNOWN_EVENTS[3]))
    with TraceInstance.create(tracefs, "memnotify-1") as instance:
        assert instance.events == ("vmscan/mm_vmscan_kswapd_wake", "vmscan/mm_vmscan_lru_shrink_inactive")
        folder = tracefs / "instances" / "memnotify-1"
        vmscan = folder / "events" / "vmscan"
        assert (vmscan / "mm_vmscan_kswapd_wake" / "filter").read_text() == ""
        assert (vmscan / "mm_vmscan_lru_shrink_inactive" / "filter").read_text() == "reclaim_flags & 1"
        assert (vmscan / "mm_vmscan_lru_shrink_inactive" / "enable").read_text() == "1"
        assert (folder / "buffer_size_kb").read_text() == "64"
        assert (folder / "trace_clock").read_text() == "mono"
        assert (folder / "buffer_percent").read_text() == "0"
        assert (folder / "tracing_on").read_text() == "1"
        assert instance.pipe.read() == b""
    assert os.listdir(tracefs / "instances") == []


def test_no_event_at_all_is_an_error_and_leaves_nothing(tracefs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_new_instances(monkeypatch, ())
    with pytest.raises(KernelFileGoneError, match="no reclaim tracepoints"):
        TraceInstance.create(tracefs, "memnotify-1")
    assert os.listdir(tracefs / "instances") == []


def test_want_of_memory_is_told_from_what_does_not_pass(tracefs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int = 0o777) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        with pytest.raises(NoKernelMemoryError, match="cannot be made: Cannot allocate memory"):
            TraceInstance.create(tracefs, "memnotify-1")
    fill_new_instances(monkeypatch, KNOWN_EVENTS)

    def refuse_the_buffer(fd: int, data: bytes) -> int:
        if data == b"64":
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return len(data)

    monkeypatch.setattr(os, "write", refuse_the_buffer)
    with pytest.raises(NoKernelMemoryError, match="buffer_size_kb"):
        TraceInstance.create(tracefs, "memnotify-1")
    assert os.listdir(tracefs / "instances") == []


def test_an_instance_that_exists_is_not_taken_over(tracefs: Path) -> None:
    (tracefs / "instances" / "memnotify-1").mkdir()
    with pytest.raises(KernelFileGoneError, match="cannot be made"):
        TraceInstance.create(tracefs, "memnotify-1")
    assert os.listdir(tracefs / "instances") == ["memnotify-1"]


def test_busy_instances_are_tried_again(tracefs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_new_instances(monkeypatch, KNOWN_EVENTS)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def busy_twice(path: Path) -> None:
        if len(pauses) < 2:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        vanish(path)

    monkeypatch.setattr(os, "rmdir", busy_twice)
    instance = TraceInstance.create(tracefs, "memnotify-1")
    instance.close()
    instance.close()
    assert len(pauses) == 2
    assert os.listdir(tracefs / "instances") == []
    with pytest.raises(KernelFileGoneError, match="closed"):
        instance.pipe.fileno()


def test_an_instance_that_stays_busy_is_an_error(tracefs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_new_instances(monkeypatch, KNOWN_EVENTS)
    monkeypatch.setattr(time, "sleep", lambda _s: None)

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    monkeypatch.setattr(os, "rmdir", busy)
    instance = TraceInstance.create(tracefs, "memnotify-1")
    with pytest.raises(KernelFileGoneError, match="cannot be removed"):
        instance.close()


def test_stale_instances(tracefs: Path, tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    for pid, command in ((20, b"python3\0-m\0memnotify_cuse\0serve\0"), (30, b"bash\0"), (40, b"")):
        (proc / str(pid)).mkdir(parents=True)
        (proc / str(pid) / "cmdline").write_bytes(command)
    stale = ["memnotify-10", "memnotify-30", "memnotify-40", "memnotify-fcntl-10"]
    others = ["memnotify-20", "memnotify-fcntl-20", "memnotify-fcntl-x10", "memnotify-x", "other-10"]
    for name in stale + others:
        (tracefs / "instances" / name).mkdir()
    assert remove_stale_instances(tracefs, proc=proc) == stale
    assert sorted(os.listdir(tracefs / "instances")) == others


def test_an_instance_of_a_process_that_has_only_just_started_is_another_s_with_its_id(
    tracefs: Path, tmp_path: Path
) -> None:
    """The keeper's process id, which is not that of the process that looks, may have been a killed server's."""
    proc = tmp_path / "proc"
    for pid in (20, 30):
        (proc / str(pid)).mkdir(parents=True)
        (proc / str(pid) / "cmdline").write_bytes(b"memnotify\0serve\0")
        (tracefs / "instances" / f"memnotify-{pid}").mkdir()
    assert remove_stale_instances(tracefs, proc=proc, own_pid=30) == ["memnotify-30"]


def test_stale_instances_without_tracefs(tmp_path: Path) -> None:
    with pytest.raises(KernelFileGoneError, match="cannot be listed"):
        remove_stale_instances(tmp_path)


def test_mounting_on_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(KernelFileGoneError, match="tracefs cannot be mounted"):
        mount_tracefs(tmp_path / "none")


@real
def test_mounting_for_real(tmp_path: Path) -> None:
    assert find_tracefs([tmp_path]) is None
    try:
        mount_tracefs(tmp_path)
    except KernelFileGoneError as error:
        pytest.skip(str(error))
    try:
        assert find_tracefs([tmp_path]) == tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@real
def test_a_real_instance() -> None:
    assert TRACEFS is not None
    name = f"memnotify-test-{os.getpid()}"
    path = TRACEFS / "instances" / name
    with TraceInstance.create(TRACEFS, name) as instance:
        assert "vmscan/mm_vmscan_kswapd_wake" in instance.events
        for event in instance.events:
            folder = path / "events" / event
            assert (folder / "enable").read_text() == "1\n"
            if "shrink" in event:
                assert (folder / "filter").read_text() == "reclaim_flags & 1\n"
                assert "reclaim_flags" in (folder / "format").read_text()
                assert '0x0001u, "RECLAIM_WB_ANON"' in (folder / "format").read_text()
        assert "[mono]" in (path / "trace_clock").read_text()
        assert (path / "buffer_percent").read_text() == "0\n"
        instance.pipe.set_tracing(False)
        assert (path / "tracing_on").read_text() == "0\n"
        instance.pipe.set_tracing(True)

        # Scheduler events are certain to come, so that reading does not depend on reclaim.
        (path / "events" / "sched" / "sched_switch" / "enable").write_text("1")
        poll = select.poll()
        poll.register(instance.pipe.fileno(), select.POLLIN)
        assert poll.poll(10_000)
        instance.pipe.set_tracing(False)
        data = b""
        while piece := instance.pipe.read():
            data += piece
        assert b": sched_switch: " in data
        assert all(e.name in KNOWN_EVENTS for e in TraceParser().feed(data))
        first = next(line for line in data.splitlines() if b": sched_switch: " in line)
        assert first[16:17] == b"-"
        seconds = float(first.partition(b": sched_switch")[0].split()[-1])
        assert abs(time.monotonic() - seconds) < 60
        assert instance.pipe.read() == b""
    assert not path.exists()


@real
def test_a_pipe_works_in_a_process_that_could_not_open_it() -> None:
    """As in the server, which has given up its rights by then."""
    assert TRACEFS is not None
    with TraceInstance.create(TRACEFS, f"memnotify-test-{os.getpid()}") as instance:

        def as_nobody() -> int:
            become_user(65534, 65534)
            pipe = TracePipe(instance.path, instance.pipe.pipe, instance.pipe.switch)
            try:
                os.close(os.open(instance.path / "tracing_on", os.O_WRONLY))
            except PermissionError:
                pipe.set_tracing(False)
                while pipe.read():
                    pass
                return 0
            return 1

        child = fork("as-nobody", as_nobody)
        assert child.reap(30)
        assert child.code == 0
        assert (instance.path / "tracing_on").read_text() == "0\n"


@real
@pytest.mark.parametrize("by_path", [False, True], ids=["its own files", "taken over"])
def test_what_somebody_has_switched_off_is_named_and_switched_on_again(by_path: bool) -> None:
    assert TRACEFS is not None
    with TraceInstance.create(TRACEFS, f"memnotify-test-{os.getpid()}") as instance:
        folder = instance.path
        pipe = instance.pipe
        if by_path:
            pipe = TracePipe(folder, os.dup(pipe.pipe), os.dup(pipe.switch))
            pipe.watch_events()
        pipe.check()
        (folder / "tracing_on").write_text("0")
        with pytest.raises(KernelFileGoneError, match="tracing_on: switched off"):
            pipe.check()
        pipe.check(tracing=False)
        (folder / "events" / "enable").write_text("0")
        with pytest.raises(KernelFileGoneError, match="set_event: switched off from outside: direct_reclaim_begin"):
            pipe.check(tracing=False)
        pipe.mend()
        pipe.check()
        assert (folder / "tracing_on").read_text() == "1\n"
        for event in instance.events:
            assert (folder / "events" / event / "enable").read_text() == "1\n"
        assert (folder / "events/vmscan/mm_vmscan_lru_shrink_active/filter").read_text() == "reclaim_flags & 1\n"
        (folder / "events/vmscan/mm_vmscan_kswapd_wake/enable").write_text("0")
        with pytest.raises(KernelFileGoneError, match=r"outside: kswapd_wake$"):
            pipe.check()
        # What somebody adds, even a lot, is no harm.
        (folder / "events/vmscan/mm_vmscan_kswapd_wake/enable").write_text("1")
        (folder / "events/syscalls/enable").write_text("1") if (folder / "events/syscalls").exists() else None
        pipe.set_tracing(False)
        pipe.check(tracing=False)
        if by_path:
            pipe.close()


@real
def test_a_new_instance_is_readable_only_when_there_is_an_event() -> None:
    """Even where the machine's own option says otherwise, which a new instance has from there."""
    assert TRACEFS is not None
    before = (TRACEFS / "options" / "block").read_text()
    (TRACEFS / "options" / "block").write_text("1")
    try:
        with TraceInstance.create(TRACEFS, f"memnotify-test-{os.getpid()}") as instance:
            assert (instance.path / "options" / "block").read_text() == "0\n"
    finally:
        (TRACEFS / "options" / "block").write_text(before)


def test_a_pipe_closes_both_its_files_once(tmp_path: Path) -> None:
    fds = os.pipe()
    pipe = TracePipe(tmp_path, *fds)
    pipe.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    pipe.close()
    with pytest.raises(KernelFileGoneError, match="tracing_on"):
        pipe.set_tracing(True)
    with pytest.raises(KernelFileGoneError, match="trace_pipe"):
        pipe.read()


@real
def test_a_real_stale_instance() -> None:
    assert TRACEFS is not None
    ended = subprocess.Popen(["true"])
    ended.wait(10)
    prefix = f"memnotify-test{os.getpid()}-"
    name = f"{prefix}{ended.pid}"
    (TRACEFS / "instances" / name).mkdir()
    try:
        assert remove_stale_instances(TRACEFS, prefix) == [name]
    finally:
        if (TRACEFS / "instances" / name).exists():
            (TRACEFS / "instances" / name).rmdir()


@real
def test_of_another_pid_namespace_only_what_nobody_uses_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes may not be seen from here; the process with the same id is another."""
    assert TRACEFS is not None
    prefix = f"memnotify-test{os.getpid()}-"
    used, left = f"{prefix}1-4026539998", f"{prefix}1-4026539999"
    (TRACEFS / "instances" / left).mkdir()
    try:
        with TraceInstance.create(TRACEFS, used) as instance:
            assert remove_stale_instances(TRACEFS, prefix, own_pid=1) == []
            monkeypatch.setattr("memnotify_cuse.kernel.tracefs._SETTING_UP_S", 0.0)
            assert remove_stale_instances(TRACEFS, prefix, own_pid=1) == [left]
            assert instance.path.exists()
    finally:
        if (TRACEFS / "instances" / left).exists():
            (TRACEFS / "instances" / left).rmdir()


NAMES = "from memnotify_cuse.kernel.tracefs import instance_name; print(instance_name(1), instance_name(1, 'fcntl'))"


@real
def test_the_same_process_id_in_another_pid_namespace_has_another_name() -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", NAMES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {*done.stdout.split(), instance_name(1), instance_name(1, "fcntl")}
    assert len(names) == 4
    assert all(name.startswith("memnotify-") for name in names)
