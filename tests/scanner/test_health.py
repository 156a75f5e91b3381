"""What fails: logged when it begins and when it is over, and kept meanwhile. The clock is made up."""

from __future__ import annotations

import pytest

from memnotify_cuse.scanner.health import (
    MEMINFO,
    SETTLED_S,
    TRACE,
    ZONEINFO,
    Failure,
    Health,
)


class Bench:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.changes = 0
        self.health = Health(lambda: self.now_s, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def level(self) -> str:
        return self.health.level.value

    def works(self, source: str, for_s: float = SETTLED_S) -> None:
        self.health.worked(source)
        self.now_s += for_s
        self.health.worked(source)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_failure_is_logged_when_it_begins_and_when_it_is_over(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        bench.health.failed(MEMINFO, f"/proc/meminfo:{number}: what")
        bench.now_s += 1
    assert bench.health.failures == (Failure(MEMINFO, "/proc/meminfo:2: what", 100.0),)
    assert bench.health.age_s(bench.health.failures[0]) == 3.0
    bench.works(MEMINFO)
    assert not bench.health.failures
    assert said(caplog) == [
        "meminfo: /proc/meminfo:0: what; swap is taken as it was meanwhile",
        "meminfo: works again, after 3.0 s (/proc/meminfo:2: what)",
    ]
    assert bench.changes == 3


def test_what_comes_and_goes_is_one_failure(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        bench.health.failed(MEMINFO, "gone")
        bench.works(MEMINFO, SETTLED_S / 2)
        assert bench.health.is_settling
        assert bench.level == "degraded"
    bench.works(MEMINFO)
    assert not bench.health.is_settling
    assert len(said(caplog)) == 2


def test_what_works_is_not_talked_about(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.works(MEMINFO)
    assert (said(caplog), bench.changes) == ([], 0)


def test_without_zoneinfo_programs_are_not_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert bench.level == "ok"
    bench.health.failed(TRACE, "off", quiet=True)
    assert bench.level == "degraded"
    bench.health.failed(ZONEINFO, "gone")
    assert bench.level == "failing"
    bench.health.worked(ZONEINFO)
    assert bench.level == "degraded"
    assert said(caplog) == ["cannot scan: gone"]
