"""What the runner of the guest tier makes of what guests say. The guests themselves are `make test-vm`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.guest import vm
from tests.support.guest.boot import Guest, Shape
from tests.support.guest.kernel import GuestUnavailableError

OUTPUT = """\
tests/conformance/test_poll.py::test_a[fuse] PASSED                      [  1%]
tests/conformance/test_poll.py::test_b[fuse-two words] FAILED            [  2%]
tests/conformance/test_poll.py::test_c[cuse] SKIPPED (no /dev/cuse)      [  3%]
tests/conformance/test_poll.py::test_d[cuse] """
JUNIT = """\
<testsuites><testsuite name="pytest" errors="0" failures="1" skipped="0" tests="3">
<testcase classname="x" name="y"/></testsuite></testsuites>"""


class FakeGuest(Guest):
    """Stands in for a virtual machine, which takes minutes: it leaves behind what one would have."""

    def __init__(self, code: int | None, files: dict[str, str]) -> None:
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "files", files)

    def run(
        self, shape: Shape, command: object, results: Path, *, limit_s: float, work_disk: Path | None = None
    ) -> int | None:
        results.mkdir(parents=True)
        for name, text in self.files.items():  # type: ignore[attr-defined]
            (results / name).write_text(text)
        return self.code  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "results_of", lambda name: tmp_path / name)


BOOT = vm.Boot("some", Shape(), ("tests",), 10)


def test_counts_are_those_of_the_report() -> None:
    outcome = vm.run(FakeGuest(1, {"junit.xml": JUNIT}), BOOT)
    assert (outcome.passed, outcome.failed, outcome.skipped) == (2, 1, 0)


@pytest.mark.parametrize("code", [None, 0])
def test_a_guest_that_says_nothing_is_a_failure(code: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = vm.run(FakeGuest(code, {"console.log": "Kernel panic"}), BOOT)
    assert (outcome.passed, outcome.failed) == (0, 1)
    assert "Kernel panic" in capsys.readouterr().out


def test_a_crash_of_pytest_is_a_failure_whatever_it_reported() -> None:
    assert vm.run(FakeGuest(3, {"junit.xml": JUNIT}), BOOT).failed == 2


def test_what_was_over_counts_where_time_runs_out() -> None:
    outcome = vm.run(FakeGuest(None, {"output.log": OUTPUT}), BOOT, end_s=0.0)
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 1, 1)


@pytest.mark.parametrize(("options", "code"), [([], 2), (["--if-possible"], 0)])
def test_no_guest_is_said_in_one_line(
    options: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable() -> Guest:
        raise GuestUnavailableError("not installed: qemu-system-x86")

    monkeypatch.setattr(vm, "prepare", unavailable)
    assert vm.main(options) == code
    assert capsys.readouterr().out == "guest tier not run: not installed: qemu-system-x86\n"


def test_no_boot_is_begun_that_would_not_be_over_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    short, long = vm.Boot("short", Shape(), (), 10), vm.Boot("long", Shape(), (), 120)
    monkeypatch.setattr(vm, "boots", lambda: [long, short])
    monkeypatch.setattr(
        vm, "prepare", lambda: FakeGuest(0, {"junit.xml": JUNIT.replace('failures="1"', 'failures="0"')})
    )
    monkeypatch.setattr(vm, "JUNIT", tmp_path / "test-vm.xml")
    assert vm.main(["--within", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "guest: not run for want of time: long" in lines
    assert lines[-1] == "3 passed, 0 failed, 0 skipped"
    assert (tmp_path / "test-vm.xml").read_text().count("<testsuite ") == 1


def test_an_unknown_boot_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        vm.main(["nonsense"])
    assert end.value.code == 2
    assert "no boot nonsense" in capsys.readouterr().err
