"""Whether the service manager is about to start this service again: a systemctl of ours says what a real one does.

There is no systemd here; the guest tier restarts the service under one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from memnotify_cuse.keeper import manager

JOBS = " 1234 memnotify.service        restart running\n  7 other.service start waiting\n"


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/memnotify.service\n", "memnotify.service"),
        ("12:cpu:/\n1:name=systemd:/system.slice/a\\x2db.service\n0::/\n", "a\\x2db.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", None),
        ("", None),
    ],
)
def test_the_unit_of_a_process(cgroup: str, unit: str | None) -> None:
    assert manager.unit_of(cgroup) == unit


@pytest.mark.parametrize(
    ("jobs", "restarted"),
    [
        (JOBS, True),
        (JOBS.replace("restart", "stop"), False),
        ("1 xmemnotify.service restart running\n", False),
        ("No jobs running.\n", False),
        ("", False),
    ],
)
def test_whether_a_unit_is_being_restarted(jobs: str, restarted: bool) -> None:
    assert manager.is_restarted(jobs, "memnotify.service") == restarted


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that says that six descriptors are stored, and what is in the file `jobs`."""
    script = tmp_path / "systemctl"
    script.write_text(f'#!/bin/sh\n[ "$1" = show ] && echo 6 || cat {tmp_path}/jobs\n')
    script.chmod(0o755)
    (tmp_path / "jobs").write_text(JOBS)
    cgroup = tmp_path / "cgroup"
    cgroup.write_text("0::/system.slice/memnotify.service\n")
    monkeypatch.setattr(manager, "CGROUP", str(cgroup))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("INVOCATION_ID", "x")
    return script


def test_a_service_that_is_restarted_comes_back(systemctl: Path) -> None:
    assert manager.comes_back(6)


def test_one_that_is_stopped_does_not(systemctl: Path) -> None:
    (systemctl.parent / "jobs").write_text(JOBS.replace("restart", "stop"))
    assert not manager.comes_back(6)


def test_nor_one_whose_descriptors_were_not_all_stored(systemctl: Path) -> None:
    assert not manager.comes_back(7)


def test_nor_one_that_no_manager_has_started(systemctl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INVOCATION_ID")
    assert not manager.comes_back(6)


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\nexec sleep 100\n", "no program"])
def test_nor_where_the_manager_does_not_say(script: str, systemctl: Path) -> None:
    systemctl.write_text(script)
    assert not manager.comes_back(6)
