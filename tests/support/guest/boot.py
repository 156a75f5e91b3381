"""Boots a guest with virtme-ng, runs one command in it, and brings its results out."""

from __future__ import annotations

import os
import pty
import selectors
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.guest.disk import LABEL, PROJECT, SWAP_LABEL, bound_paths, make_stream_disk, make_swap_disk
from tests.support.guest.kernel import Kernel
from tests.support.guest.workdisk import LABEL as WORK_LABEL

KVM_PROBE_S: Final = 15.0


@dataclass(frozen=True)
class Shape:
    """What is booted: memory, swap ("none", "zram" or "disk"), LRU kind ("classic" or "mglru"), NUMA nodes.

    `kernel_arguments` are more words of the kernel's command line.
    """

    memory_mib: int = 512
    swap: str = "none"
    lru: str = "classic"
    numa_nodes: int = 1
    kernel_arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        nodes = f"-{self.numa_nodes}nodes" if self.numa_nodes > 1 else ""
        return f"{self.swap}-{self.lru}{nodes}-{self.memory_mib}m"


@dataclass(frozen=True)
class Guest:
    """Everything that the boots of one run share."""

    kernel: Kernel
    system_disk: Path
    programs: Path
    kvm: bool

    def run(
        self, shape: Shape, command: Sequence[str], results: Path, *, limit_s: float, work_disk: Path | None = None
    ) -> int | None:
        """Boot, run `command` in the project's folder, shut down. The command's exit code, None if none came.

        The guest gets a copy of `work_disk`, under $MEMNOTIFY_WORK.

        The guest may write to `results`, which is $MEMNOTIFY_RESULTS there; the console goes to results/console.log.
        """
        results.mkdir(parents=True, exist_ok=True)
        script, code = results / "run.sh", results / "exit-code"
        code.unlink(missing_ok=True)
        script.write_text(_script(shape, self.programs, command, results, with_work=work_disk is not None))
        script.chmod(0o755)
        # A disk belongs to one guest: qemu locks it, and another boot may run beside this one.
        system_disk = results / "system.img"
        shutil.copy(self.system_disk, system_disk)
        disks = [system_disk, make_stream_disk(results)]
        if work_disk is not None:
            disks.append(results / "work.img")
            subprocess.run(["cp", "--sparse=always", str(work_disk), str(disks[-1])], check=True)
        if shape.swap == "disk":
            disks.append(make_swap_disk(results, shape.memory_mib // 2))
        try:
            _run_on_terminal(self._vng(shape, script, results, disks), results / "console.log", limit_s)
        finally:
            for disk in disks:
                disk.unlink()
        return int(code.read_text()) if code.exists() and code.read_text().strip() else None

    def _vng(self, shape: Shape, script: Path, results: Path, disks: list[Path]) -> list[str]:
        command = [str(Path(sys.executable).parent / "vng"), "-r", str(self.kernel.image), "--user", "root"]
        command += ["--memory", f"{shape.memory_mib}M", "--cpus", str(shape.numa_nodes)]
        if not self.kvm:
            command.append("--disable-kvm")
        for node in range(shape.numa_nodes if shape.numa_nodes > 1 else 0):
            command += ["--numa", f"{shape.memory_mib // shape.numa_nodes}M,cpus={node}"]
        for argument in shape.kernel_arguments:
            command += ["--append", argument]
        for disk in disks:
            command += ["--disk", str(disk)]
        command += ["--rwdir", str(results)]
        return [*command, "--", str(script)]


def kvm_works(kernel: Kernel) -> bool:
    """Whether a kernel gets as far as looking for its root file system under KVM, soon: it can be there and hang."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    command = ["qemu-system-x86_64", "-accel", "kvm", "-m", "256", "-nographic", "-no-reboot", "-kernel"]
    command += [str(kernel.image), "-append", "console=ttyS0 panic=-1"]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=KVM_PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return b"Kernel panic" in result.stdout


def vng_problem() -> str | None:
    """Why virtme-ng is not there, None if it is."""
    return None if (Path(sys.executable).parent / "vng").exists() else "virtme-ng is not installed"


def _script(shape: Shape, programs: Path, command: Sequence[str], results: Path, *, with_work: bool) -> str:
    lines = [
        "#!/bin/sh",
        "set -eu",
        # Not /tmp: the kernel's modules, or all of the project, may lie in it.
        "mkdir -m 1777 /run/scratch; export TMPDIR=/run/scratch HOME=/run/scratch PYTHONDONTWRITEBYTECODE=1",
        # The console would take a good part of the time that an OOM report takes.
        "dmesg -n 1",
        "for module in ext4 fuse cuse zram; do modprobe $module || true; done",
        "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing",
        f"system=$(findfs LABEL={LABEL})",
        f"work=$(findfs LABEL={WORK_LABEL} || true); swap=$(findfs LABEL={SWAP_LABEL} || true)",
        'used="-e $system -e ${work:-none} -e ${swap:-none}"',
        "stream=$(ls /dev/sd? /dev/vd? 2>/dev/null | grep -vx $used | tail -1)",
        "mkdir -p /run/system && mount -o ro $system /run/system",
        *[f"mount --bind /run/system{path} {path}" for path in map(str, bound_paths(programs))],
        # cgroup v1's memory controller, for memory.pressure_level; not everywhere.
        "mkdir -p /run/cgroup-v1-memory && mount -t cgroup -o memory cgroup /run/cgroup-v1-memory || true",
        f"echo {'y' if shape.lru == 'mglru' else 'n'} > /sys/kernel/mm/lru_gen/enabled",
    ]
    if with_work:
        lines += ["mkdir -p /run/work && mount $work /run/work", "export MEMNOTIFY_WORK=/run/work"]
    if shape.swap == "zram":
        lines += [
            f"echo {shape.memory_mib // 2}M > /sys/block/zram0/disksize",
            "mkswap /dev/zram0 > /dev/null && swapon /dev/zram0",
        ]
    if shape.swap == "disk":
        lines.append("swapon $swap")
    environment = {
        "MEMNOTIFY_RESULTS": str(results),
        "MEMNOTIFY_PROGRAMS": str(programs),
        "MEMNOTIFY_SWAP": shape.swap,
    }
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines += ["export MEMNOTIFY_STREAM_DISK=$stream", f"cd {shlex.quote(str(PROJECT))}"]
    lines += [
        "code=0",
        f"{shlex.join(command)} > {results}/output.log 2>&1 || code=$?",
        f"echo $code > {results}/exit-code",
    ]
    return "\n".join(lines) + "\n"


def _run_on_terminal(command: Sequence[str], log: Path, limit_s: float) -> None:
    """Run `command` with a terminal of its own, which virtme-ng wants; it is ended after `limit_s`."""
    ours, theirs = pty.openpty()
    deadline = time.monotonic() + limit_s
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    with log.open("wb") as console, selectors.DefaultSelector() as selector:
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "PATH": path},
        )
        os.close(theirs)
        selector.register(ours, selectors.EVENT_READ)
        try:
            while time.monotonic() < deadline:
                if not selector.select(1.0):
                    continue
                try:
                    data = os.read(ours, 65536)
                except OSError:
                    break
                if not data:
                    break
                console.write(data)
                console.flush()
            else:
                console.write(f"\nnot ended within {limit_s} s\n".encode())
        finally:
            os.close(ours)
            _end_session(process)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End virtme-ng and the qemu that it started: both are in the session of `process`."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with_session = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        for pid in with_session:
            try:
                if os.getsid(pid) == process.pid and pid != process.pid:
                    os.kill(pid, 9)
            except OSError:
                continue
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
