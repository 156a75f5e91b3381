"""``memnotify doctor``: each check on this machine and on made-up ones."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memnotify_cuse.cli import checks_kernel, checks_serving, doctor
from memnotify_cuse.cli.host import Finding, Host, parse_capabilities
from memnotify_cuse.cli.main import main
from memnotify_cuse.keeper.mount import PLACEHOLDER
from memnotify_cuse.keeper.statefile import STATE_BYTES
from memnotify_cuse.kernel.capabilities import Capability
from memnotify_cuse.kernel.errors import MalformedKernelFileError
from memnotify_cuse.kernel.trace import KNOWN_EVENTS
from tests.support.mounted import LIMIT_S, calm_proc, facts, watchdog
from tests.support.server import Server
from tests.support.takeover import server_pid

LINE = re.compile(r"(ok|warn|fail) +[a-z0-9_]+: .+ — .+")
ALL = (1 << 41) - 1

ZONEINFO = """\
Node 0, zone   Normal
  per-node stats
      nr_inactive_anon 0
      nr_active_anon 0
      nr_inactive_file 0
      nr_active_file 0
      nr_mapped 0
  pages free     3840
        min      53
        low      66
        high     79
        spanned  4095
        present  3998
        managed  3840
        protection: (0, 0)
      nr_zone_inactive_anon 0
      nr_zone_active_anon 0
      nr_zone_inactive_file 0
      nr_zone_active_file 0
      nr_zone_unevictable 0
