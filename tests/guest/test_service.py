"""memnotify as a service, in a guest that boots systemd: installed, rebooted, stopped, killed, suspended, removed.

These run on the host, and have the guest do things. They are one story, in this order: each begins with what the one
before it has left, and after the first that fails the others say little.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.guest.disk import PROJECT
from tests.support.guest.systemd import PROJECT_AT, SystemdGuest, SystemdImage

LIMIT_S: Final = 120.0
INSTALL_S: Final = 600.0
WITH_WHEELS: Final = f"cd {PROJECT_AT} && PIP_NO_INDEX=1 PIP_FIND_LINKS={PROJECT_AT}/wheels"
ASKING: Final = ("poll", "select", "read", "shell")
SHELL_LOOP: Final = 'while read -r record; do echo "0 told"; done < /dev/mem_notify'
WAITS: Final = "do_sys_poll|do_select|do_epoll_wait|ep_poll|request_wait_answer"
"""Where in the kernel a program is that waits on the device."""
SLICES: Final = ("user.slice", "system.slice", "machine.slice")
EVERYTHING: Final = "find / -xdev -path /var/log -prune -o -path /root -prune -o -path /tmp -prune -o -print | sort"
"""Every file on the disk, but for logs."""
MAKES_ITSELF: Final = re.compile(
    r"/var/lib/systemd/|/var/tmp/systemd-private-|/var/lib/private|/etc/(group|passwd|shadow|gshadow)-$|__pycache__"
)
"""What a running system makes, and what the tools for users keep."""


@pytest.fixture(scope="module")
def guest() -> Iterator[SystemdGuest]:
    """One guest for all of them."""
    if "MEMNOTIFY_SYSTEMD_IMAGE" not in os.environ:
        pytest.skip("guest tier: needs a guest that boots systemd, by `make test-vm`")
    directory, results = Path(os.environ["MEMNOTIFY_SYSTEMD_IMAGE"]), Path(os.environ["MEMNOTIFY_RESULTS"])
    image = SystemdImage(directory / "root.img", directory / "vmlinuz", directory / "initrd.img")
    kvm = os.environ["MEMNOTIFY_KVM"] == "1"
    with SystemdGuest(image, directory / "project.img", results, kvm=kvm) as machine:
        if not speaks("WATCHDOG=1"):
            # Nobody pings yet: systemd would end the service again and again.
            folder = "/etc/systemd/system/memnotify.service.d"
            machine.check(f"mkdir -p {folder} && printf '[Service]\\nWatchdogSec=0\\n' > {folder}/test.conf")
        yield machine
        (results / "journal.log").write_text(machine.run("journalctl -b --no-pager").output)


@pytest.fixture(scope="module")
def files_before(guest: SystemdGuest) -> frozenset[str]:
    """What is on the disk before anything is installed: the first test asks for it."""
    return frozenset(guest.check(EVERYTHING).splitlines())


def speaks(word: str) -> bool:
    """Whether the project says `word` to the service manager."""
    return any(word in path.read_text() for path in (PROJECT / "memnotify_cuse").rglob("*.py"))


def wait_for(guest: SystemdGuest, command: str, what: str) -> None:
    """Until `command` succeeds."""
    deadline = time.monotonic() + LIMIT_S
    while (result := guest.run(command)).code != 0:
        log = "journalctl -u memnotify -u memnotify-suspend -n 40 --no-pager"
        assert time.monotonic() < deadline, f"{what}: {result.output}\n{guest.run(log).output}"


def wait_served(guest: SystemdGuest) -> None:
    wait_for(guest, "systemctl is-active memnotify && head -c 0 /dev/mem_notify", "the device can be opened")


def processes(guest: SystemdGuest) -> dict[str, int]:
    """The processes of the service, by name."""
    lines = guest.check(
        "for pid in $(cat /sys/fs/cgroup/system.slice/memnotify.service/cgroup.procs); do"
        " echo $pid $(cat /proc/$pid/comm); done"
    ).splitlines()
    return {name: int(pid) for pid, _, name in (line.partition(" ") for line in lines)}


def start_program(guest: SystemdGuest, how: str, group: str) -> str:
    """A program that waits on the device in a unit of its own; the unit's name."""
    unit = f"await-{how}"
    command = f"{PROJECT_AT}/programs/await {how} /dev/mem_notify"
    if how == "shell":
        command = f"/bin/sh -c '{SHELL_LOOP}'"
    log = f"/run/{unit}.log"
    guest.check(
        f"rm -f {log}; systemctl reset-failed {unit} 2>/dev/null; systemd-run --quiet --unit={unit} --slice={group}"
        f" -p StandardOutput=append:{log} -p StandardError=append:{log} {command}"
    )
    wait_for(
        guest,
        f"grep -qE '{WAITS}' /proc/$(systemctl show -P MainPID {unit})/wchan",
        f"{unit} sleeps",
    )
    return unit


