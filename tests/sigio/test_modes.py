"""serve --sigio strict and off, an unprivileged server, and programs in Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify_cuse.kernel.tracefs import find_tracefs
from tests.support.mounted import LIMIT_S, NOBODY, SwaplessProc, calm_proc, facts, opened, wait_until
from tests.support.server import Lines, Server
from tests.support.sigio import (
    BAND,
    REALTIME,
    SI_SIGIO,
    SIGIO,
    NewPuppet,
    Puppet,
    Witness,
    as_root,
    notify_once,
    pass_descriptor,
    serving,
)

pytestmark = pytest.mark.mount

WAKEUP_FD = """
import fcntl, os, select, signal, socket, sys
ours, wakeup = socket.socketpair()
for end in (ours, wakeup):
    end.setblocking(False)
signal.signal(signal.SIGIO, lambda number, frame: None)
signal.set_wakeup_fd(wakeup.fileno())
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
print("ready", flush=True)
select.select([ours], [], [])
print(list(ours.recv(100)) == [signal.SIGIO], os.read(fd, 4096).decode(), end="", flush=True)
"""

SIGWAITINFO = """
import fcntl, os, signal, sys
F_SETSIG = 10
number = signal.SIGRTMIN + 3
signal.pthread_sigmask(signal.SIG_BLOCK, {number})
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
fcntl.fcntl(fd, F_SETSIG, number)
fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
print("ready", flush=True)
info = signal.sigwaitinfo({number})
print(info.si_signo == number, info.si_code, info.si_band, flush=True)
"""

ASYNCIO = """
import asyncio, fcntl, os, signal, sys

async def main():
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGIO, told.set)
    fd = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    print("ready", flush=True)
    await told.wait()
    print("told", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("program", "expected"),
    [(WAKEUP_FD, "True node=0 "), (SIGWAITINFO, f"True {SI_SIGIO} {BAND}"), (ASYNCIO, "told")],
    ids=["set_wakeup_fd", "sigwaitinfo", "asyncio"],
)
@pytest.mark.parametrize("mode", ["owner", "strict"])
def test_a_program_in_python(program: str, expected: str, mode: str, tmp_path: Path, swapless: SwaplessProc) -> None:
    needs_tracefs(mode)
    command = [sys.executable, "-c", program]
    with serving(tmp_path, "--proc", str(swapless.path), "--sigio", mode) as server:
        with subprocess.Popen([*command, server.device], stdout=subprocess.PIPE) as process:
            lines = Lines(process)
            assert lines.next() == "ready"
            notify_once(server, swapless)
            assert lines.next().startswith(expected)
        assert process.returncode == 0


def needs_tracefs(mode: str = "strict") -> None:
    tracefs = find_tracefs()
    if mode == "strict" and (tracefs is None or not (tracefs / "events/syscalls/sys_enter_fcntl").exists()):
        pytest.skip("--sigio strict needs tracefs with syscall events, and the right to use it")


