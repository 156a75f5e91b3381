"""``memnotify status`` on written status files: the parser, the table, the JSON object, the errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.cli.main import main
from memnotify_cuse.cli.status import memory_bytes, render
from memnotify_cuse.cli.statusfile import StatusError, parse_status
from memnotify_cuse.kernel.errors import KernelFileGoneError

FIXTURES = Path(__file__).parents[1] / "fixtures"
ZONES = (
    "node=0 zone=DMA status=-1 free_pages=3840 high_pages=79 raised=0 reason=none watchers=3\n"
    "node=0 zone=Normal status=1 free_pages=262144 high_pages=20480 raised=12 reason=pgscan_anon watchers=3 level=low\n"
)
SERVER = "server pid=812 version=0.1.0 wakeup=tracefs\nserver open_files=3 notifications=12 uptime_s=3725.5\n"
MEMORY = {
    "total_bytes": 1000 * 2**20,
    "available_bytes": 250 * 2**20,
    "swap_total_bytes": 512 * 2**20,
    "swap_free_bytes": 500 * 2**20,
}


def test_zones_and_server_are_told_apart() -> None:
    status = parse_status(SERVER + ZONES)
    assert status.server == {
        "pid": 812,
        "version": "0.1.0",
        "wakeup": "tracefs",
        "open_files": 3,
        "notifications": 12,
        "uptime_s": 3725.5,
    }
    assert status.zone_names() == ["node0-DMA", "node0-Normal"]
    assert status.zones[0]["status"] == -1
    assert status.zones[1]["level"] == "low"


def test_an_empty_file_has_no_zones() -> None:
    assert parse_status("") == parse_status("\n\n")
    assert parse_status("").zones == ()


@pytest.mark.parametrize("bad", ["node", "=0", "node=0 zone Normal", "server pid"])
def test_a_malformed_line_is_named(bad: str) -> None:
    with pytest.raises(StatusError, match=r"^/m/status:3: "):
        parse_status(f"{ZONES}{bad}\n", "/m/status")


@given(st.text())
def test_any_text_is_a_status_or_a_status_error(text: str) -> None:
    try:
        status = parse_status(text)
    except StatusError:
        return
    assert render(status, MEMORY, page_bytes=4096, now_ns=10**12)


def test_the_table() -> None:
    assert render(parse_status(SERVER + ZONES), MEMORY, page_bytes=4096, now_ns=10**12).splitlines() == [
        "server: pid 812, version 0.1.0, wakeup tracefs, open files 3, notifications 12, up 1 h 2 min",
        "",
        "zone          status    free MiB  high MiB  raised  reason       watchers  level",
        "node0-DMA     ignored       15.0       0.3       0  none                3  -",
        "node0-Normal  PRESSURE    1024.0      80.0      12  pgscan_anon         3  low",
        "",
        "memory: 1000 MiB, 250 MiB available (25 %); swap: 512 MiB, 500 MiB free",
    ]


def test_no_swap_is_said_in_words() -> None:
    memory = MEMORY | {"swap_total_bytes": 0, "swap_free_bytes": 0}
    assert render(parse_status(ZONES), memory, page_bytes=4096, now_ns=10**12).endswith("; swap: none")


@pytest.mark.parametrize(
    ("uptime_s", "words"),
    [("0", "0 s"), ("59.9", "59 s"), ("60", "1 min"), ("61", "1 min 1 s"), ("90061", "1 d 1 h")],
)
def test_the_time_up_is_readable(uptime_s: str, words: str) -> None:
    text = render(parse_status(f"server uptime_s={uptime_s}\n"), MEMORY, page_bytes=4096, now_ns=10**12)
    assert text.startswith(f"server: up {words}\n")


def test_the_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "status").write_text(ZONES)
    (tmp_path / "server").write_text("pid=812 wakeup=psi\n")
    assert main(["status", "--mount", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["server"] == {"pid": 812, "wakeup": "psi"}
    assert [zone["free_pages"] for zone in shown["zones"]] == [3840, 262144]
    assert shown["memory"]["total_bytes"] >= shown["memory"]["available_bytes"] > 0


FAILING = (
    "pid=812 health=degraded wakeup=psi\n"
    "failing=trace since_s=12.3 reason=/t/tracing_on:\\040switched\\040off\\040from\\040outside\n"
    "failing=swaps since_s=3725.0 reason=/proc/swaps:2:\\040expected\\040'name_type'\n"
)


def test_what_fails_has_a_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "status").write_text(ZONES)
    (tmp_path / "server").write_text(FAILING)
    assert main(["status", "--mount", str(tmp_path)]) == 1
    assert capsys.readouterr().out.split("\n\n")[:2] == [
        "server: pid 812, health degraded, wakeup psi",
        "FAILING: trace for 12 s: /t/tracing_on: switched off from outside\n"
        "FAILING: swaps for 1 h 2 min: /proc/swaps:2: expected 'name_type'",
    ]
    assert main(["status", "--mount", str(tmp_path), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["server"] == {"pid": 812, "health": "degraded", "wakeup": "psi"}
    assert [each["failing"] for each in shown["failing"]] == ["trace", "swaps"]
    assert shown["failing"][0]["since_s"] == 12.3
    assert shown["failing"][0]["reason"] == "/t/tracing_on: switched off from outside"
    assert len(shown["zones"]) == 2


def test_a_server_that_is_well_is_exit_code_0(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(ZONES)
    (tmp_path / "server").write_text("pid=812 health=ok wakeup=psi\n")
    assert main(["status", "--mount", str(tmp_path)]) == 0


def test_a_proc_without_meminfo_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(KernelFileGoneError, match=r"meminfo: .*ENOENT"):
        memory_bytes(tmp_path)


@pytest.mark.parametrize("case", ["meminfo_no_blank", "meminfo_empty_line", "meminfo_foreign_table"])
def test_memory_is_shown_whatever_else_stands_there(case: str, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_bytes((FIXTURES / "odd" / case).read_bytes())
    assert memory_bytes(tmp_path)["total_bytes"] == 8141728 * 1024


def test_the_readable_form_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "status").write_text(ZONES)
    assert main(["status", "--mount", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "node0-Normal" in out
    assert "memory: " in out


@pytest.mark.parametrize("content", [b"\xff\xfe", b"not a status file\n"])
def test_another_file_is_an_error(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "status").write_bytes(content)
    assert main(["status", "--mount", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("memnotify: ")


@pytest.mark.parametrize(("folder", "words"), [("none", "does not exist"), (".", "no server's files")])
@pytest.mark.parametrize("command", ["status", "simulate"])
def test_a_missing_mount_says_what_to_do(
    command: str, folder: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--mount", str(tmp_path / folder)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "memnotify serve" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
