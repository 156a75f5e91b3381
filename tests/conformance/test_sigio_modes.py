"""serve --sigio strict and off, and programs in Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memnotify_cuse.kernel.tracefs import find_tracefs
from tests.support.mounted import LIMIT_S, Machine, facts, notifications, opened, wait_until
from tests.support.server import Lines, Server
from tests.support.sigio import (
    BAND,
    REALTIME,
    SI_SIGIO,
    SIGIO,
    NewPuppet,
    Puppet,
    Witness,
    notify_once,
    pass_descriptor,
)
from tests.support.stage import NO_SIGIO, STRICT, TELLS_ALL, Setup, Stages
from tests.support.transport import Transport

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


def needs_tracefs() -> None:
    tracefs = find_tracefs()
    if tracefs is None or not (tracefs / "events/syscalls/sys_enter_fcntl").exists():
        pytest.skip("--sigio strict needs tracefs with syscall events, and the right to use it")


class TestProgramsInPython:
    @pytest.fixture(params=["owner", "strict"])
    def needs(self, request: pytest.FixtureRequest) -> Setup:
        if request.param == "owner":
            return TELLS_ALL
        needs_tracefs()
        return STRICT

    @pytest.mark.parametrize(
        ("program", "expected"),
        [(WAKEUP_FD, "True node="), (SIGWAITINFO, f"True {SI_SIGIO} {BAND}"), (ASYNCIO, "told")],
        ids=["set_wakeup_fd", "sigwaitinfo", "asyncio"],
    )
    def test_is_told(self, program: str, expected: str, server: Server, machine: Machine) -> None:
        command = [sys.executable, "-c", program, str(server.device)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            lines = Lines(process)
            assert lines.next() == "ready"
            notify_once(server, machine)
            assert lines.next().startswith(expected)
        assert process.returncode == 0


class TestStrict:
    @pytest.fixture
    def needs(self) -> Setup:
        needs_tracefs()
        return STRICT

    def test_it_is_said_to_be_strict(self, server: Server) -> None:
        assert facts(server)["sigio"] == "strict"

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

    def test_nothing_is_left_of_the_trace(self, stages: Stages, transport: Transport, needs: Setup) -> None:
        """The last one here: nobody else needs these servers."""
        tracefs = find_tracefs()
        assert tracefs is not None
        with stages.lend(transport, needs) as stage:
            instance = tracefs / "instances" / f"memnotify-fcntl-{stage.server.process.pid}"
            assert instance.exists()
        stages.end(transport, needs)
        assert not instance.exists()


class TestOff:
    @pytest.fixture
    def needs(self) -> Setup:
        return NO_SIGIO

    def test_nobody_is_signalled(self, server: Server, puppet: Puppet) -> None:
        assert facts(server)["sigio"] == "off"
        fd = puppet.watch(server.device)
        before = notifications(server)
        server.simulate(seconds=LIMIT_S)
        wait_until(lambda: puppet.number("poll", fd, 1000), "the file readable")
        wait_until(lambda: notifications(server) >= before + 5, "notifications")
        assert puppet.so_far() == []