"""


def without(mask: int, capability: Capability) -> int:
    """The mask less one capability."""
    return mask & ~(1 << capability)


@pytest.fixture
def machine(tmp_path: Path) -> Host:
    """A machine with empty /dev, /proc and /sys, and all rights."""
    for folder in ("dev", "proc/self", "sys"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").touch()
    return Host(root=tmp_path, euid=0, effective=ALL, bounding=ALL, memlock_bytes=8 << 20)


def test_on_this_host_every_line_has_the_form(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    *lines, empty, conclusion = capsys.readouterr().out.splitlines()
    assert len(lines) == len(doctor.checks())
    assert all(LINE.fullmatch(line) for line in lines)
    assert empty == ""
    failed = any(line.startswith("fail") for line in lines)
    assert code == (1 if failed else 0)
    assert conclusion.startswith("the server cannot run here" if failed else "the server can run here")


@pytest.mark.parametrize("check", doctor.checks())
def test_a_bare_machine_breaks_no_check(check: Callable[[Host], Finding], machine: Host) -> None:
    assert LINE.fullmatch(check(machine).line())


def test_the_exit_code_is_1_when_a_check_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], machine: Host
) -> None:
    monkeypatch.setattr("memnotify_cuse.cli.host.this_host", lambda: machine)
    assert main(["doctor"]) == 1
    assert "cannot run here; see: fuse, zoneinfo, vmstat" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("check", "level", "word"),
    [
        (checks_serving.fuse, "fail", "modprobe fuse"),
        (checks_serving.cuse, "ok", "the device will be a file"),
        (checks_serving.device, "ok", "is free"),
        (checks_kernel.zoneinfo, "fail", "zoneinfo"),
        (checks_kernel.vmstat, "fail", "vmstat"),
        (checks_kernel.lru, "ok", "classic"),
        (checks_kernel.swap, "ok", "none"),
        (checks_kernel.meminfo, "fail", "zoneinfo"),
        (checks_serving.mount_point, "warn", "does not exist"),
        (checks_kernel.tracefs, "warn", "mount -t tracefs"),
        (checks_kernel.psi, "warn", "no trigger"),
        (checks_kernel.cgroups, "warn", "no hierarchy with the memory controller"),
    ],
)
def test_what_is_missing(check: Callable[[Host], Finding], level: str, word: str, machine: Host) -> None:
    finding = check(machine)
    assert finding.level == level
    assert word in finding.line()


def test_the_zones_to_be_watched(machine: Host) -> None:
    small = ZONEINFO.replace("  Normal", "     DMA").replace("present  3998", "present  300")
    small = re.sub(r"  per-node stats\n(      nr_.*\n){5}  pages", "  pages", small)
    (machine.proc / "zoneinfo").write_text(ZONEINFO + small)
    finding = checks_kernel.zoneinfo(machine)
    assert finding.level == "ok"
    assert "node0-Normal to be watched, node0-DMA too small" in finding.found


def test_an_old_kernel_has_no_pgscan_anon(machine: Host) -> None:
    (machine.proc / "vmstat").write_text("nr_free_pages 1\n")
    assert checks_kernel.vmstat(machine).level == "warn"
    (machine.proc / "vmstat").write_text("nr_free_pages 1\npgscan_anon 7\n")
    assert checks_kernel.vmstat(machine) == Finding(
        "ok",
        "vmstat",
        "pgscan_anon is 7 pages since boot",
        "tells real scanning of anonymous memory from mere ageing",
    )


V1 = "30 20 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V2 = "31 20 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    ("mounts", "controllers", "level", "words"),
    [
        (V1 + V2, "", "ok", "cgroup v1 at /sys/fs/cgroup/memory"),
        (V2, "cpu memory\n", "ok", "cgroup v2 at /sys/fs/cgroup/unified"),
        (V2, "cpu io\n", "warn", "no hierarchy with the memory controller"),
    ],
    ids=["both", "v2", "v2 without memory"],
)
def test_memory_cgroups(mounts: str, controllers: str, level: str, words: str, machine: Host) -> None:
    (machine.proc / "self/mountinfo").write_text(mounts)
    folder = machine.sys / "fs/cgroup/unified"
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text(controllers)
    finding = checks_kernel.cgroups(machine)
    assert finding.level == level
    assert words in finding.found


@pytest.mark.parametrize(("mask", "word"), [("0x0007", "MGLRU)"), ("0x0000", "switched off")])
def test_mglru(mask: str, word: str, machine: Host) -> None:
    folder = machine.sys / "kernel/mm/lru_gen"
    folder.mkdir(parents=True)
    (folder / "enabled").write_text(f"{mask}\n")
    assert word in checks_kernel.lru(machine).found


@pytest.mark.parametrize(("name", "zram"), [("/dev/zram0", True), ("/dev/sda2", False)])
def test_swap_and_zram(name: str, zram: bool, machine: Host) -> None:
    (machine.proc / "swaps").write_text(
        f"Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n{name} partition\t524288\t0\t-2\n"
    )
    finding = checks_kernel.swap(machine)
    assert finding.found == f"512 MiB on {name}"
    assert ("zram" in finding.meaning) == zram


def test_tracefs_events(machine: Host) -> None:
    root = machine.sys / "kernel/tracing"
    (root / "instances").mkdir(parents=True)
    for event in KNOWN_EVENTS[:-1]:
        (root / "events/vmscan" / event).mkdir(parents=True)
    finding = checks_kernel.tracefs(machine)
    assert finding.level == "warn"
    assert KNOWN_EVENTS[-1] in finding.found
    (root / "events/vmscan" / KNOWN_EVENTS[-1]).mkdir()
    assert checks_kernel.tracefs(machine).level == "ok"


def test_a_file_in_the_way_of_the_device(machine: Host) -> None:
    node = machine.root / "dev/mem_notify"
    node.write_text("precious")
    finding = checks_serving.device(machine)
    assert finding.level == "warn"
    assert "is a file that is not ours" in finding.found


def test_an_empty_file_is_in_the_way_of_a_character_device_only(machine: Host) -> None:
    (machine.root / "dev/mem_notify").touch()
    finding = checks_serving.device(machine)
    assert finding.level == "ok"
    assert finding.meaning.endswith("and leaves it")
    (machine.root / "dev/cuse").touch()
    assert checks_serving.device(machine).level == "warn"


@pytest.mark.skipif(os.geteuid() != 0, reason="the placeholder is root's")
def test_a_placeholder_without_a_mount_is_what_a_killed_server_left(machine: Host) -> None:
    os.mknod(machine.root / "dev/mem_notify", PLACEHOLDER)
    finding = checks_serving.device(machine)
    assert finding.level == "ok"
    assert "left from a server that was killed" in finding.found


def test_a_swap_file_whose_name_looks_like_the_end_of_a_line(machine: Host) -> None:
    title = b"Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n"
    (machine.proc / "swaps").write_bytes(title + b"/var/a\x85b file\t1024\t0\t-2\n")
    assert checks_kernel.swap(machine).found == r"1 MiB on /var/a\x85b"


def test_a_character_device_of_a_server_is_not_in_the_way(machine: Host) -> None:
    (machine.root / "dev/mem_notify").touch()
    (machine.sys / "class/cuse/mem_notify").mkdir(parents=True)
    assert checks_serving.device(machine).found.endswith("is served (cuse)")


@pytest.mark.mount
def test_as_much_memory_may_be_locked_as_the_server_has_mapped(server: Server) -> None:
    """The figure of the check, against a real server."""
    status = Path(f"/proc/{facts(server)['server_pid']}/status").read_text()
    mapped_kb = int(re.search(r"^VmSize:\s+([0-9]+) kB$", status, re.MULTILINE)[1])  # type: ignore[index]
    # It is mapped later, and not locked.
    mapped_kb -= STATE_BYTES // 1024
    assert checks_serving.memlock(Host(memlock_bytes=mapped_kb * 1024)).level == "warn"
    assert checks_serving.memlock(Host(memlock_bytes=mapped_kb * 2048)).level == "ok"


DOCTOR_OF = """
import sys
from memnotify_cuse.cli import checks_serving, main
checks_serving.DEFAULT_MOUNT, checks_serving.DEFAULT_DEVICE = sys.argv[1:]
sys.exit(main.main(["doctor"]))
"""


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can show the device outside the mount")
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_server_that_does_not_answer_keeps_it_no_longer_than_another(number: int, tmp_path: Path) -> None:
    """It is asked of default paths alone, which a test must not take, so it is told of others."""
    arguments = ("--proc", str(calm_proc(tmp_path).path))
    with Server(tmp_path, *arguments, node=tmp_path / "node") as server, watchdog(server):
        argv = [sys.executable, "-c", DOCTOR_OF, str(server.mount), str(server.device)]
        before = server_pid(server)
        # After a look into the root folder, who asks for its times has to wait for the server.
        os.listdir(server.mount)
        # None takes its place.
        os.kill(server.process.pid, signal.SIGSTOP)
        os.kill(before, number)
        try:
            said = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        finally:
            os.kill(before, signal.SIGCONT)
            os.kill(server.process.pid, signal.SIGCONT)
        assert said.stderr == ""
        lines = [line for line in said.stdout.splitlines() if "does not answer within 3 s" in line]
        assert [line.split(":")[0] for line in lines] == ["warn  device", "warn  mount"], said.stdout
        said = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert f"ok    mount: {server.mount} is served" in said.stdout
        assert server.stop() == 0


def test_mounting_needs_a_right_that_a_container_may_lack(machine: Host) -> None:
    assert checks_serving.mounting(machine).level == "ok"
    bare = dataclasses.replace(
        machine, effective=without(ALL, Capability.SYS_ADMIN), bounding=without(ALL, Capability.SYS_ADMIN)
    )
    for each in (bare, dataclasses.replace(bare, bounding=ALL), dataclasses.replace(bare, euid=1000)):
        finding = checks_serving.mounting(each)
        assert finding.level == "fail"
        assert "--cap-add" in finding.meaning


def test_an_ordinary_user_needs_fusermount3(machine: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = dataclasses.replace(machine, euid=1000, effective=0)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    assert "install fuse3" in checks_serving.mounting(user).meaning
    helper = folder / "fusermount3"
    helper.touch(0o755)
    assert "set-user-id" in checks_serving.mounting(user).found
    helper.chmod(0o4755)
    assert checks_serving.mounting(user).level == "ok"


@pytest.mark.parametrize(
    ("check", "capability"),
    [
        (checks_serving.memlock, Capability.IPC_LOCK),
        (checks_serving.oom_score, Capability.SYS_RESOURCE),
        (checks_serving.realtime, Capability.SYS_NICE),
        (checks_serving.sigio, Capability.SYS_PTRACE),
        (checks_serving.sigio, Capability.KILL),
    ],
)
def test_a_right_that_is_missing_is_a_warning(
    check: Callable[[Host], Finding], capability: Capability, machine: Host
) -> None:
    assert check(dataclasses.replace(machine, effective=without(ALL, capability))).level == "warn"


def test_the_helpers_of_root_are_nobody_without_their_rights(machine: Host) -> None:
    """They are of a user of their own; an ordinary user's are that user's, and reach that user's programs."""
    mask = without(without(ALL, Capability.SYS_PTRACE), Capability.KILL)
    finding = checks_serving.sigio(dataclasses.replace(machine, effective=mask))
    assert finding.found == "pidfd_getfd works, no CAP_KILL, CAP_SYS_PTRACE"
    assert finding.meaning.startswith("no program gets SIGIO here")
    user = dataclasses.replace(machine, effective=0, euid=1000)
    assert checks_serving.sigio(user).meaning.startswith("SIGIO reaches programs of the same user only")