def stop_program(guest: SystemdGuest, unit: str) -> None:
    guest.run(f"systemctl kill -s KILL {unit}; systemctl reset-failed {unit}")


def assert_told(guest: SystemdGuest, unit: str) -> None:
    assert guest.run(f"systemctl is-active {unit}").output == "active\n", guest.run(f"cat /run/{unit}.log").output
    wait_for(guest, f"memnotify simulate --for 1 && sleep 0.3 && grep -q told /run/{unit}.log", f"{unit} is told")
    assert "error" not in guest.check(f"cat /run/{unit}.log")
    assert guest.run(f"systemctl is-active {unit}").output == "active\n"


def counter(guest: SystemdGuest, name: str) -> int:
    return int(guest.check(f"cat /sys/power/suspend_stats/{name}"))


def suspend(guest: SystemdGuest) -> bool:
    """Suspend as a user does, as far as the kernel's freezer test goes; whether it worked."""
    guest.check("echo freezer > /sys/power/pm_test; echo 5000 > /sys/power/pm_freeze_timeout")
    guest.check("echo 0 > /sys/module/suspend/parameters/pm_test_delay")
    slept, failed = counter(guest, "success"), counter(guest, "fail")
    guest.check("systemctl suspend")
    deadline = time.monotonic() + LIMIT_S
    while (now := (counter(guest, "success"), counter(guest, "fail"))) == (slept, failed):
        assert time.monotonic() < deadline, "the machine neither slept nor failed to"
    wait_for(guest, '[ -z "$(systemctl list-jobs --no-legend)" ]', "it is awake again")
    return now[0] > slept


def test_it_is_installed_and_runs(guest: SystemdGuest, files_before: frozenset[str]) -> None:
    guest.check(f"{WITH_WHEELS} packaging/service.sh install", limit_s=INSTALL_S)
    wait_served(guest)
    assert guest.check("systemctl is-enabled memnotify memnotify-suspend") == "enabled\nenabled\n"
    assert "node=cuse" in guest.check("journalctl -u memnotify --no-pager")


def test_the_units_are_valid(guest: SystemdGuest) -> None:
    for unit in ("memnotify.service", "memnotify-suspend.service"):
        assert guest.check(f"systemd-analyze verify {unit}") == ""


def test_it_has_what_it_needs_and_no_more(guest: SystemdGuest) -> None:
    """The unit's limits and rights are enough: nothing is refused, and the server and its user have no right left."""
    assert "not permitted" not in guest.check("journalctl -b -u memnotify --no-pager")
    server = processes(guest)["memnotify-serve"]
    status = guest.check(f"cat /proc/{server}/status")
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE), status
    user = guest.check("id -u memnotify").strip()
    assert re.search(rf"^Uid:\t{user}\t{user}\t", status, re.MULTILINE), status
    assert guest.check(f"cat /proc/{server}/oom_score_adj").strip() == "-900"
    assert guest.check("stat -c '%F %a' /dev/mem_notify").strip() == "character special file 444"


def test_the_mount_is_seen_by_everybody(guest: SystemdGuest) -> None:
    assert "zone=" in guest.check("cat /run/mem_notify/status") or "node0-" in guest.check("memnotify status")


def test_a_program_is_told_by_a_signal_too(guest: SystemdGuest) -> None:
    """SIGIO takes the helpers, which need most of the rights."""
    guest.check(
        f"systemd-run --quiet --unit=sigio -p StandardOutput=append:/run/sigio.log"
        f" /usr/bin/python3 {PROJECT_AT}/examples/sigio_wakeup_fd.py"
    )
    wait_for(guest, "memnotify simulate --for 1 && sleep 0.3 && grep -q node= /run/sigio.log", "SIGIO comes")
    stop_program(guest, "sigio")


