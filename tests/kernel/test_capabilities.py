"""What a process may do, and giving it up: in real child processes, by what the kernel says of them afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.keeper.children import fork
from memnotify_cuse.kernel.capabilities import (
    Capability,
    become_user,
    bound_to,
    die_with_parent,
    keep_only,
    mask_of,
    parse_capability_masks,
    permitted,
    set_name,
    set_no_new_privs,
)
from memnotify_cuse.kernel.errors import MalformedKernelFileError
from tests.support.mounted import LIMIT_S, NOBODY, state_of, wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="who is not root has no capabilities to give up")
TWO = (Capability.KILL, Capability.SYS_PTRACE)


def status_of_child(act: Callable[[], object]) -> dict[str, str]:
    """/proc/PID/status of a child after it has done `act`."""
    read_end, write_end = os.pipe()

    def body() -> int:
        act()
        os.write(write_end, Path("/proc/self/status").read_bytes())
        return 0

    child = fork("memnotify-test", body)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        text = answer.read()
    assert child.reap(LIMIT_S)
    assert child.code == 0
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def masks(status: dict[str, str]) -> dict[str, int]:
    return parse_capability_masks("".join(f"{name}:\t{value}\n" for name, value in status.items()))


def test_a_mask_has_a_bit_for_each() -> None:
    assert mask_of(TWO) == 1 << 5 | 1 << 19
    assert mask_of([]) == 0
    assert mask_of([Capability.KILL, Capability.KILL]) == 1 << 5


def test_the_masks_of_a_process() -> None:
    text = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000080020\nSeccomp:\t0\n"
    assert parse_capability_masks(text) == {"CapInh": 0, "CapPrm": 0x1FFFFFFFFFF, "CapEff": mask_of(TWO)}


@pytest.mark.parametrize("mask", ["", "x", "00000000000000000", "000001fffffffff ", "-00001ffffffffff"])
def test_a_malformed_mask_is_named(mask: str) -> None:
    with pytest.raises(MalformedKernelFileError, match="/proc/1/status:2: expected a mask"):
        parse_capability_masks(f"Name:\tx\nCapEff:\t{mask}\n", "/proc/1/status")


@given(st.text())
def test_any_text_has_masks_or_is_malformed(text: str) -> None:
    with contextlib.suppress(MalformedKernelFileError):
        parse_capability_masks(text)


def test_what_is_permitted_is_what_the_kernel_says() -> None:
    assert permitted() == parse_capability_masks(Path("/proc/self/status").read_text())["CapPrm"]


@as_root
@pytest.mark.parametrize("kept", [TWO, ()], ids=["two", "none"])
def test_only_these_are_kept(kept: tuple[Capability, ...]) -> None:
    found = masks(status_of_child(lambda: keep_only(kept)))
    assert found["CapPrm"] == found["CapEff"] == mask_of(kept)
    assert found["CapInh"] == found["CapAmb"] == 0


@as_root
def test_what_was_given_up_does_not_come_back() -> None:
    def give_up_and_ask_again() -> None:
        keep_only([Capability.KILL])
        keep_only(TWO)

    assert masks(status_of_child(give_up_and_ask_again))["CapPrm"] == mask_of([Capability.KILL])


@as_root
def test_what_is_not_permitted_is_not_asked_for() -> None:
    """Not every root has everything: in a container much is missing."""

    def without_one() -> None:
        keep_only([Capability.KILL])
        keep_only([Capability.KILL, Capability.SYS_RESOURCE])

    assert masks(status_of_child(without_one))["CapEff"] == mask_of([Capability.KILL])


@as_root
def test_programs_that_it_starts_are_bound_to_these() -> None:
    assert masks(status_of_child(lambda: bound_to(TWO)))["CapBnd"] == mask_of(TWO)

    def start_a_program() -> None:
        bound_to(TWO)
        text = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
        assert parse_capability_masks(text)["CapPrm"] == mask_of(TWO)

    status_of_child(start_a_program)


@as_root
def test_the_bound_takes_the_right_to_set_it() -> None:
    def without_the_right() -> None:
        keep_only([Capability.KILL])
        with pytest.raises(PermissionError):
            bound_to([])

    status_of_child(without_the_right)


@as_root
def test_another_user_for_good() -> None:
    def become_nobody() -> None:
        os.setgroups([5, 6])
        become_user(NOBODY, 12345)
        with pytest.raises(PermissionError):
            os.setuid(0)

    status = status_of_child(become_nobody)
    assert status["Uid"].split() == [str(NOBODY)] * 4
    assert status["Gid"].split() == ["12345"] * 4
    assert status["Groups"].strip() == ""
    assert masks(status)["CapPrm"] == masks(status)["CapEff"] == 0


@as_root
def test_another_user_who_keeps_some() -> None:
    status = status_of_child(lambda: become_user(NOBODY, NOBODY, TWO))
    assert status["Uid"].split() == [str(NOBODY)] * 4
    found = masks(status)
    assert found["CapPrm"] == found["CapEff"] == mask_of(TWO)
    assert found["CapInh"] == found["CapAmb"] == 0


@as_root
def test_a_user_without_rights_cannot_become_another() -> None:
    def as_nobody() -> None:
        become_user(NOBODY, NOBODY)
        with pytest.raises(PermissionError):
            become_user(NOBODY + 1, NOBODY + 1)

    status_of_child(as_nobody)


def test_no_new_rights() -> None:
    assert status_of_child(set_no_new_privs)["NoNewPrivs"] == "1"


def test_a_name() -> None:
    assert status_of_child(lambda: set_name("a-name-that-is-too-long"))["Name"] == "a-name-that-is-"


PARENT = """
import os, signal, sys
from memnotify_cuse.kernel.capabilities import die_with_parent
parent = os.getpid()
ready, tell = os.pipe()
pid = os.fork()
if not pid:
    die_with_parent(parent, signal.SIGKILL)
    os.write(tell, b"x")
    signal.pause()
os.read(ready, 1)
print(pid, flush=True)
signal.pause()
"""


def test_it_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert state_of(pid) in ("S", "R")
        parent.kill()
    wait_until(lambda: state_of(pid) in ("", "Z"), "the child's end")


def test_a_parent_that_has_ended_already_is_noticed() -> None:
    """The kernel would send nothing."""

    def too_late() -> None:
        with pytest.raises(ProcessLookupError):
            die_with_parent(os.getppid() + 1, signal.SIGKILL)
        # Not to end with the process of the tests either.
        die_with_parent(os.getppid(), 0)

    status_of_child(too_late)
