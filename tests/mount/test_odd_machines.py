"""Machines and callers that are unlike most: the server runs there, or says in one line why not; `doctor` agrees."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.mounted import LIMIT_S, LONG_S, NOBODY, calm_proc, facts, opened, read_record, serving, wait_until
from tests.support.server import Server, unmount
from tests.support.sigio import as_root

pytestmark = pytest.mark.mount

MEMNOTIFY = [sys.executable, "-m", "memnotify_cuse"]

# The interpreter and the project may lie where another user cannot look: all is imported first, as root.
AS_NOBODY = f"""
import os, shutil, subprocess, sys
import trio, pyfuse3
import memnotify_cuse.cli.checks_kernel, memnotify_cuse.cli.checks_serving, memnotify_cuse.cli.doctor
import memnotify_cuse.cli.host, memnotify_cuse.cli.main, memnotify_cuse.cli.record, memnotify_cuse.cli.serve
import memnotify_cuse.daemon, memnotify_cuse.fasync.forker, memnotify_cuse.keeper.keeper
import memnotify_cuse.keeper.setup, memnotify_cuse.keeper.traces, memnotify_cuse.recorder
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
os.environ["HOME"] = "/"
os.chdir("/")
sys.exit(memnotify_cuse.cli.main.main(sys.argv[1:]))
"""


def run_in_namespace(prepare: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `argv` in a mount namespace of its own, after a line of shell."""
    command = ["unshare", "--mount", "sh", "-c", f'{prepare} && exec "$@"', "sh", *argv]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL, check=False
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, f"{done.returncode}: {done.stderr}"
    # Other tests, at the same time, leave trace instances behind that the next start removes.
    aside = ("not permitted", "removed the trace instance")
    lines = [line for line in done.stderr.splitlines() if not any(words in line for words in aside)]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("memnotify: ")
    return lines[0]


@as_root
@pytest.mark.parametrize("path", ["link/mount", "into/../mount"])
def test_a_mount_path_that_is_not_the_kernel_s_is_known_again(path: str, tmp_path: Path) -> None:
    """As /var/run is on most machines: after a kill, and to a second server."""
    (tmp_path / "real" / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "into").symlink_to("real/inside")
    proc = str(calm_proc(tmp_path).path)
    mount, node = tmp_path / "real" / "mount", tmp_path / "real" / "node"
    odd_mount = f"{tmp_path}/{path}"
    options = ["--mount", odd_mount, "--device", odd_mount.replace("/mount", "/node")]
    try:
        with Server(tmp_path, *options, "--proc", proc) as killed:
            assert f"device={node} mount={mount}" in killed.log
            for same in (mount, odd_mount):
                second = [*MEMNOTIFY, "serve", "--device", "", "--mount", str(same)]
                done = subprocess.run(second, capture_output=True, text=True, timeout=LIMIT_S, check=False)
                assert one_line(done) == f"memnotify: {mount}: memnotify is already serving there"
            killed.process.kill()
            killed.process.wait(LIMIT_S)
        with Server(tmp_path, *options, "--proc", proc) as server:
            assert server.stop() == 0
        assert list((tmp_path / "real").iterdir()) == [tmp_path / "real" / "inside"]
    finally:
        for each in (node, mount):
            unmount(each)


@as_root
def test_mounts_with_odd_names_keep_nobody_from_anything(tmp_path: Path) -> None:
    """Any user can have such a mount."""
    names = (b"a\nb", b"a\rb", b"a\xc2\x85b", b"a\xe2\x80\xa8b", b"a\x1cb", b"-", b"\xff \n\\012\x85")
    mounted: list[Path] = []
    try:
        for name in names:
            other = tmp_path / os.fsdecode(name)
            other.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", other, other], check=True)
            mounted.append(other)
        doctor = subprocess.run([*MEMNOTIFY, "doctor"], capture_output=True, timeout=LIMIT_S, check=False)
        assert doctor.returncode == 0, doctor.stderr
        with Server(tmp_path, "--proc", str(calm_proc(tmp_path).path), node=other / "node") as server:
            server.simulate(seconds=LONG_S)
            with opened(server.device) as fd:
                assert read_record(fd).pressure == 1
            assert server.stop() == 0
        assert list(other.iterdir()) == []
    finally:
        for other in mounted:
            subprocess.run(["umount", "-l", other], check=True)


@as_root
def test_a_placeholder_without_a_mount_is_taken_for_ours_and_removed_at_the_end(tmp_path: Path) -> None:
    """A keeper that was killed in the middle of its start leaves one."""
    node = tmp_path / "node"
    proc = str(calm_proc(tmp_path).path)
    with Server(tmp_path, "--proc", proc, node=node) as server:
        unmount(node)
        with pytest.raises(OSError, match="No such device or address"):
            os.open(node, os.O_RDONLY)
        server.process.kill()
        server.process.wait(LIMIT_S)
    assert node.is_socket()
    with serving(tmp_path, "--proc", proc, node=node):
        assert node.is_file()
    assert not os.path.lexists(node)


