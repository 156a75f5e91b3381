"""Installs what the stacks need: packages of Debian, of PyPI into a virtual environment, of npm below build/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.clients.stack import Stack

APT: Final = ("apt-get", "-q", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300")
LIMIT_S: Final = 1800.0


def install(stacks: Sequence[Stack], folder: Path, say: Callable[[str], None]) -> None:
    """Install what is missing. What cannot be had is said, and is a reason in the table later."""
    _install_debian(_missing_debian(_packages(stack.debian for stack in stacks)), folder, say)
    _install_pypi(_packages(stack.pypi for stack in stacks), folder, say)
    _install_npm(_packages(stack.npm for stack in stacks), folder, say)


def _packages(groups: Iterable[Sequence[str]]) -> list[str]:
    return sorted({package for group in groups for package in group})


def _missing_debian(packages: list[str]) -> list[str]:
    if shutil.which("dpkg-query") is None:
        return []
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    there = {line.split()[0] for line in asked.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in there]


def _install_debian(packages: list[str], folder: Path, say: Callable[[str], None]) -> None:
    if not packages:
        return
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    say(f"installing from Debian: {' '.join(packages)}")
    log = folder / "debian.log"
    _call([*as_root, "apt-get", "-q", "update"], log)
    # All at once is fastest; one that cannot be had would leave out the others.
    if _call([*as_root, *APT, *packages], log) == 0:
        return
    for package in packages:
        if _call([*as_root, *APT, package], log):
            say(f"{package} of Debian cannot be installed; {log} says why")


def _install_pypi(packages: list[str], folder: Path, say: Callable[[str], None]) -> None:
    environment = folder / "venv"
    python = environment / "bin" / "python"
    log = folder / "pypi.log"
    if packages and not python.exists():
        _call([sys.executable, "-m", "venv", str(environment)], log)
    for package in packages:
        if _call([str(python), "-m", "pip", "show", "--quiet", package], log) == 0:
            continue
        say(f"installing from PyPI: {package}")
        if _call([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package], log):
            say(f"{package} of PyPI cannot be installed; {log} says why")


def _install_npm(packages: list[str], folder: Path, say: Callable[[str], None]) -> None:
    log = folder / "npm.log"
    for package in packages:
        if (folder / "npm" / "node_modules" / package).is_dir():
            continue
        say(f"installing from npm: {package}")
        prefix = ["--prefix", str(folder / "npm")]
        if _call(["npm", "install", *prefix, "--no-fund", "--no-audit", package], log):
            say(f"{package} of npm cannot be installed; {log} says why")
        # Newer versions of npm run a package's own steps only after this.
        _call(["npm", "install-scripts", *prefix, "approve", package], log)
        _call(["npm", "rebuild", *prefix, package], log)


def _call(words: list[str], log: Path) -> int:
    """The exit code; what it prints goes to a file."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with log.open("ab") as output:
        output.write(f"\n== {' '.join(words)}\n".encode())
        output.flush()
        try:
            return subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, timeout=LIMIT_S
            ).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            output.write(f"{error}\n".encode())
            return 1
