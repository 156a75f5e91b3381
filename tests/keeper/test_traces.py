"""The trace instances of a server: how often they are tried, and what is noted to be undone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from memnotify_cuse.config import ServeError
from memnotify_cuse.keeper import traces
from memnotify_cuse.keeper.channel import Channel
from memnotify_cuse.keeper.children import fork
from memnotify_cuse.keeper.traces import STRICT_PAUSES_S, offer_trace, open_file_trace, open_flags_trace
from memnotify_cuse.keeper.undo import undo
from memnotify_cuse.kernel.errors import KernelFileError, NoKernelMemoryError
from memnotify_cuse.kernel.kprobes import event_name
from memnotify_cuse.kernel.tracefs import TraceInstance, find_tracefs, instance_name
from tests.support.mounted import LIMIT_S

TRACEFS = Path("/sys/kernel/tracing")


@pytest.fixture
def open_flags(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[KernelFileError]], tuple[list[str], list[float]]]:
    """Start mode `strict` with a kernel that refuses so often; what is to be undone, and the pauses."""

    def open_flags(refusals: list[KernelFileError]) -> tuple[list[str], list[float]]:
        noted: list[str] = []
        pauses: list[float] = []

        def create(_tracefs: Path, _name: str, _events: Mapping[str, str]) -> object:
            assert noted, "noted before it is made: a start may be ended meanwhile"
            if refusals:
                raise refusals.pop(0)
            return object()

        monkeypatch.setattr(TraceInstance, "create", create)
        monkeypatch.setattr(traces, "find_tracefs", lambda: TRACEFS)
        monkeypatch.setattr("time.sleep", pauses.append)
        open_flags_trace(4711, noted.append)
        return noted, pauses

    return open_flags


Open = Callable[[list[KernelFileError]], tuple[list[str], list[float]]]


def refusals(count: int) -> list[KernelFileError]:
    return [NoKernelMemoryError("instances/memnotify-fcntl-1", "cannot be made: Cannot allocate memory")] * count


def test_strict_gets_over_a_short_want_of_memory(open_flags: Open) -> None:
    noted, pauses = open_flags(refusals(3))
    assert noted == [f"instance {TRACEFS}/instances/memnotify-fcntl-4711"]
    assert pauses == list(STRICT_PAUSES_S[:3])


def test_strict_does_not_start_in_a_longer_one(open_flags: Open) -> None:
    with pytest.raises(ServeError, match=r"--sigio strict: .*Cannot allocate memory"):
        open_flags(refusals(100))


def test_strict_does_not_try_again_what_does_not_pass(open_flags: Open) -> None:
    with pytest.raises(ServeError, match="Permission denied"):
        open_flags([KernelFileError("Permission denied")])


def test_strict_needs_tracefs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "find_tracefs", lambda: None)
    with pytest.raises(ServeError, match="needs tracefs"):
        open_flags_trace(4711, lambda _line: None)


@pytest.mark.parametrize(
    ("error", "answer"),
    [(refusals(1)[0], "again "), (KernelFileError("Permission denied"), "never Permission denied")],
)
def test_a_trace_that_cannot_be_had_is_refused_with_the_reason(
    error: KernelFileError, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_tracefs: Path, _name: str) -> object:
        raise error

    monkeypatch.setattr(TraceInstance, "create", refuse)
    ours, theirs = Channel.pair()
    assert offer_trace(theirs, str(TRACEFS / "instances/memnotify-4711")) == 1
    message = ours.receive()
    assert message is not None
    assert message[0] == "no-trace"
    assert message[1].startswith(answer)
    ours.close()
    theirs.close()


@pytest.mark.skipif(os.geteuid() != 0 or find_tracefs() is None, reason="tracefs needs root, and to be mounted")
@pytest.mark.parametrize("there_was_one", [False, True])
def test_a_trace_that_can_be_had_is_handed_over_by_a_process_that_ends(there_was_one: bool) -> None:
    """Also where it takes the place of one that failed."""
    tracefs = find_tracefs()
    assert tracefs is not None
    path = tracefs / "instances" / f"memnotify-test-{os.getpid()}"
    if there_was_one:
        path.mkdir()
    ours, theirs = Channel.pair()
    child = fork("memnotify-trace", lambda: offer_trace(theirs, str(path)))
    try:
        assert child.reap(LIMIT_S)
        assert child.code == 0
        message = ours.receive()
        assert message is not None
        word, told, fds = message
        assert (word, told) == ("trace", str(path))
        names = [Path(os.readlink(f"/proc/self/fd/{fd}")).name for fd in fds]
        assert names == ["trace_pipe", "tracing_on", "set_event"]
        for fd in fds:
            os.close(fd)
    finally:
        ours.close()
        theirs.close()
        assert undo(f"instance {path}") is None


class TestAuto:
    """A folder in place of tracefs: the development machine's kernel has no kprobe events."""

    @pytest.fixture
    def tracefs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "kprobe_events").touch()
        monkeypatch.setattr(traces, "find_tracefs", lambda: tmp_path)
        return tmp_path

    def test_what_is_made_is_noted_first(self, tracefs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        noted: list[str] = []
        made: list[tuple[str, dict[str, str]]] = []

        def create(_tracefs: Path, name: str, events: Mapping[str, str]) -> object:
            assert len(noted) == 2
            made.append((name, dict(events)))
            return object()

        monkeypatch.setattr(TraceInstance, "create", create)
        assert open_file_trace(4711, noted.append) is not None
        event = event_name(4711)
        assert (tracefs / "kprobe_events").read_text().startswith(f"p:{event} security_file_fcntl ")
        assert made == [(instance_name(4711, "kprobe"), {event: "cmd == 4 || cmd == 8 || cmd == 10 || cmd == 15"})]
        # The instance is undone first: an event that is on cannot be removed.
        assert noted == [
            f"kprobe {event} {tracefs}/kprobe_events",
            f"instance {tracefs}/instances/{instance_name(4711, 'kprobe')}",
        ]

    def test_without_kprobe_events_there_is_none(self, tracefs: Path) -> None:
        (tracefs / "kprobe_events").unlink()
        assert open_file_trace(4711, pytest.fail) is None

    def test_a_kernel_that_refuses_is_done_without(self, tracefs: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The folder has no `instances`, as if none could be made."""
        assert open_file_trace(4711, lambda _line: None) is None
        assert "works as owner" in caplog.text
