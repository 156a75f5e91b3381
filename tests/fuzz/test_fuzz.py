"""A short run of each part of the fuzzer (`make fuzz` is the long one), and that it finds what it looks for."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from memnotify_cuse.device.device import Device
from memnotify_cuse.kernel import meminfo, vmstat
from memnotify_cuse.kernel.errors import KernelFileError
from memnotify_cuse.transport import wire
from memnotify_cuse.transport.endpoint import DeviceEndpoint
from tests.fuzz import frames, syscalls, texts
from tests.fuzz.__main__ import main
from tests.fuzz.findings import Outcome, table
from tests.fuzz.frames import fuzz_frames
from tests.fuzz.processes import family, held_by
from tests.fuzz.syscalls import fuzz_syscalls
from tests.fuzz.texts import TARGETS, fuzz_texts, parsers
from tests.support.mounted import wait_until
from tests.support.programs import compiler_problem

SEED = 12
FRAMES = 20_000
TEXTS = 5_000
SYSCALLS_S = 10.0
FEW = 1_500


def found(outcome: Outcome) -> str:
    return "\n".join(outcome.findings.lines())


@pytest.mark.mount
def test_system_calls_of_all_kinds_leave_the_server_as_it_was() -> None:
    problem = compiler_problem()
    if problem is not None:
        pytest.skip(problem)
    outcome = fuzz_syscalls(SYSCALLS_S, SEED)
    assert not outcome.findings.counts, table([outcome])
    tried = [count for fact, count in outcome.facts.items() if fact.startswith("times: ")]
    assert min(tried) > 0, table([outcome])


@pytest.mark.mount
def test_a_server_that_holds_more_afterwards_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = compiler_problem()
    if problem is not None:
        pytest.skip(problem)
    for name in ("SPARE_DESCRIPTORS", "SPARE_KB"):
        monkeypatch.setattr(syscalls, name, -1_000_000)
    monkeypatch.setattr(syscalls, "SETTLE_S", 5.0)
    outcome = fuzz_syscalls(0.5, SEED, processes=1)
    assert {kind.split()[0] for kind in outcome.findings.counts} == {"not", "RSS", "PSS"}, found(outcome)


def test_every_mutated_frame_is_refused_or_answered_once() -> None:
    outcome = fuzz_frames(FRAMES, SEED)
    assert not outcome.findings.counts, table([outcome])
    assert outcome.facts["frames were refused by a WireError"] > FRAMES // 10


def test_every_mutated_kernel_file_is_understood_or_refused_by_name() -> None:
    outcome = fuzz_texts(TEXTS, SEED)
    assert not outcome.findings.counts, table([outcome])
    for fact in ("texts were understood", "texts were refused by a KernelFileError"):
        assert outcome.facts[fact] > TEXTS // 10


def test_the_same_seed_is_the_same_run() -> None:
    for fuzz in (fuzz_frames, fuzz_texts):
        assert fuzz(FEW, 3).facts == fuzz(FEW, 3).facts
        # Two seeds may come to the same counts.
        assert any(fuzz(FEW, 3).facts != fuzz(FEW, seed).facts for seed in (4, 5, 6, 7))


def test_every_parser_of_the_kernel_room_is_fuzzed() -> None:
    """One that is added later needs seeds in `texts.TARGETS`."""
    assert parsers() == {each.name for each in TARGETS if each.function.startswith("parse_") and each.parser}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_seeds_are_texts_that_are_understood(target: texts.Target) -> None:
    parser, seeds = target.parser, target.seeds()
    if parser is None:
        pytest.skip("no such parser any more")
    understood = 0
    for seed in seeds:
        try:
            parser(target.decode(seed), *target.more)
            understood += 1
        except KernelFileError:
            pass  # of tests/fixtures/hostile
    assert understood > len(seeds) // 2


def _raise(*args: object) -> Any:  # noqa: ANN401 # stands in for any function
    raise ZeroDivisionError("a bug")


def test_an_exception_of_a_decoder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(frames._DECODERS, "decode_poll", _raise)
    assert "decode_poll raised ZeroDivisionError" in found(fuzz_frames(FEW, SEED))


def test_an_unexpected_exception_on_the_way_to_a_reply_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "poll", _raise)
    assert "answered with EIO', by ZeroDivisionError" in found(fuzz_frames(FEW, SEED))


@pytest.mark.parametrize(
    ("function", "finding"),
    [
        ("_poll", f"no reply to opcode {wire.Opcode.POLL}"),
        ("_interrupt", "a held read was not answered when it was interrupted"),
    ],
)
def test_a_request_without_a_reply_is_found(function: str, finding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceEndpoint, function, lambda *args: None)
    assert finding in found(fuzz_frames(FEW, SEED))


def test_a_second_reply_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    release = DeviceEndpoint._release

    def twice(self: DeviceEndpoint, header: wire.RequestHeader, fh: int) -> None:
        release(self, header, fh)
        release(self, header, fh)

    monkeypatch.setattr(DeviceEndpoint, "_release", twice)
    assert f"2 replies to opcode {wire.Opcode.RELEASE}" in found(fuzz_frames(FEW, SEED))


def test_open_files_that_are_left_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "close", lambda *args: None)
    assert "open files or watchers are left" in found(fuzz_frames(FEW, SEED))


def test_an_exception_of_a_parser_is_found_with_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meminfo, "parse_meminfo", _raise)
    outcome = fuzz_texts(FEW, SEED)
    assert list(outcome.findings.counts) == ["meminfo.parse_meminfo raised ZeroDivisionError"]
    assert "kB" in found(outcome)


def test_a_parser_that_does_not_return_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(text: str) -> None:
        while True:
            text.count("\n")

    monkeypatch.setattr(vmstat, "parse_vmstat", endless)
    monkeypatch.setattr(texts, "LIMIT_S", 0.02)
    assert "vmstat.parse_vmstat took more than" in found(fuzz_texts(len(TARGETS) * 2, SEED))


def test_the_command_prints_a_table_and_exits_with_0_or_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["--seconds", "0", "--frames", "200", "--texts", "200", "--seed", "3", "--jobs", "1"]
    assert main(few) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("seed 3\n")
    assert [line.split() for line in printed.splitlines() if line.startswith(("frames  ", "kernel files  "))] == [
        ["frames", "200", "0", "0"],
        ["kernel", "files", "200", "0", "0"],
    ]
    monkeypatch.setattr(meminfo, "parse_meminfo", _raise)
    assert main(few) == 1
    assert "FOUND" in capsys.readouterr().out


def test_what_the_children_of_a_process_hold_counts_as_well() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 600 & sh -c 'sleep 600 & read x'; read y"], stdin=subprocess.PIPE) as top:
        try:
            wait_until(lambda: len(family(top.pid)) == 4, "a process, two children, one of the second")
            held = held_by(top.pid)
            assert held.processes == 4
            # stdin, stdout and stderr of each, at the least.
            assert held.descriptors >= 4 * 3
            assert held.rss_kb > held.pss_kb > held_by(family(top.pid)[-1]).pss_kb > 0
        finally:
            for pid in reversed(family(top.pid)):
                os.kill(pid, 9)
    assert held_by(top.pid).descriptors == 0
