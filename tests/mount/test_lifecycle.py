"""The server's life: where it shows its device, how it ends, what it refuses, what it cleans up."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from memnotify_cuse.keeper import mount
from memnotify_cuse.kernel import libc
from memnotify_cuse.kernel.mountinfo import mount_at
from memnotify_cuse.kernel.zoneinfo import parse_zoneinfo
from memnotify_cuse.scanner.polling import FASTEST_FILL_KB_PER_S
from tests.attacks.processes import CONNECTIONS, mount_fusectl
from tests.fuzz.processes import family
from tests.support.mounted import (
    LIMIT_S,
    LONG_S,
    NOBODY,
    READABLE,
    Blocking,
    calm_proc,
    complaints,
    error_of,
    facts,
    opened,
    read_record,
    revents,
    serving,
    state_of,
    unexpected,
    wait_for_watchers,
    wait_until,
)
from tests.support.server import Lines, Server, unmount

pytestmark = pytest.mark.mount

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can show the device outside the mount")
INSTANCES = Path("/sys/kernel/tracing/instances")

# The interpreter and the project may lie where another user cannot look: all is imported first, as root.
MEMNOTIFY_AS_NOBODY = f"""
import os, shutil, subprocess, sys
import trio, pyfuse3
import memnotify_cuse.cli.main, memnotify_cuse.cli.serve, memnotify_cuse.daemon, memnotify_cuse.keeper.keeper
import memnotify_cuse.keeper.setup, memnotify_cuse.keeper.traces, memnotify_cuse.fasync.forker
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
os.environ["HOME"] = "/"
sys.exit(memnotify_cuse.cli.main.main(sys.argv[1:]))
"""


def mounts_under(directory: Path) -> list[str]:
    """The mount points in `directory`."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(f"{directory}/")]


