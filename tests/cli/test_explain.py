"""``explain`` on recordings, and on the machine as it is."""

from __future__ import annotations

import json

import pytest

from memnotify_cuse.cli.main import main
from tests.support.replay import GUEST_TRACES, TRACES, guest_capture, play

COLD = str(GUEST_TRACES / "none-classic-cold.jsonl.gz")
STREAM = str(TRACES / "stream-cold.jsonl.gz")


def explained(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["explain", *argv]) == 0
    return capsys.readouterr().out


def test_the_first_notice_of_a_recording(capsys: pytest.CaptureFixture[str]) -> None:
    """By which rule, with what was missing for the others."""
    first = play(guest_capture("none-classic-cold")).notices[0]
    said = explained(capsys, COLD)
    assert f"time_ns {first.time_ns}" in said
    assert f"{first.reason} (what is left runs out): yes" in said
    assert "anon_scan (scanned, and page cache cannot help): no" in said
    assert "    --  anonymous pages scanned: 0 KiB, at least 4 KiB" in said
    assert f"{first.zone}: " in said
    assert f"under pressure, {first.reason}" in said


def test_the_moment_of_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    notice = play(guest_capture("zram-classic-cold")).notices[40]
    file = str(GUEST_TRACES / "zram-classic-cold.jsonl.gz")
    found = json.loads(explained(capsys, file, "--time-ns", str(notice.time_ns), "--json"))
    assert found["time_ns"] == notice.time_ns
    (node,) = found["nodes"]
    fired = [rule["reason"] for rule in node["rules"] if rule["fires"]]
    assert fired[-1] == notice.reason
    for rule in node["rules"]:
        assert rule["fires"] == all(condition["holds"] for condition in rule["conditions"])
    assert node["level"] == notice.level


def test_some_seconds_after_the_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", COLD, "--at", "1"]) == 1
    said = capsys.readouterr().out
    assert said.splitlines()[1].startswith(("0.9", "1.0"))
    assert "clear, no evidence in this sample" in said


def test_a_recording_without_pressure_shows_where_it_was_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", STREAM]) == 1
    said = capsys.readouterr().out
    assert said.startswith("no zone came under pressure\n")
    assert "yes" not in said


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert {"time_ns", "interval_ns", "mglru", "nodes", "zones", "raises"} == set(found)
    assert any(zone["free_kb"] > 0 for zone in found["zones"])


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ((COLD, "--raise", "7"), "a zone came under pressure 1 times, there is no number 7"),
        ((COLD, "--at", "100000"), "ends "),
        ((COLD, "--time-ns", "5"), "time_ns goes from "),
        (("--at", "5"), "need a recording"),
        ((__file__,), "not a recording"),
        (("/none",), "/none: No such file"),
    ],
)
def test_what_cannot_be_explained_is_one_line(
    argv: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err
    assert err.count("\n") == 1
