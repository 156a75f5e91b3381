"""/proc/self/mountinfo, as kernels write it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.mountinfo import Mount, mount_at, parse_mountinfo, read_mountinfo

ROOT = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"


def line(mount_point: str) -> str:
    return f"36 22 0:52 / {mount_point} rw,nosuid master:1 - fuse.memnotify memnotify rw,user_id=0\n"


def proc_with(directory: Path, text: bytes) -> Path:
    (directory / "self").mkdir()
    (directory / "self" / "mountinfo").write_bytes(text)
    return directory


def test_mount_points_types_sources_and_devices() -> None:
    assert parse_mountinfo(ROOT + line(r"/mnt\040a\134b")) == [
        Mount("/", "ext4", "/dev/root", 8, 1, 22, options="rw"),
        Mount("/mnt a\\b", "fuse.memnotify", "memnotify", 0, 52, 36, options="rw,user_id=0"),
    ]
    assert parse_mountinfo("") == []


@pytest.mark.parametrize("name", ["a\fb", "a\vb", "a\rb", "a\x1cb", "a\u0085b", "a\u2028b", "à"])
def test_what_looks_like_a_line_end_in_a_name_is_none(name: str) -> None:
    """Any user can mount at such a name, and nobody's server may fail to start for it."""
    assert [each.mount_point for each in parse_mountinfo(line(f"/home/u/{name}") + ROOT)] == [f"/home/u/{name}", "/"]


def test_a_name_that_is_not_utf8_is_found_and_disturbs_nothing(tmp_path: Path) -> None:
    name = os.fsdecode(b"/home/u/\xff\xe0")
    proc = proc_with(tmp_path, os.fsencode(line(name) + line("/run/mem_notify")))
    for wanted in (name, "/run/mem_notify"):
        found = mount_at(Path(wanted), proc)
        assert found is not None
        assert found.fstype == "fuse.memnotify"
    assert mount_at(Path("/run"), proc) is None


@pytest.mark.parametrize(
    "text",
    [
        "\n",
        "22 1 8:1 / / rw\n",
        ROOT + "22 1 8:1 / / rw shared:1 - ext4\n",
        ROOT + "\n" + ROOT,
        "22 1 8 / / rw - ext4 a rw\n",
    ],
)
def test_what_is_no_mount_is_named(text: str) -> None:
    number = 1 if not text.startswith(ROOT) else 2
    with pytest.raises(MalformedKernelFileError, match=f"/proc/self/mountinfo:{number}: not a mount"):
        parse_mountinfo(text)


def test_a_line_about_another_place_is_skipped_whatever_it_looks_like(tmp_path: Path) -> None:
    proc = proc_with(tmp_path, b"\n? /home\n" + os.fsencode(line("/run/mem_notify") + "1 2 3 / /other rw\n"))
    found = mount_at(Path("/run/mem_notify"), proc)
    assert found is not None
    assert found.mount_id == 36
    assert [each.mount_point for each in read_mountinfo(proc)] == ["/run/mem_notify"]
    with pytest.raises(MalformedKernelFileError, match=f"{proc}/self/mountinfo:4: not a mount"):
        mount_at(Path("/other"), proc)


def test_a_proc_without_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(KernelFileGoneError, match=f"{tmp_path}/self/mountinfo: No such file"):
        mount_at(Path("/run"), tmp_path)