def test_for_a_character_device_the_helpers_need_to_look_into_folders_too(machine: Host) -> None:
    machine = dataclasses.replace(machine, effective=without(ALL, Capability.DAC_READ_SEARCH))
    assert checks_serving.sigio(machine).level == "ok"
    (machine.root / "dev/cuse").touch()
    assert "no CAP_DAC_READ_SEARCH" in checks_serving.sigio(machine).found


@pytest.mark.parametrize(("limit", "level"), [(None, "ok"), (1 << 30, "ok"), (64 << 10, "warn")])
def test_the_limit_of_locked_memory(limit: int | None, level: str, machine: Host) -> None:
    machine = dataclasses.replace(machine, effective=0, memlock_bytes=limit)
    assert checks_serving.memlock(machine).level == level


def test_kprobe_events(machine: Host) -> None:
    tracing = machine.sys / "kernel/tracing"
    assert "works as owner" in checks_kernel.kprobes(machine).meaning
    for folder in ("instances", "events"):
        (tracing / folder).mkdir(parents=True, exist_ok=True)
    assert "no kprobe events" in checks_kernel.kprobes(machine).found
    (tracing / "kprobe_events").touch()
    assert "sees O_ASYNC" in checks_kernel.kprobes(machine).meaning


def test_the_conclusion_names_what_wakes_it() -> None:
    tracefs = Finding("ok", "tracefs", "", "")
    psi = Finding("ok", "psi", "", "")
    assert "tracefs" in doctor.conclusion([tracefs, psi])
    assert "PSI" in doctor.conclusion([dataclasses.replace(tracefs, level="warn"), psi])
    assert "timer alone" in doctor.conclusion([dataclasses.replace(psi, level="warn")])


def test_capabilities_are_read_by_name() -> None:
    text = "Name:\tCapEff:\t0\nCapPrm:\t00000000000000ff\nCapEff:\t0000000000000003\nCapBnd:\t000001ffffffffff\n"
    assert parse_capabilities(text) == (3, ALL)
    with pytest.raises(MalformedKernelFileError, match="CapBnd"):
        parse_capabilities(text.replace("CapBnd", "CapXyz"))
