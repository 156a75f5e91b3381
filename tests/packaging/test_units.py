"""The units of packaging/, as systemd-analyze judges them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"
UNITS = sorted(path.name for path in PACKAGING.glob("*.service"))
INSTALLED = "/usr/local/lib/memnotify/bin/"
MOUNT_NAMESPACE = (
    *("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateNetwork", "ProtectProc"),
    *("ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectHostname"),
    *("ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "RootDirectory", "BindPaths", "TemporaryFileSystem"),
    *("DynamicUser", "MountFlags", "ProcSubset"),
)
"""What gives a service a mount namespace of its own, where what it mounts is seen by nobody else."""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Each unit, with programs that are there."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("memnotify", "python"):
        (programs / name).symlink_to(sys.executable)
    path = tmp_path / str(request.param)
    path.write_text((PACKAGING / path.name).read_text().replace(INSTALLED, f"{programs}/"))
    return path


def test_there_are_units() -> None:
    assert UNITS == ["memnotify-suspend.service", "memnotify.service"]


def test_systemd_has_nothing_to_say_against_a_unit(unit: Path) -> None:
    done = analyze("verify", str(unit))
    assert unit.name not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def test_its_exposure_is_no_more_than_it_has_to_be(unit: Path) -> None:
    """5.0 is where systemd-analyze begins to say MEDIUM."""
    done = analyze("security", "--offline=yes", "--threshold=50", str(unit))
    assert done.returncode == 0, done.stdout


def test_what_the_service_mounts_is_seen_by_all() -> None:
    lines = (PACKAGING / "memnotify.service").read_text().splitlines()
    assert [line for line in lines if line.startswith(tuple(f"{name}=" for name in MOUNT_NAMESPACE))] == []


def test_the_rights_are_those_of_the_keeper_and_of_the_setting_up() -> None:
    from memnotify_cuse.keeper.rights import KEEPER
    from memnotify_cuse.kernel.capabilities import Capability

    lines = (PACKAGING / "memnotify.service").read_text().splitlines()
    words = [word for line in lines if line.startswith("CapabilityBoundingSet=") for word in line[22:].split()]
    assert set(words) == {f"CAP_{each.name}" for each in KEEPER | {Capability.SETPCAP}}