class TestStrict:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[Server]:
        needs_tracefs()
        options = ("--proc", str(calm_proc(tmp_path).path), "--no-herd-control", "--sigio", "strict")
        with serving(tmp_path, *options) as running:
            assert facts(running)["sigio"] == "strict"
            yield running

    def test_an_owner_alone_is_not_signalled(self, server: Server, puppet: Puppet, witness: Witness) -> None:
        fd = puppet.number("open", server.device)
        puppet.ask("handle", SIGIO)
        puppet.ask("setown", fd, puppet.pid)
        witness.sees_notifications()
        assert puppet.so_far() == []

    def test_set_cleared_and_set_again(self, server: Server, puppet: Puppet, witness: Witness) -> None:
        fd = puppet.watch(server.device)
        for _ in range(3):
            server.simulate(seconds=LIMIT_S)
            assert puppet.next().fd == fd
            server.simulate(seconds=0)
            puppet.ask("async", fd, 0)
            witness.sees_notifications(1)
            puppet.so_far()
            witness.sees_notifications()
            assert puppet.so_far() == []
            puppet.ask("async", fd, 1)

    def test_before_the_owner_and_the_signal(self, server: Server, puppet: Puppet) -> None:
        fd = puppet.number("open", server.device)
        puppet.ask("handle", REALTIME)
        puppet.ask("async", fd, 1)
        puppet.ask("setown", fd, puppet.pid)
        puppet.ask("setsig", fd, REALTIME)
        server.simulate(seconds=LIMIT_S)
        assert puppet.next().number == REALTIME

    def test_by_another_process_that_shares_the_file(
        self, server: Server, new_puppet: NewPuppet, witness: Witness, open_directory: Path
    ) -> None:
        one, other = new_puppet(), new_puppet()
        for _ in range(7):
            other.number("open", "/dev/null")
        with opened(server.device) as ours:
            fds = [pass_descriptor(ours, each, open_directory / "socket") for each in (one, other)]
        one.ask("handle", SIGIO)
        one.ask("setown", fds[0], one.pid)
        other.ask("async", fds[1], 1)
        server.simulate(seconds=LIMIT_S)
        assert one.next().fd == fds[0]
        server.simulate(seconds=0)
        other.ask("async", fds[1], 0)
        witness.sees_notifications(1)
        one.so_far()
        witness.sees_notifications()
        assert one.so_far() == []

    def test_a_duplicate_s_flag_is_the_file_s(self, server: Server, puppet: Puppet) -> None:
        fd = puppet.number("open", server.device)
        puppet.ask("handle", SIGIO)
        puppet.ask("setown", fd, puppet.pid)
        copy = puppet.number("dup", fd)
        puppet.ask("async", copy, 1)
        server.simulate(seconds=LIMIT_S)
        puppet.next()
        puppet.ask("close", fd)
        puppet.so_far()
        assert puppet.next().fd == copy

    def test_other_flags_do_not_matter(self, server: Server, puppet: Puppet, witness: Witness) -> None:
        """F_SETFL by somebody else on another file with the same number, too."""
        fd = puppet.number("open", server.device)
        puppet.ask("handle", SIGIO)
        puppet.ask("setown", fd, puppet.pid)
        puppet.ask("async", puppet.number("open", "/dev/null"), 1)
        puppet.ask("async", fd, 0)
        witness.sees_notifications()
        assert puppet.so_far() == []

    def test_a_program_that_asked_for_it_dies_as_it_would(self, server: Server, puppet: Puppet) -> None:
        """Whoever sets O_ASYNC and does not handle the signal gets what the kernel would give."""
        puppet.subscribe(puppet.number("open", server.device))
        server.simulate(seconds=LIMIT_S)
        assert puppet.process.wait(LIMIT_S) == -SIGIO

    def test_nothing_is_left_of_the_trace(self, tmp_path: Path) -> None:
        needs_tracefs()
        tracefs = find_tracefs()
        assert tracefs is not None
        with serving(tmp_path, "--proc", str(calm_proc(tmp_path).path), "--sigio", "strict") as server:
            instance = tracefs / "instances" / f"memnotify-fcntl-{server.process.pid}"
            assert instance.exists()
        assert not instance.exists()


def test_off(tmp_path: Path, puppet: Puppet) -> None:
    options = ("--proc", str(calm_proc(tmp_path).path), "--no-herd-control", "--sigio", "off")
    with serving(tmp_path, *options) as server:
        assert facts(server)["sigio"] == "off"
        fd = puppet.watch(server.device)
        server.simulate(seconds=LIMIT_S)
        wait_until(lambda: puppet.number("poll", fd, 1000), "the file readable")
        wait_until(lambda: int(facts(server)["notifications"]) >= 5, "notifications")
        assert puppet.so_far() == []


SERVE_AS_NOBODY = f"""
import os, sys
import trio, pyfuse3
import memnotify_cuse.cli.main, memnotify_cuse.cli.serve, memnotify_cuse.daemon
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
os.environ["HOME"] = "/"
sys.exit(memnotify_cuse.cli.main.main(sys.argv[1:]))
"""


@as_root
@pytest.mark.usefixtures("fuse_for_all")
def test_a_server_of_an_ordinary_user_signals_that_user_s_programs(open_directory: Path, puppet: Puppet) -> None:
    os.chown(open_directory, NOBODY, NOBODY)
    mount, log = open_directory / "mount", open_directory / "log"
    proc = calm_proc(open_directory)
    options = ["serve", "--device", "", "--mount", str(mount), "--proc", str(proc.path), "--no-herd-control"]
    with (
        log.open("w") as stderr,
        subprocess.Popen([sys.executable, "-c", SERVE_AS_NOBODY, *options], stderr=stderr) as process,
    ):
        try:
            wait_until(lambda: "ready: " in log.read_text() or process.poll() is not None, "the server ready")
            assert process.poll() is None, log.read_text()
            puppet.ask("setresgid", NOBODY, NOBODY, NOBODY)
            puppet.ask("setresuid", NOBODY, NOBODY, NOBODY)
            puppet.ask("exec")
            fd = puppet.watch(mount / "mem_notify", number=REALTIME)
            puppet_of_root(mount)
            simulate = ["sh", "-c", f"echo all {LIMIT_S} > {mount}/simulate"]
            subprocess.run(simulate, user=NOBODY, group=NOBODY, check=True)
            if yama_allows():
                assert puppet.next().fd == fd
        finally:
            process.terminate()
            assert process.wait(LIMIT_S) == 0


def puppet_of_root(mount: Path) -> None:
    """Without allow_other not even root can look into a user's mount."""
    with pytest.raises(PermissionError):
        os.stat(mount / "mem_notify")


def yama_allows() -> bool:
    try:
        return Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip() == "0"
    except FileNotFoundError:
        return True
