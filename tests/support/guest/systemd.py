"""A guest that boots systemd, for what only a service manager does: a Debian root file system and plain qemu.

The image is made once, under build/guest/systemd. Each test run has a copy, and a second disk with this project, the
packages that it needs from PyPI, and the compiled programs of the guest tier. The host runs commands in it over a
serial line (`agent`).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support.guest.disk import PROJECT
from tests.support.guest.kernel import GuestUnavailableError

BOOKWORM: Final = "bookworm"
TRIXIE: Final = "trixie"
"""Debian 12 with systemd 252, and 13 with 257. Each test has one of them."""
PACKAGES: Final = (
    *("systemd-sysv", "udev", "dbus", "kmod", "fuse3", "python3", "python3-venv", "procps"),
    *("linux-image-amd64", "initramfs-tools", "zstd"),
)
PYTHON: Final = {BOOKWORM: (3, 11), TRIXIE: (3, 13)}
"""That suite's: the compiled packages have to be for it."""
COMPILERS: Final = ("python3-pip", "python3-dev", "gcc", "pkg-config", "libfuse3-dev", "ca-certificates")
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
PARTS: Final = ("memnotify_cuse", "packaging", "examples", "pyproject.toml", "README.md", "LICENSE", "Makefile")
REQUIREMENTS: Final = ("pyfuse3>=3.5", "trio>=0.25", "psutil>=5.9", "setuptools>=68")
AGENT: Final = Path(__file__).parent / "agent.py"
SPARE_MIB: Final = 600
MAKE_LIMIT_S: Final = 900.0
BOOT_S: Final = 240.0
COMMAND_S: Final = 120.0
PROJECT_AT: Final = "/run/project"
UNIT: Final = """\
[Unit]
Description=Runs the commands of the tests
DefaultDependencies=no
After=local-fs.target dev-ttyS1.device
[Service]
ExecStart=/usr/bin/python3 /usr/local/sbin/agent
[Install]
WantedBy=sysinit.target
"""


@dataclass(frozen=True)
class SystemdImage:
    """What is booted: a disk image, and its kernel and initial file system beside it."""

    disk: Path
    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class Result:
    """What a command came to; `code` is None where it took too long."""

    code: int | None
    output: str


