"""The kernel of the guest: Debian's package, downloaded and unpacked under build/; nothing is installed."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

META_PACKAGE = "linux-image-amd64"
COMMAND_LIMIT_S = 300.0
"""A download from a server that does not answer is not waited for for ever."""
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "udevadm": "udev",
    "mke2fs": "e2fsprogs",
    "cc": "gcc",
}


class GuestUnavailableError(Exception):
    """No guest can be had here; the message is one line that says why."""


@dataclass(frozen=True)
class Kernel:
    """`image` is what the guest boots; its modules lie beside it, under lib/modules."""

    release: str
    image: Path


def missing_tools() -> list[str]:
    """The Debian packages of the tools that are not here."""
    path = "/usr/sbin:/sbin:/usr/bin:/bin"
    return sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None})


def fetch_kernel(directory: Path) -> Kernel:
    """Debian's kernel, from `directory` if it is there already. Raises GuestUnavailableError."""
    if platform.machine() != "x86_64":
        raise GuestUnavailableError(f"the guest tier is for x86_64, and this is {platform.machine()}")
    images = sorted(directory.glob("boot/vmlinuz-*"))
    if not images:
        directory.mkdir(parents=True, exist_ok=True)
        _unpack(_download(directory), directory)
        images = sorted(directory.glob("boot/vmlinuz-*"))
    image = images[-1]
    release = image.name.removeprefix("vmlinuz-")
    if not (directory / "lib/modules" / release / "modules.dep").exists():
        _run(["/sbin/depmod", "-b", str(directory), release], directory)
    return Kernel(release, image)


def _download(directory: Path) -> Path:
    depends = subprocess.run(["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True, check=False).stdout
    match = re.search(r"Depends: (linux-image-[0-9]\S+)", depends)
    if match is None:
        raise GuestUnavailableError(f"apt knows no {META_PACKAGE}: this is not Debian, or `apt-get update` is due")
    # apt drops its rights for downloads, and may not be able to write here; it then says so and goes on.
    _run(["apt-get", "-q", "download", match[1]], directory)
    packages = sorted(directory.glob("linux-image-*.deb"))
    if not packages:
        raise GuestUnavailableError(f"apt-get downloaded no {match[1]}")
    return packages[-1]


def _unpack(package: Path, directory: Path) -> None:
    _run(["dpkg-deb", "-x", str(package), str(directory)], directory)
    package.unlink()


def _run(command: list[str], directory: Path) -> None:
    try:
        result = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, check=False, timeout=COMMAND_LIMIT_S
        )
    except OSError as error:
        raise GuestUnavailableError(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise GuestUnavailableError(f"{' '.join(command)}: not over within {COMMAND_LIMIT_S:.0f} s") from None
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
        raise GuestUnavailableError(f"{' '.join(command)}: {last}")