def refused(argv: Sequence[str | Path]) -> str:
    """The one line with which a start is refused; exit code 2."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 2, f"{done.returncode}: {done.stderr}"
    assert done.stdout == ""
    said = unexpected(done.stderr)
    assert len(said) == 1, done.stderr
    assert said[0].startswith("memnotify: ")
    return said[0]


def serve(*options: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "memnotify_cuse", "serve", *options]


@pytest.fixture
def proc(tmp_path: Path) -> str:
    """What to give to --proc."""
    return str(calm_proc(tmp_path).path)


@as_root
def test_the_device_can_be_shown_at_a_path_of_its_own(tmp_path: Path, proc: str) -> None:
    node = tmp_path / "node"
    with serving(tmp_path, "--proc", proc, node=node) as server:
        assert f"ready: device={node} mount={server.mount} node=fuse\n" in server.log
        with opened(node) as fd, opened(server.mount / "mem_notify") as same:
            poller = Blocking(lambda: revents(fd, LIMIT_S))
            wait_for_watchers(server, 1)
            server.simulate(seconds=LONG_S)
            assert poller.result() == READABLE
            assert read_record(fd).pressure == 1
            assert revents(same) == READABLE
        with pytest.raises(PermissionError):
            node.open("r+")
    assert not node.exists()


@as_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_leaves_nothing(number: signal.Signals, tmp_path: Path, proc: str) -> None:
    node = tmp_path / "node"
    with Server(tmp_path, "--proc", proc, node=node) as server:
        instance = INSTANCES / f"memnotify-{server.process.pid}"
        assert instance.exists() == (facts(server)["wakeup"] == "tracefs")
        assert len(mounts_under(tmp_path)) == 2
        with opened(node):
            server.process.send_signal(number)
            assert server.process.wait(LIMIT_S) == 0
        assert mounts_under(tmp_path) == []
        assert not node.exists()
        assert not server.mount.exists()
        assert not instance.exists()
        assert not complaints(server)


def test_a_mount_directory_that_was_there_stays(tmp_path: Path, proc: str) -> None:
    directory = tmp_path / "mount"
    directory.mkdir()
    with serving(tmp_path, "--proc", proc):
        pass
    assert directory.is_dir()
    assert mounts_under(tmp_path) == []


@as_root
def test_an_empty_file_that_was_there_is_used_as_the_device_and_stays(tmp_path: Path, proc: str) -> None:
    node = tmp_path / "node"
    node.touch(0o640)
    os.chown(node, NOBODY, NOBODY)
    before = node.stat()
    with serving(tmp_path, "--proc", proc, node=node), opened(node) as fd:
        assert revents(fd) == 0
    after = node.stat()
    assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, NOBODY)


@as_root
def test_a_file_that_took_the_place_of_the_placeholder_stays(tmp_path: Path, proc: str) -> None:
    """Only the file that the server made is removed."""
    node = tmp_path / "node"
    with Server(tmp_path, "--proc", proc, node=node) as server:
        # The device is shown again as soon as it is taken away, unless something else is there by then.
        (tmp_path / "new").write_text("precious")
        while (tmp_path / "new").exists():
            with suppress(OSError):
                libc.unmount(str(node))
                (tmp_path / "new").rename(node)
        wait_until(lambda: "exists and is not a placeholder of ours" in server.log, "a line in the log")
        assert server.stop() == 0
    assert node.read_text() == "precious"


@as_root
@pytest.mark.parametrize(
    ("device", "mount"),
    [("mount", "mount"), ("mount/mem_notify", "mount"), ("mount/a/../b", "mount"), ("node", "node/mount")],
)
def test_a_device_in_the_mount_or_a_mount_in_the_device_is_refused(
    device: str, mount: str, tmp_path: Path, proc: str
) -> None:
    """A server that showed its device there could not be ended."""
    before = sorted(tmp_path.iterdir())
    line = refused(serve("--device", tmp_path / device, "--mount", tmp_path / mount, "--proc", proc))
    assert "cannot be at or below" in line
    assert sorted(tmp_path.iterdir()) == before
    assert mounts_under(tmp_path) == []


def is_gone(pid: int) -> bool:
    """Whether a process has ended. Whoever is its parent now may not ask for its exit code."""
    return state_of(pid) in ("", "Z", "X")


@contextmanager
def owned_and_slept_on(server: Server) -> Iterator[list[Blocking[object]]]:
    """Clients that need all of the server's processes: an owner of SIGIO, a poller and a blocked reader."""
    with opened(server.device) as owned, opened(server.device) as polled, opened(server.device) as read:
        fcntl.fcntl(owned, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(owned, fcntl.F_SETSIG, signal.SIGURG)  # Ignored by who does not ask for it.
        clients = [Blocking[object](lambda: revents(polled, LIMIT_S)), Blocking[object](lambda: os.read(read, 4096))]
        wait_for_watchers(server, 2)
        wait_until(lambda: int(facts(server)["helpers"]) > 0, "a helper")
        yield clients


def outcome(client: Blocking[object]) -> str:
    """What a client got in the end: the name of its error, or what its call returned."""
    return error_of(client.result) or repr(client.result())


@as_root
def test_when_a_connection_is_aborted_the_keeper_cleans_up_and_says_so(tmp_path: Path, proc: str) -> None:
    node = tmp_path / "node"
    with Server(tmp_path, "--proc", proc, node=node) as server, owned_and_slept_on(server) as clients:
        instance = INSTANCES / f"memnotify-{server.process.pid}"
        pids = family(server.process.pid)
        connection = os.minor(os.stat(node).st_dev)
        mount_fusectl()
        (CONNECTIONS / str(connection) / "abort").write_text("1")
        assert server.process.wait(LIMIT_S) == 1
        (line,) = complaints(server)
        assert line.endswith("the control file system was ended from outside: unmounted, or its connection aborted")
        wait_until(lambda: all(map(is_gone, pids)), "all processes gone")
        assert mounts_under(tmp_path) == []
        assert not node.exists()
        assert not server.mount.exists()
        assert not instance.exists()
        polled, read = map(outcome, clients)
        assert int(polled) & select.POLLERR
        assert read in ("ECONNABORTED", "ENOTCONN")


@as_root
def test_a_serving_process_that_does_not_answer_is_ended_with_the_others(tmp_path: Path, proc: str) -> None:
    node = tmp_path / "node"
    with Server(tmp_path, "--proc", proc, node=node) as server, owned_and_slept_on(server) as clients:
        pids = family(server.process.pid)
        os.kill(int(facts(server)["server_pid"]), signal.SIGSTOP)
        assert server.stop() == 0
        wait_until(lambda: all(map(is_gone, pids)), "all processes gone")
        assert mounts_under(tmp_path) == []
        assert sorted(tmp_path.iterdir()) == [tmp_path / "proc", tmp_path / "server.log"]
        for client in clients:
            outcome(client)


@as_root
def test_with_clients_asleep_it_stops_within_two_seconds(tmp_path: Path, proc: str) -> None:
    """A machine that is busy with something else has a few tries."""
    took_s: list[float] = []
    while not took_s or took_s[-1] > 2.0:
        assert len(took_s) < 5, f"seconds: {took_s}"
        with Server(tmp_path, "--proc", proc, node=tmp_path / "node") as server, owned_and_slept_on(server) as clients:
            begun_s = time.monotonic()
            assert server.stop() == 0
            took_s.append(time.monotonic() - begun_s)
            for client in clients:
                outcome(client)


@as_root
@pytest.mark.parametrize("victim", ["keeper", "keeper of a server that hangs", "server and keeper"])
def test_the_next_start_cleans_up_after_a_killed_server(victim: str, tmp_path: Path, proc: str) -> None:
    node = tmp_path / "node"
    with Server(tmp_path, "--proc", proc, node=node) as killed, owned_and_slept_on(killed) as clients:
        instance = INSTANCES / f"memnotify-{killed.process.pid}"
        traced = instance.exists()
        pids = family(killed.process.pid)
        assert len(pids) >= 4  # keeper, server, the parent of helpers, a helper
        if victim == "keeper of a server that hangs":
            # It cannot find out for itself.
            os.kill(int(facts(killed)["server_pid"]), signal.SIGSTOP)
        elif victim != "keeper":
            # It cannot clean up meanwhile.
            os.kill(killed.process.pid, signal.SIGSTOP)
            os.kill(int(facts(killed)["server_pid"]), signal.SIGKILL)
        killed.process.kill()
        killed.process.wait(LIMIT_S)
        wait_until(lambda: all(map(is_gone, pids)), "all processes gone with their keeper")
        polled, read = map(outcome, clients)
        assert int(polled) & select.POLLERR
        assert read in ("ECONNABORTED", "ENOTCONN")
        with pytest.raises(OSError, match="not connected"):
            os.open(node, os.O_RDONLY)
        with Server(tmp_path, "--proc", proc, node=node) as server:
            with opened(node) as fd:
                server.simulate(seconds=LONG_S)
                assert read_record(fd).pressure == 1
            said = complaints(server)
            assert len(said) == 2
            assert all("that a killed server left behind" in line for line in said)
            assert not traced or not instance.exists()
            assert server.stop() == 0
    assert mounts_under(tmp_path) == []
    assert not node.exists()


def children_of(pid: int) -> list[int]:
    return family(pid)[1:]


@as_root
@pytest.mark.parametrize("moment", ["forked", "directory", "mounted", "shown"])
def test_a_signal_during_the_start_ends_it_and_leaves_nothing(moment: str, tmp_path: Path, proc: str) -> None:
    mount, node = tmp_path / "mount", tmp_path / "node"
    argv = serve("--device", node, "--mount", mount, "--proc", proc)

    def happened() -> bool:
        match moment:
            case "forked":
                return bool(children_of(process.pid))
            case "directory":
                return mount.exists()
            case "mounted":
                return str(mount) in mounts_under(tmp_path)
            case _:
                return os.path.lexists(node)

    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        try:
            wait_until(happened, moment)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
            for path in (node, mount):
                unmount(path)
    assert process.returncode == 0, said
    assert unexpected(said) == []
    assert not list(INSTANCES.glob(f"memnotify*-{process.pid}"))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "proc"]