def test_it_is_there_after_a_reboot(guest: SystemdGuest) -> None:
    guest.reboot()
    wait_served(guest)


def test_killed_it_comes_back(guest: SystemdGuest) -> None:
    for name in ("memnotify-serve", "memnotify"):
        guest.check(f"kill -9 {processes(guest)[name]}")
        wait_served(guest)
    assert guest.run("memnotify wait --timeout 0").code == 1


@pytest.mark.skipif(not speaks("FDSTORE=1"), reason="no server takes over from another yet")
@pytest.mark.parametrize("how", [*ASKING, "epoll"])
@pytest.mark.parametrize("event", ["server killed", "keeper killed", "reloaded", "upgraded"])
def test_a_program_does_not_notice_that_another_server_takes_over(guest: SystemdGuest, how: str, event: str) -> None:
    unit = start_program(guest, how, SLICES[0])
    try:
        match event:
            case "server killed":
                guest.check(f"kill -9 {processes(guest)['memnotify-serve']}")
            case "keeper killed":
                guest.check("kill -9 $(systemctl show -P MainPID memnotify)")
            case "reloaded":
                guest.check("systemctl reload memnotify")
            case "upgraded":
                guest.check(f"{WITH_WHEELS} packaging/service.sh install", limit_s=INSTALL_S)
        wait_served(guest)
        assert_told(guest, unit)
    finally:
        stop_program(guest, unit)


def test_stopped_it_leaves_nothing_mounted(guest: SystemdGuest) -> None:
    guest.check("systemctl stop memnotify")
    assert guest.run("test -e /dev/mem_notify").code == 1
    assert guest.run("grep memnotify /proc/self/mountinfo").code == 1
    assert guest.run("ls /sys/kernel/tracing/instances | grep memnotify").code == 1
    guest.check("systemctl start memnotify")
    wait_served(guest)


@pytest.mark.parametrize("how", ASKING)
def test_the_machine_stays_awake_without_our_unit(guest: SystemdGuest, how: str) -> None:
    """What the kernel does by itself, and why there is the unit. (user.slice is frozen by systemd 256 and later.)"""
    guest.check("systemctl disable memnotify-suspend")
    unit = start_program(guest, how, SLICES[1])
    try:
        assert not suspend(guest)
    finally:
        guest.check("systemctl enable memnotify-suspend")
        stop_program(guest, unit)


@pytest.mark.parametrize("group", SLICES)
@pytest.mark.parametrize("how", ASKING)
def test_the_machine_sleeps_and_the_program_is_told_afterwards(guest: SystemdGuest, how: str, group: str) -> None:
    unit = start_program(guest, how, group)
    try:
        assert suspend(guest), guest.run("journalctl -b -n 60 --no-pager").output
        assert_told(guest, unit)
        assert guest.run("test -e /run/memnotify-suspend").code == 1
        assert guest.run("systemctl is-active memnotify").output == "active\n"
    finally:
        stop_program(guest, unit)


def test_the_machine_sleeps_with_many_programs_and_a_second_time(guest: SystemdGuest) -> None:
    units = [start_program(guest, how, SLICES[0]) for how in ASKING]
    try:
        assert suspend(guest)
        assert suspend(guest)
        for unit in units:
            assert_told(guest, unit)
    finally:
        for unit in units:
            stop_program(guest, unit)


def test_removed_it_leaves_nothing(guest: SystemdGuest, files_before: frozenset[str]) -> None:
    guest.check("rm -rf /etc/systemd/system/memnotify.service.d")
    guest.check(f"cd {PROJECT_AT} && packaging/service.sh uninstall")
    left = set(guest.check(EVERYTHING).splitlines()) - files_before
    assert {path for path in left if not MAKES_ITSELF.search(path)} == set()
    assert guest.run("id memnotify").code == 1
    assert guest.run("test -e /dev/mem_notify || test -e /run/mem_notify").code == 1
    assert "memnotify" not in guest.check("systemctl list-units --all --no-legend")
