"""The command line itself: help, version, errors, and what is imported for whom."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memnotify_cuse import __version__
from memnotify_cuse.cli import main as main_module
from memnotify_cuse.cli.main import SUBCOMMANDS, main

CONTRACT = {
    "serve": ["--device", "--mount", "--node", "--proc", "--replay", "--log-level"],
    "reload": ["--mount"],
    "status": ["--mount", "--json"],
    "wait": ["--device", "--timeout"],
    "simulate": ["--mount", "--zone", "--for"],
    "record": ["FILE", "--force", "--proc", "--seconds"],
    "explain": ["RECORDING", "--at", "--time-ns", "--raise", "--json"],
    "doctor": [],
}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"memnotify {__version__}\n"


def test_help_names_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in SUBCOMMANDS)
    assert "exit codes" in out


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_help_has_the_options_of_the_contract(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: memnotify {name}")
    assert all(option in out for option in CONTRACT[name])


def test_serve_has_the_sigio_option_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    assert "--sigio" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["status", "wait", "simulate", "record", "explain", "doctor"])
def test_each_help_has_examples_and_exit_codes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert "exit codes:" in out


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["wait", "--nonsense"],
        ["wait", "--timeout", "soon"],
        ["wait", "--timeout", "-1"],
        ["wait", "--timeout", "nan"],
        ["wait", "--timeout", "inf"],
        ["simulate", "--zone", "Normal"],
        ["simulate", "--zone", "all 5"],
        ["simulate", "--for", "long"],
        ["status", "extra"],
        ["record"],
        ["record", "file", "--seconds", "-1"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("memnotify: ")
    assert err.count("\n") == 1
    assert "--help" in err


def test_an_error_of_a_command_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wait", "--device", "/nonexistent/device"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("memnotify: /nonexistent/device does not exist")
    assert err.count("\n") == 1


def test_ctrl_c_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memnotify_cuse.client.wait", interrupted)
    assert main(["wait"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_closed_pipe_is_quiet() -> None:
    program = f"{sys.executable} -m memnotify_cuse doctor | true"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_output_that_cannot_be_written_is_one_line_and_exit_2() -> None:
    command = f"{sys.executable} -m memnotify_cuse doctor >/dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "memnotify: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize("argv", [["serve", "--help"], ["serve", "-h"], ["serve", "--device", "/none", "--help"]])
def test_help_for_serve_is_all_that_is_done(argv: list[str]) -> None:
    """By the command itself, which forks before it looks at its arguments."""
    command = [sys.executable, "-m", "memnotify_cuse", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: memnotify serve")


@pytest.mark.parametrize("redirect", [">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    ("argv", "code"), [("--help", 0), ("serve --help", 0), ("wait --device /none", 2), ("nonsense", 2)]
)
def test_the_exit_code_is_the_same_without_a_place_for_complaints(argv: str, code: int, redirect: str) -> None:
    command = f"{sys.executable} -m memnotify_cuse {argv} {redirect}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr == ""


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What is said would be written into it."""
    file = tmp_path / "recording.jsonl"
    command = f'{sys.executable} -m memnotify_cuse record "$0" --seconds 0 <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command, file], check=False).returncode == 0
    assert b"recording: " not in file.read_bytes()


def test_another_exception_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("memnotify_cuse.client.wait", broken)
    with pytest.raises(ZeroDivisionError):
        main(["wait"])


def _modules_after(argv: list[str]) -> set[str]:
    program = f"import sys; from memnotify_cuse.cli.main import main; main({argv!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_subcommand_imports_no_other_and_nothing_heavy(name: str) -> None:
    modules = _modules_after([name, "--help"])
    imported = {other for other in SUBCOMMANDS if f"memnotify_cuse.cli.{other}" in modules}
    assert imported == {name}
    assert not modules & {"psutil", "trio", "pyfuse3", "asyncio"}


def test_every_subcommand_is_a_module_with_the_two_functions() -> None:
    parser = main_module.build_parser()
    for name in SUBCOMMANDS:
        module = sys.modules[f"memnotify_cuse.cli.{name}"]
        assert isinstance(module.add_parser, Callable)  # type: ignore[arg-type]
        arguments = ["file"] if name == "record" else []
        assert parser.parse_args([name, *arguments]).run is module.run