EXEC_WITH_AN_INSTANCE = """
import os, sys
os.mkdir(f"/sys/kernel/tracing/instances/memnotify-{os.getpid()}")
os.execv(sys.executable, [sys.executable, "-m", "memnotify_cuse", "serve", *sys.argv[1:]])
"""


@as_root
@pytest.mark.skipif(not INSTANCES.is_dir(), reason="no tracefs")
def test_an_instance_left_by_a_killed_server_with_the_same_pid_is_replaced(tmp_path: Path, proc: str) -> None:
    """In a container the server's process id is the same at every start."""
    mount = tmp_path / "mount"
    options = ["--device", "", "--mount", str(mount), "--proc", proc, "--log-level", "info"]
    with subprocess.Popen([sys.executable, "-c", EXEC_WITH_AN_INSTANCE, *options], stderr=subprocess.PIPE) as process:
        instance = INSTANCES / f"memnotify-{process.pid}"
        try:
            process.stdout = process.stderr
            lines = Lines(process)
            said = [lines.next()]
            while not said[-1].startswith("ready: "):
                said.append(lines.next())
            if any("Cannot allocate memory" in line for line in said):
                pytest.skip("the kernel has no memory for a trace instance just now")
            assert " wakeup=tracefs " in (mount / "server").read_text()
            process.terminate()
            assert process.wait(LIMIT_S) == 0
            assert not instance.exists()
        finally:
            process.kill()
            process.wait(LIMIT_S)
            unmount(mount)
            if instance.exists():
                instance.rmdir()


