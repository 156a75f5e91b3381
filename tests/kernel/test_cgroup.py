"""Memory cgroups: the lines of /proc/PID/cgroup, where the hierarchy is, and the files of one cgroup."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from memnotify_cuse.kernel.cgroup import (
    CgroupFiles,
    CgroupGoneError,
    CgroupMemory,
    Hierarchy,
    ancestors,
    find_hierarchy,
    parse_cgroup,
    read_cgroup,
)
from memnotify_cuse.kernel.errors import KernelFileGoneError, MalformedKernelFileError
from memnotify_cuse.kernel.mountinfo import Mount, parse_mountinfo

MIB = 1024 * 1024
UNLIMITED_V1 = 0x7FFF_FFFF_FFFF_F000
"""What v1 says of a cgroup without a limit, with pages of 4 KiB."""

V1 = "12:cpuset:/docker/cpuset\n5:memory:/docker/a\n2:cpu,cpuacct:/\n1:name=systemd:/systemd\n"
HYBRID = V1 + "0::/unified\n"
V2 = "0::/user.slice/user-1000.slice/x.scope\n"


class TestPaths:
    @pytest.mark.parametrize(
        ("text", "unified", "path"),
        [
            (V1, False, "/docker/a"),
            (HYBRID, False, "/docker/a"),
            (HYBRID, True, "/unified"),
            (V2, True, "/user.slice/user-1000.slice/x.scope"),
            ("3:cpu,memory:/a\n", False, "/a"),
            ("3:memory,cpu:/a\n", False, "/a"),
            ("3:cpu,memory,pids:/a\n", False, "/a"),
            ("1:name=memory:/named\n2:memory:/a\n", False, "/a"),
            ("1:cpu:/memory:/x\n2:memory:/a\n", False, "/a"),
            ("2:memory:/a:b\n", False, "/a:b"),
            ("0::/\n", True, "/"),
            ("0::/../../other\n", True, "/../../other"),
            ("4:memory:/x (deleted)\n", False, "/x (deleted)"),
            ("0::/a b=c\r\x0b\x0c\x1c\x85\xff\n", True, "/a b=c\r\x0b\x0c\x1c\x85\xff"),
            ("0::/  \n", True, "/  "),
        ],
    )
    def test_of_the_memory_controller(self, text: str, unified: bool, path: str) -> None:
        assert parse_cgroup(text, unified=unified) == path

    @pytest.mark.parametrize(
        ("text", "unified"),
        [
            ("", True),
            ("", False),
            (V1, True),
            (V2, False),
            ("0:memory\n", False),
            ("0::relative\n", True),
            ("1:memoryx:/a\n2:xmemory:/a\n3:name=memory:/a\n", False),
        ],
    )
    def test_that_are_not_there_are_an_error_that_names_the_file(self, text: str, unified: bool) -> None:
        with pytest.raises(MalformedKernelFileError, match="/proc/7/cgroup"):
            parse_cgroup(text, unified=unified, path="/proc/7/cgroup")

    def test_of_a_thread_are_read_byte_by_byte(self, tmp_path: Path) -> None:
        (tmp_path / "7").mkdir()
        (tmp_path / "7" / "cgroup").write_bytes(b"0::/\xff\xc3\xbc\n")
        assert read_cgroup(tmp_path, 7, unified=True) == "/\xff\xc3\xbc"
        with pytest.raises(KernelFileGoneError, match="8/cgroup"):
            read_cgroup(tmp_path, 8, unified=True)

    def test_of_what_it_lies_in_from_the_inside(self) -> None:
        assert ancestors("/a/b c/d")[:3] == ["/a/b c/d", "/a/b c", "/a"]


class TestFolders:
    def test_where_the_whole_hierarchy_is_seen(self) -> None:
        hierarchy = Hierarchy(Path("/mnt"), "/", unified=True)
        assert hierarchy.directory("/a/b") == Path("/mnt/a/b")
        assert hierarchy.directory("/") == Path("/mnt")
        assert hierarchy.directory("/../other") is None
        assert hierarchy.directory("/..") is None
        assert hierarchy.directory("/a (deleted)") is None

    def test_where_a_part_of_it_is_seen(self) -> None:
        hierarchy = Hierarchy(Path("/mnt"), "/docker/abc", unified=False)
        assert hierarchy.directory("/docker/abc") == Path("/mnt")
        assert hierarchy.directory("/docker/abc/x/y") == Path("/mnt/x/y")
        for outside in ("/", "/docker", "/docker/abcdef", "/docker/ab", "/other/docker/abc"):
            assert hierarchy.directory(outside) is None

    def test_whose_name_begins_with_two_dots_is_none_outside(self) -> None:
        assert Hierarchy(Path("/mnt"), "/", unified=True).directory("/..data/x") == Path("/mnt/..data/x")

    @pytest.mark.parametrize("name", [b"gr\xc3\xbcn", b"\xff\xfe", b"a b=c"])
    def test_whose_name_has_any_bytes_are_found(self, name: bytes, tmp_path: Path) -> None:
        os.mkdir(os.fsencode(tmp_path) + b"/" + name)
        directory = Hierarchy(tmp_path, "/", unified=True).directory("/" + str(name, "latin-1"))
        assert directory is not None
        assert directory.is_dir()


class TestHierarchy:
    ROOT = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
    MEMORY = "33 25 0:29 / /sys/fs/cgroup/memory rw,nosuid shared:11 - cgroup cgroup rw,memory\n"
    CPU = "34 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct\n"
    BOTH = "34 25 0:30 /docker/a /cg/both rw shared:12 - cgroup cgroup rw,cpu,memory\n"
    UNIFIED_BESIDE = "26 25 0:22 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw,nsdelegate\n"
    UNIFIED = "26 25 0:22 / /sys/fs/cgroup rw shared:5 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            (ROOT + CPU + MEMORY, Hierarchy(Path("/sys/fs/cgroup/memory"), "/", unified=False)),
            (ROOT + UNIFIED_BESIDE + CPU + MEMORY, Hierarchy(Path("/sys/fs/cgroup/memory"), "/", unified=False)),
            (ROOT + MEMORY + UNIFIED_BESIDE, Hierarchy(Path("/sys/fs/cgroup/memory"), "/", unified=False)),
            (ROOT + BOTH, Hierarchy(Path("/cg/both"), "/docker/a", unified=False)),
            (ROOT + UNIFIED, Hierarchy(Path("/sys/fs/cgroup"), "/", unified=True)),
            (ROOT + CPU + UNIFIED, Hierarchy(Path("/sys/fs/cgroup"), "/", unified=True)),
            (ROOT + CPU, None),
            ("", None),
        ],
    )
    def test_is_that_with_the_memory_controller(self, lines: str, expected: Hierarchy | None) -> None:
        assert find_hierarchy(parse_mountinfo(lines)) == expected

    def test_is_none_of_another_file_system_that_says_memory(self) -> None:
        mounts = [Mount("/a", "tmpfs", "memory", options="memory"), Mount("/b", "cgroup", "x", options="rw,memoryx")]
        assert find_hierarchy(mounts) is None


UNIFIED_STAT = (
    "anon 4096\nfile 8192\nfile_mapped 40960\nshmem 8192\n"
    "inactive_anon 1048576\nactive_anon 2097152\ninactive_file 3145728\nactive_file 4194304\nunevictable 0\n"
    "slab_reclaimable 12288\nslab_unreclaimable 4096\nslab 16384\npgscan 70\npgsteal 50\npgscan_kswapd 9\n"
)
V1_STAT = (
    "cache 0\nrss 0\ninactive_anon 1\nactive_anon 1\ninactive_file 1\nactive_file 1\npgpgin 1\nswap 1\n"
    "total_cache 0\ntotal_rss 0\ntotal_shmem 8192\ntotal_mapped_file 40960\ntotal_pgpgin 700\ntotal_pgpgout 600\n"
    "total_swap 1048576\ntotal_inactive_anon 1048576\ntotal_active_anon 2097152\n"
    "total_inactive_file 3145728\ntotal_active_file 4194304\ntotal_unevictable 0\n"
)


def write(directory: Path, **files: str | int | None) -> None:
    """`memory_max` stands for memory.max, and so on; None: there is no such file."""
    for key, text in files.items():
        path = directory / key.replace("_", ".", 1)
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(f"{text}\n" if isinstance(text, int) else text)


def write_v1(directory: Path, **files: str | int | None) -> None:
    memsw = files.pop("memsw", None)
    write(directory, **files)
    if memsw is not None:
        (directory / "memory.memsw.limit_in_bytes").write_text(f"{memsw}\n")


def write_swap(directory: Path, *, most: str | int | None, current: int | None) -> None:
    for name, value in (("memory.swap.max", most), ("memory.swap.current", current)):
        if value is not None:
            (directory / name).write_text(f"{value}\n")


@pytest.fixture
def unified(tmp_path: Path) -> Path:
    """The folder of a v2 cgroup of 64 MiB that has 32 MiB."""
    write(tmp_path, memory_max=64 * MIB, memory_high="max\n", memory_current=32 * MIB, memory_stat=UNIFIED_STAT)
    return tmp_path


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """The same of v1."""
    usage = 32 * MIB
    write_v1(tmp_path, memory_limit_in_bytes=64 * MIB, memory_usage_in_bytes=usage, memory_stat=V1_STAT)
    return tmp_path


def limit_of(directory: Path, *, unified: bool) -> int | None:
    files = CgroupFiles(directory, unified=unified)
    try:
        return files.limit_bytes()
    finally:
        files.close()


def read(directory: Path, *, unified: bool) -> CgroupMemory:
    files = CgroupFiles(directory, unified=unified)
    try:
        return files.read()
    finally:
        files.close()


class TestLimits:
    @pytest.mark.parametrize(
        ("most", "high", "limit"),
        [
            (64 * MIB, "max\n", 64 * MIB),
            ("max\n", "max\n", None),
            ("max\n", 48 * MIB, 48 * MIB),
            (64 * MIB, 48 * MIB, 48 * MIB),
            (64 * MIB, 96 * MIB, 64 * MIB),
            (64 * MIB, None, 64 * MIB),
            ("max\n", None, None),
        ],
    )
    def test_of_v2_are_the_lesser_of_two(
        self, most: int | str, high: int | str | None, limit: int | None, unified: Path
    ) -> None:
        write(unified, memory_max=most, memory_high=high)
        assert limit_of(unified, unified=True) == limit

    @pytest.mark.parametrize(
        ("most", "limit"), [(64 * MIB, 64 * MIB), (UNLIMITED_V1, None), (UNLIMITED_V1 - 60 * 1024, None)]
    )
    def test_of_v1_are_none_where_no_number_of_pages_is_more(self, most: int, limit: int | None, v1: Path) -> None:
        write(v1, memory_limit_in_bytes=most)
        assert limit_of(v1, unified=False) == limit

    def test_of_a_cgroup_without_the_controller_are_gone(self, tmp_path: Path) -> None:
        for version in (True, False):
            with pytest.raises(CgroupGoneError, match="memory"):
                limit_of(tmp_path, unified=version)


class TestMemory:
    def test_of_v2(self, unified: Path) -> None:
        write_swap(unified, most=MIB, current=4096)
        assert read(unified, unified=True) == CgroupMemory(
            limit_bytes=64 * MIB,
            usage_bytes=32 * MIB,
            inactive_anon_bytes=MIB,
            active_anon_bytes=2 * MIB,
            inactive_file_bytes=3 * MIB,
            active_file_bytes=4 * MIB,
            mapped_bytes=40960,
            shmem_bytes=8192,
            slab_reclaimable_bytes=12288,
            swap_bytes=4096,
            swap_room_bytes=MIB - 4096,
            scanned_pages=70,
            stolen_pages=50,
            charged_pages=None,
        )

    def test_of_v1_counts_what_lies_below_in(self, v1: Path) -> None:
        write_v1(v1, memsw=80 * MIB)
        assert read(v1, unified=False) == CgroupMemory(
            limit_bytes=64 * MIB,
            usage_bytes=32 * MIB,
            inactive_anon_bytes=MIB,
            active_anon_bytes=2 * MIB,
            inactive_file_bytes=3 * MIB,
            active_file_bytes=4 * MIB,
            mapped_bytes=40960,
            shmem_bytes=8192,
            slab_reclaimable_bytes=0,
            swap_bytes=MIB,
            swap_room_bytes=15 * MIB,
            scanned_pages=None,
            stolen_pages=None,
            charged_pages=700,
        )

    @pytest.mark.parametrize(
        ("most", "current", "room"),
        [
            (0, 0, 0),
            (MIB, 0, MIB),
            (MIB, MIB, 0),
            (MIB, 2 * MIB, 0),
            ("max", 5 * MIB, None),
            (None, None, 0),
            (None, 4096, 0),
            (MIB, None, MIB),
        ],
    )
    def test_room_in_swap_of_v2(self, most: str | int | None, current: int | None, room: int, unified: Path) -> None:
        """Where there is no file of swap, the kernel has none for cgroups."""
        write_swap(unified, most=most, current=current)
        memory = read(unified, unified=True)
        assert (memory.swap_room_bytes, memory.swap_bytes) == (room, current or 0)

    @pytest.mark.parametrize(
        ("limit", "usage", "both", "room"),
        [
            (64, 32, 64, 0),
            (64, 32, 65, 0),
            (64, 32, 80, 15),
            (64, 64, 80, 15),
            (64, 66, 80, 13),
            (64, 32, None, None),
            (64, 32, UNLIMITED_V1 // MIB, None),
            (UNLIMITED_V1 // MIB, 32, 80, None),
        ],
    )
    def test_room_in_swap_of_v1(self, limit: int, usage: int, both: int | None, room: int | None, v1: Path) -> None:
        """One MiB is swapped out. What `both` leaves beyond the limit is all that swapping wins."""
        write(v1, memory_limit_in_bytes=limit * MIB, memory_usage_in_bytes=usage * MIB)
        write_v1(v1, memsw=both * MIB if both is not None else None)
        expected = room * MIB if room is not None else None
        assert read(v1, unified=False).swap_room_bytes == expected

    @pytest.mark.parametrize("name", ["file_mapped", "shmem", "slab_reclaimable", "pgscan", "pgsteal"])
    def test_a_line_that_some_kernels_do_not_have_may_be_absent(self, name: str, unified: Path) -> None:
        lines = [line for line in UNIFIED_STAT.splitlines(keepends=True) if not line.startswith(f"{name} ")]
        write(unified, memory_stat="".join(lines))
        memory = read(unified, unified=True)
        expected = {"file_mapped": 0, "shmem": 0, "slab_reclaimable": 0, "pgscan": None, "pgsteal": None}[name]
        read_as = {
            "file_mapped": memory.mapped_bytes,
            "shmem": memory.shmem_bytes,
            "slab_reclaimable": memory.slab_reclaimable_bytes,
            "pgscan": memory.scanned_pages,
            "pgsteal": memory.stolen_pages,
        }[name]
        assert read_as == expected
        assert memory.active_file_bytes == 4 * MIB

    @pytest.mark.parametrize("name", ["inactive_anon", "active_anon", "inactive_file", "active_file"])
    def test_a_list_that_is_not_there_is_an_error(self, name: str, v1: Path) -> None:
        lines = [line for line in V1_STAT.splitlines(keepends=True) if not line.startswith(f"total_{name} ")]
        write(v1, memory_stat="".join(lines))
        with pytest.raises(MalformedKernelFileError, match=rf"memory\.stat: no total_{name} in it"):
            read(v1, unified=False)


class TestMalformed:
    @pytest.mark.parametrize("text", ["", "\n", "-1\n", "1 2\n", "0x10\n", "12\n34\n", "MAX\n", "1" * 21 + "\n"])
    @pytest.mark.parametrize("name", ["memory.max", "memory.high", "memory.current", "memory.swap.max"])
    def test_a_number_of_v2_names_its_file(self, name: str, text: str, unified: Path) -> None:
        (unified / name).write_text(text)
        with pytest.raises(MalformedKernelFileError) as caught:
            read(unified, unified=True)
        assert caught.value.path == str(unified / name)

    @pytest.mark.parametrize("name", ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.memsw.limit_in_bytes"])
    def test_a_number_of_v1_names_its_file(self, name: str, v1: Path) -> None:
        (v1 / name).write_text("many\n")
        with pytest.raises(MalformedKernelFileError) as caught:
            read(v1, unified=False)
        assert caught.value.path == str(v1 / name)

    def test_a_usage_without_end_is_none(self, unified: Path) -> None:
        write(unified, memory_current="max\n")
        with pytest.raises(MalformedKernelFileError, match=r"memory\.current:1: expected a number"):
            read(unified, unified=True)

    @pytest.mark.parametrize("value", ["", "-1", "x", "1 2", "1" * 21])
    def test_a_counter_names_its_line(self, value: str, unified: Path) -> None:
        write(unified, memory_stat=UNIFIED_STAT.replace("active_file 4194304", f"active_file {value}"))
        with pytest.raises(MalformedKernelFileError) as caught:
            read(unified, unified=True)
        assert (caught.value.path, caught.value.line_number) == (str(unified / "memory.stat"), 8)


class TestGone:
    @pytest.mark.parametrize("version", [True, False])
    def test_a_folder_that_is_not_there(self, version: bool, tmp_path: Path) -> None:
        with pytest.raises(CgroupGoneError, match="none"):
            CgroupFiles(tmp_path / "none", unified=version)

    @pytest.mark.parametrize("version", ["v1", "unified"])
    def test_a_cgroup_that_was_removed(self, version: str, request: pytest.FixtureRequest) -> None:
        directory: Path = request.getfixturevalue(version)
        files = CgroupFiles(directory, unified=version == "unified")
        shutil.rmtree(directory)
        for ask in (files.usage_bytes, files.limit_bytes, files.read):
            with pytest.raises(CgroupGoneError):
                ask()
        files.close()

    def test_another_one_in_its_place_is_not_taken_for_it(self, tmp_path: Path) -> None:
        directory = tmp_path / "a"
        directory.mkdir()
        write(directory, memory_max=64 * MIB, memory_current=MIB)
        files = CgroupFiles(directory, unified=True)
        assert files.usage_bytes() == MIB
        shutil.rmtree(directory)
        directory.mkdir()
        write(directory, memory_max=64 * MIB, memory_current=MIB)
        with pytest.raises(CgroupGoneError):
            files.usage_bytes()
        files.close()

    def test_closing_it_gives_the_descriptor_back_and_twice_does_nothing(self, unified: Path) -> None:
        files = CgroupFiles(unified, unified=True)
        fd = files.fileno()
        assert os.path.samestat(os.fstat(fd), unified.stat())
        files.close()
        files.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