def make_image(directory: Path, suite: str = BOOKWORM) -> SystemdImage:
    """The image of a suite of Debian, from `directory` if it is there already. Raises GuestUnavailableError."""
    missing = [name for name in ("mmdebstrap", "qemu-system-x86_64") if shutil.which(name) is None]
    if missing:
        raise GuestUnavailableError(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        raise GuestUnavailableError("a guest that boots systemd is made by root")
    image = SystemdImage(directory / "root.img", directory / "vmlinuz", directory / "initrd.img")
    if image.disk.exists():
        return image
    root = directory / "root"
    shutil.rmtree(root, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    _run(["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, str(root)])
    for name, target in (("vmlinuz-*", image.kernel), ("initrd.img-*", image.initrd)):
        shutil.copy(sorted((root / "boot").glob(name))[-1], target)
    (root / "usr/local/sbin/agent").write_text(AGENT.read_text())
    (root / "etc/systemd/system/agent.service").write_text(UNIT)
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 0\n")
    (root / "etc/hostname").write_text("guest\n")
    wanted = root / "etc/systemd/system/sysinit.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "agent.service").symlink_to("/etc/systemd/system/agent.service")
    _make_disk(root, image.disk, SPARE_MIB)
    shutil.rmtree(root)
    return image


def make_project_disk(directory: Path, programs: Path, suite: str = BOOKWORM) -> Path:
    """A disk with the project as it is now, its packages as wheels, and `programs`. Raises GuestUnavailableError."""
    wheels = directory / "wheels"
    if not wheels.exists():
        fetched = directory / "wheels.new"
        shutil.rmtree(fetched, ignore_errors=True)
        if suite == BOOKWORM and sys.version_info[:2] == PYTHON[suite]:
            _run([sys.executable, "-m", "pip", "--quiet", "wheel", "--wheel-dir", str(fetched), *REQUIREMENTS])
        else:
            # The library that they are linked with has to be that suite's as well.
            _compile_in(directory / "compilers", suite, fetched)
        fetched.rename(wheels)
    stage = directory / "project"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, stage / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, stage / part)
    shutil.copytree(wheels, stage / "wheels")
    shutil.copytree(programs, stage / "programs")
    _make_disk(stage, directory / "project.img", SPARE_MIB // 10)
    shutil.rmtree(stage)
    return directory / "project.img"


def _compile_in(root: Path, suite: str, wheels: Path) -> None:
    """Have a root file system of `suite` make the wheels."""
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    _run(["mmdebstrap", "--variant=minbase", f"--include={','.join(COMPILERS)}", suite, str(root)])
    shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    environment = ("HOME=/root", "PATH=/usr/sbin:/usr/bin", f"PIP_CERT={CERTIFICATES}")
    pip = ("python3", "-m", "pip", "--quiet", "wheel", "--wheel-dir", "/wheels", *REQUIREMENTS)
    _run(["chroot", str(root), "env", "-i", *environment, *pip])
    shutil.copytree(root / "wheels", wheels)
    shutil.rmtree(root)


def _make_disk(folder: Path, image: Path, spare_mib: int) -> None:
    used = int(_run(["du", "-sm", str(folder)]).split()[0])
    made = image.with_suffix(".new")
    made.unlink(missing_ok=True)
    _run(["/sbin/mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(made), f"{used * 6 // 5 + spare_mib}M"])
    made.rename(image)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MAKE_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise GuestUnavailableError(f"{command[0]}: not over within {MAKE_LIMIT_S:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise GuestUnavailableError(f"{command[0]}: {last}")
    return done.stdout


class SystemdGuest:
    """A guest that runs. A context manager; the end of it is the end of the machine.

    `results` is a folder for its disks and for its console.
    """

    def __init__(self, image: SystemdImage, project: Path, results: Path, *, kvm: bool, memory_mib: int = 1024) -> None:
        self._disks = [results / "root.img", results / "project.img"]
        for source, copy in zip((image.disk, project), self._disks, strict=True):
            subprocess.run(["cp", "--sparse=always", str(source), str(copy)], check=True)
        self._socket_path = results / "agent.sock"
        self._socket_path.unlink(missing_ok=True)
        command = ["qemu-system-x86_64", "-accel", "kvm" if kvm else "tcg", "-m", str(memory_mib), "-smp", "2"]
        command += ["-display", "none", "-monitor", "none", "-nic", "none"]
        command += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
        command += ["-append", "root=/dev/vda rw console=ttyS0 systemd.show_status=false"]
        for disk in self._disks:
            command += ["-drive", f"file={disk},if=virtio,format=raw"]
        command += ["-serial", f"file:{results / 'console.log'}"]
        command += ["-serial", f"unix:{self._socket_path},server=on,wait=off"]
        with (results / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._line = socket.socket(socket.AF_UNIX)
        self._text = b""
        self.boot = ""

    def __enter__(self) -> Self:
        try:
            self._connect()
            self.wait_booted()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def wait_booted(self) -> None:
        """Until it has booted, and has nothing left to start. AssertionError if it does not get there."""
        deadline = time.monotonic() + BOOT_S
        while "ready" not in (said := self._receive(deadline)):
            continue
        self.boot = said["ready"]
        self.run("systemctl is-system-running --wait", limit_s=BOOT_S)
        self.check(f"mkdir -p {PROJECT_AT} && mount -o ro /dev/vdb {PROJECT_AT}")

    def run(self, command: str, *, limit_s: float = COMMAND_S) -> Result:
        """Run `command` in a shell, as root."""
        self._line.sendall(json.dumps({"command": command, "limit_s": limit_s}).encode() + b"\n")
        # The agent may be suspended together with the rest.
        answer = self._receive(time.monotonic() + limit_s + COMMAND_S)
        return Result(answer["code"], answer["output"])

    def check(self, command: str, *, limit_s: float = COMMAND_S) -> str:
        """Run `command`, which has to end with 0; what it wrote."""
        result = self.run(command, limit_s=limit_s)
        assert result.code == 0, f"{command}: {result.code}: {result.output}"
        return result.output

    def reboot(self) -> None:
        """Reboot, and wait until it is up again."""
        before = self.boot
        self.check("systemctl --no-block reboot")
        self.wait_booted()
        assert self.boot != before, "it did not reboot"

    def _connect(self) -> None:
        deadline = time.monotonic() + COMMAND_S
        while True:
            with suppress(OSError):
                self._line.connect(str(self._socket_path))
                return
            assert self._process.poll() is None, f"qemu ended with {self._process.returncode}"
            assert time.monotonic() < deadline, "qemu makes no serial line"
            time.sleep(0.1)

    def _receive(self, deadline: float) -> dict[str, Any]:
        """The next line of JSON; other lines are not for us."""
        while True:
            while b"\n" in self._text:
                line, _, self._text = self._text.partition(b"\n")
                with suppress(ValueError):
                    found = json.loads(line)
                    if isinstance(found, dict):
                        return found
            self._line.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self._line.recv(65536)
            except TimeoutError:
                raise AssertionError("the guest does not answer; see its console.log") from None
            assert data, f"qemu ended with {self._process.wait(10)}"
            self._text += data

    def _end(self) -> None:
        self._line.close()
        self._process.kill()
        self._process.wait(60)
        for disk in self._disks:
            disk.unlink(missing_ok=True)