def test_a_mount_removed_by_hand_ends_the_server(tmp_path: Path, proc: str) -> None:
    with Server(tmp_path, "--proc", proc) as server:
        unmount(server.mount)
        assert server.process.wait(LIMIT_S) == 1
        assert "was ended from outside" in server.log


def test_a_second_server_on_the_same_mount_is_refused_and_the_first_goes_on(tmp_path: Path, proc: str) -> None:
    with serving(tmp_path, "--proc", proc) as server:
        line = refused(serve("--device", "", "--mount", server.mount))
        assert line == f"memnotify: {server.mount}: memnotify is already serving there"
        server.simulate(seconds=LONG_S)
        with opened(server.device) as fd:
            assert read_record(fd).pressure == 1


def test_of_two_servers_started_at_once_one_serves(tmp_path: Path, proc: str) -> None:
    argv = serve("--device", "", "--mount", tmp_path / "mount", "--proc", proc)
    both = [subprocess.Popen(argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) for _ in range(2)]
    try:
        wait_until(lambda: any(process.poll() is not None for process in both), "one refused")
        loser = next(process for process in both if process.poll() is not None)
        winner = next(process for process in both if process is not loser)
        assert loser.returncode == 2
        wait_until(lambda: (tmp_path / "mount" / "status").exists(), "the other one serving")
        assert "status=0" in (tmp_path / "mount" / "status").read_text()
        winner.terminate()
        assert winner.wait(LIMIT_S) == 0
    finally:
        for process in both:
            process.kill()
            process.communicate()
        unmount(tmp_path / "mount")


def test_requests_are_served_where_the_event_loop_would_wait(tmp_path: Path) -> None:
    """With all the sources of a real machine, of which a PSI trigger has an epoll instance of its own."""
    with Server(tmp_path) as server:
        wait_until(lambda: "status=0" in server.status(), "it serves")
        assert "served by the event loop" not in server.log


