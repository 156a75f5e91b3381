"""What can be served, and ended again."""

from __future__ import annotations

from pathlib import Path

import pytest

from memnotify_cuse.keeper.mount import MountError, check_paths

MOUNT = Path("/run/mem_notify")


@pytest.mark.parametrize(
    "device", ["/dev/mem_notify", "/run/mem_notify2", "/run/mem_notif", "/run/other", "/mem_notify", None]
)
def test_apart_from_each_other(device: str | None) -> None:
    check_paths(Path(device) if device is not None else None, MOUNT)


@pytest.mark.parametrize("device", ["/run/mem_notify", "/run/mem_notify/mem_notify", "/run/mem_notify/a/b"])
def test_a_device_in_what_is_mounted_over(device: str) -> None:
    with pytest.raises(MountError, match=f"^{device}: the device cannot be at or below {MOUNT}"):
        check_paths(Path(device), MOUNT)


@pytest.mark.parametrize("device", ["/run", "/"])
def test_a_mount_point_below_the_device(device: str) -> None:
    with pytest.raises(MountError, match=f"^{MOUNT}: the mount point cannot be at or below {device}"):
        check_paths(Path(device), MOUNT)