@as_root
def test_another_program_s_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    node = tmp_path / "node"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(node))
        argv = [*MEMNOTIFY, "serve", "--device", str(node), "--mount", str(tmp_path / "mount")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert one_line(done) == f"memnotify: {node}: exists and is not a placeholder of ours"
        assert node.is_socket()


@pytest.mark.parametrize("limit", [10, 63])
def test_too_few_descriptors_are_one_line(limit: int, tmp_path: Path) -> None:
    shell = f'ulimit -n {limit}; exec "$@"'
    argv = ["sh", "-c", shell, "sh", *MEMNOTIFY]
    serve = [*argv, "serve", "--device", "", "--mount", str(tmp_path / "mount")]
    # Where the limit may be raised, it is.
    drop = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"] if os.geteuid() == 0 else []
    done = subprocess.run([*drop, *serve], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert one_line(done).startswith(f"memnotify: only {limit} files may be open")
    doctor = subprocess.run([*drop, *argv, "doctor"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert doctor.returncode == 1
    assert f"fail  descriptors: only {limit} files may be open" in doctor.stdout
    assert list(tmp_path.iterdir()) == []


@as_root
@pytest.mark.usefixtures("fuse_for_all")
def test_an_ordinary_user_to_whom_sys_is_closed(open_directory: Path) -> None:
    own = open_directory / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    mount = own / "mount"
    hide = "mount -t tmpfs -o mode=700 none /sys"
    doctor = run_in_namespace(hide, [sys.executable, "-c", AS_NOBODY, "doctor"])
    assert doctor.returncode == 0, doctor.stderr
    log = open_directory / "log"
    shell = (
        f'{hide} && {{ "$@" 2>{log} & }} && until grep -q ready: {log}; do kill -0 $! || exit 3; sleep 0.05; done; '
        f"kill $!; wait $!"
    )
    serve = [sys.executable, "-c", AS_NOBODY, "serve", "--device", "", "--mount", str(mount)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell, "sh", *serve], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, log.read_text() + done.stderr
    record = run_in_namespace(
        hide, [sys.executable, "-c", AS_NOBODY, "record", "--seconds", "0", str(own / "recording")]
    )
    assert record.returncode == 0, record.stderr


@as_root
def test_a_proc_with_processes_only(tmp_path: Path) -> None:
    hide = "mount -t proc -o subset=pid proc /proc"
    doctor = run_in_namespace(hide, [*MEMNOTIFY, "doctor"])
    assert doctor.returncode == 1, doctor.stderr
    assert "see: zoneinfo, vmstat, meminfo" in doctor.stdout
    assert doctor.stderr == ""
    serve = [*MEMNOTIFY, "serve", "--device", "", "--mount", str(tmp_path / "mount")]
    assert one_line(run_in_namespace(hide, serve)) == "memnotify: /proc/zoneinfo: No such file or directory (ENOENT)"


@pytest.mark.parametrize("redirect", [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | head -0"])
def test_it_serves_whatever_becomes_of_its_streams(redirect: str, tmp_path: Path) -> None:
    mount, proc = tmp_path / "mount", calm_proc(tmp_path).path
    pid = tmp_path / "pid"
    serve = f'sh -c \'echo $$ >"$0"; exec "$@"\' {pid} "$@" {redirect}'
    argv = [*MEMNOTIFY, "serve", "--device", "", "--mount", str(mount), "--proc", str(proc), "--log-level", "debug"]
    process = subprocess.Popen(["sh", "-c", serve, "sh", *argv], stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: (mount / "server").exists(), "a server")
        for _ in range(3):
            # Each is something that it has to say.
            with (mount / "simulate").open("w") as simulate:
                simulate.write("all 0.01")
        assert "watchers=0" in (mount / "server").read_text()
    finally:
        os.kill(int(pid.read_text()), 15)
        process.wait(LIMIT_S)
        unmount(mount)
    assert not mount.exists()


@as_root
def test_nothing_is_needed_from_path(tmp_path: Path) -> None:
    argv = ["env", "PATH=/nonexistent", *MEMNOTIFY, "doctor"]
    doctor = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert doctor.returncode == 0, doctor.stderr
    before = os.environ["PATH"]
    os.environ["PATH"] = "/nonexistent"
    try:
        with serving(tmp_path, "--proc", str(calm_proc(tmp_path).path), node=tmp_path / "node") as server:
            assert facts(server)["node"] == "fuse"
            os.environ["PATH"] = before
    finally:
        os.environ["PATH"] = before