@as_root
def test_a_server_that_mounts_after_the_other_one_has_looked_is_not_mounted_over(
    tmp_path: Path, proc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the second one then opens and locks is the mount of the first."""
    looks = iter([lambda _path: False])
    look = mount.remove_if_dead
    monkeypatch.setattr(mount, "remove_if_dead", lambda path: next(looks, look)(path))
    noted: list[str] = []
    with Server(tmp_path, "--proc", proc) as server:
        with pytest.raises(mount.MountError, match="already serving there"):
            mount.mount_control(server.mount, noted.append)
        assert noted == []
        server.stop()
        assert mount_at(server.mount) is None


def test_a_mount_point_that_is_a_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    assert str(file) in refused(serve("--device", "", "--mount", file))
    assert file.read_text() == "precious"


def test_a_mount_point_whose_parent_is_missing_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(serve("--device", "", "--mount", tmp_path / "none" / "mount"))


@as_root
@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "link", "missing parent"])
def test_a_device_path_that_is_taken_is_refused_and_left_alone(kind: str, tmp_path: Path, proc: str) -> None:
    path = tmp_path / "taken"
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            (tmp_path / "target").write_text("precious")
            path.symlink_to("target")
        case _:
            path = tmp_path / "none" / "node"
    before = sorted(tmp_path.iterdir())
    assert str(path) in refused(serve("--device", path, "--mount", tmp_path / "mount", "--proc", proc))
    assert sorted(tmp_path.iterdir()) == before
    assert mounts_under(tmp_path) == []
    if kind in ("file", "link"):
        assert path.read_text() == "precious"


def test_a_proc_that_is_not_there_is_refused(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    assert "zoneinfo" in refused(serve("--device", "", "--mount", mount, "--proc", tmp_path))
    assert not mount.exists()


def test_a_character_device_needs_a_name(tmp_path: Path) -> None:
    assert "--node cuse" in refused(serve("--device", "", "--mount", tmp_path / "mount", "--node", "cuse"))


@as_root
def test_a_character_device_outside_dev_is_refused(tmp_path: Path) -> None:
    said = refused(serve("--device", tmp_path / "node", "--mount", tmp_path / "mount", "--node", "cuse"))
    assert "directly under /dev" in said
    assert not (tmp_path / "mount").exists()


def test_node_none_makes_no_node(tmp_path: Path, proc: str) -> None:
    with serving(tmp_path, "--proc", proc, "--node", "none") as server:
        assert server.device == server.mount / "mem_notify"
        assert len(mounts_under(tmp_path)) == 1


@as_root
def test_without_the_right_to_make_the_device_the_start_is_refused(open_directory: Path) -> None:
    own = open_directory / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    argv = [sys.executable, "-c", MEMNOTIFY_AS_NOBODY, "serve", "--device", "/dev/mem_notify_test"]
    refused([*argv, "--mount", own / "mount"])
    assert not Path("/dev/mem_notify_test").exists()
    assert list(own.iterdir()) == []


@as_root
def test_without_the_right_to_make_the_mount_point_the_start_is_refused(open_directory: Path) -> None:
    mount = open_directory / "mount"
    line = refused([sys.executable, "-c", MEMNOTIFY_AS_NOBODY, "serve", "--device", "", "--mount", mount])
    assert line == f"memnotify: {mount}: cannot make the mount point: Permission denied"


USE_AS_NOBODY = f"""
import os, select, sys
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
mount = sys.argv[1]
fd = os.open(mount + "/mem_notify", os.O_RDONLY)
poll = select.poll()
poll.register(fd, select.POLLIN)
assert poll.poll(0) == []
with open(mount + "/simulate", "w") as simulate:
    simulate.write("all 600")
assert poll.poll(60000) == [(fd, select.POLLIN)]
print(os.read(fd, 4096).decode(), end="")
"""


@as_root
@pytest.mark.usefixtures("fuse_for_all")
def test_an_ordinary_user_can_serve_a_mount_of_their_own(open_directory: Path) -> None:
    own = open_directory / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    mount = own / "mount"
    argv = [sys.executable, "-c", MEMNOTIFY_AS_NOBODY, "serve", "--device", "", "--mount", str(mount)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        process.stdout = process.stderr
        try:
            lines = Lines(process)
            while not (line := lines.next()).startswith("ready: "):
                assert line.startswith(("memnotify: WARNING: ", "memnotify: INFO: "))
            used = subprocess.run(
                [sys.executable, "-c", USE_AS_NOBODY, mount], capture_output=True, text=True, timeout=LIMIT_S
            )
            assert used.returncode == 0, used.stderr
            assert "reason=simulated" in used.stdout
            # Nobody else sees it, root included: there is no allow_other.
            with pytest.raises(PermissionError):
                os.listdir(mount)
            process.terminate()
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
            unmount(mount)
    assert list(own.iterdir()) == []


def voluntary_switches(process: int) -> int:
    """How often the threads of `process`, and of those that it started, went to sleep so far."""
    count = 0
    for pid in family(process):
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            words = status.read_text().split()
            count += int(words[words.index("voluntary_ctxt_switches:") + 1])
    return count


def reclaimed_pages() -> int:
    """How many pages the kernel has scanned so far."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("pgscan_"))


def free_kb() -> int:
    """What the zones have free, which is less than MemFree where a balloon holds the rest."""
    zones = parse_zoneinfo(Path("/proc/zoneinfo").read_text()).zones
    return sum(zone.free_pages for zone in zones) * os.sysconf("SC_PAGE_SIZE") // 1024


def test_at_rest_the_server_wakes_less_than_once_a_second(tmp_path: Path) -> None:
    """On the machine as it is, which something else may make reclaim: one quiet stretch will do.

    Where free memory lasts less than two seconds at the fastest possible rate, it looks twice in that time instead.
    """
    window_s = 3
    most = max(window_s, int(2 * window_s * FASTEST_FILL_KB_PER_S / free_kb()) + 1)
    seen: list[tuple[int, int]] = []
    with Server(tmp_path) as server:
        if facts(server)["wakeup"] != "tracefs":
            pytest.skip(f"without trace events it looks more often: wakeup={facts(server)['wakeup']}")
        for _ in range(10):
            reclaimed = reclaimed_pages()
            samples = int(facts(server)["samples"])
            switches = voluntary_switches(server.process.pid)
            # Nothing is asked of the server meanwhile.
            time.sleep(window_s)
            slept = voluntary_switches(server.process.pid) - switches
            sampled = int(facts(server)["samples"]) - samples
            # The keeper looks after each sample, half a second later.
            if sampled < most and slept < 2 * most:
                return
            if reclaimed_pages() == reclaimed:
                seen.append((sampled, slept))
    if len(seen) < 3:
        pytest.skip("the machine reclaims memory all the time")
    pytest.fail(f"samples and wake-ups in {window_s} s of rest: {seen}")
