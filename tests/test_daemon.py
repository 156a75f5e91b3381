"""What the wiring decides for itself."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from memnotify_cuse import daemon
from memnotify_cuse.daemon import ServeError
from memnotify_cuse.fasync.locate import Locator
from memnotify_cuse.kernel.errors import KernelFileError, NoKernelMemoryError


class Flags:
    """Stands in for AsyncFlags; `refusals` are raised first, one each time."""

    refusals: list[KernelFileError]

    def __init__(self, _tracefs: Path, _locator: Locator) -> None:
        if self.refusals:
            raise self.refusals.pop(0)

    def close(self) -> None:
        pass


def open_flags(monkeypatch: pytest.MonkeyPatch, refusals: list[KernelFileError]) -> None:
    """Start mode `strict` as a server does, with a kernel that refuses so often."""
    monkeypatch.setattr(Flags, "refusals", refusals, raising=False)
    monkeypatch.setattr(daemon, "AsyncFlags", Flags)
    monkeypatch.setattr(daemon, "find_tracefs", lambda: Path("/sys/kernel/tracing"))

    async def main() -> None:
        with ExitStack() as stack:
            await daemon._open_flags(Locator(set()), stack)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def refusals(count: int) -> list[KernelFileError]:
    return [NoKernelMemoryError("instances/memnotify-fcntl-1", "cannot be made: Cannot allocate memory")] * count


def test_strict_gets_over_a_short_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    open_flags(monkeypatch, refusals(3))


def test_strict_does_not_start_in_a_longer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServeError, match=r"--sigio strict: .*Cannot allocate memory"):
        open_flags(monkeypatch, refusals(100))


def test_strict_does_not_try_again_what_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServeError, match="Permission denied"):
        open_flags(monkeypatch, [KernelFileError("Permission denied")])
