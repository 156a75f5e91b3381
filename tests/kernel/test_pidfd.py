"""Descriptors and signals through a pidfd, on children of our own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from memnotify_cuse.kernel.pidfd import SI_SIGIO, get_descriptor, send_sigio, send_sigio_to_thread

BAND = 0x41
REALTIME = int(signal.SIGRTMIN) + 2
NOWHERE = 2**22

WAITS = """
import signal, sys
number = int(sys.argv[1])
signal.pthread_sigmask(signal.SIG_BLOCK, {number})
print("ready", flush=True)
for _ in range(2):
    info = signal.sigwaitinfo({number})
    print(info.si_signo, info.si_code, info.si_band, info.si_pid, flush=True)
"""


@contextmanager
def waiting(number: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A child that waits for signal `number`, and a pidfd of it."""
    command = [sys.executable, "-c", WAITS, str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        pidfd = os.pidfd_open(child.pid)
        try:
            yield child, pidfd
        finally:
            os.close(pidfd)
            child.kill()


@pytest.mark.parametrize("number", [int(signal.SIGIO), REALTIME])
def test_the_signal_says_why_and_for_which_descriptor(number: int) -> None:
    with waiting(number) as (child, pidfd):
        assert child.stdout is not None
        # si_pid lies where si_band does (union): not the sender's, but the low half of it.
        send_sigio(pidfd, number, descriptor=17, band=BAND)
        assert child.stdout.readline().split() == [str(number), str(SI_SIGIO), str(BAND), str(BAND)]
        send_sigio_to_thread(child.pid, child.pid, number, descriptor=17, band=BAND)
        assert child.stdout.readline().split() == [str(number), str(SI_SIGIO), str(BAND), str(BAND)]
        assert child.wait(60) == 0


def test_a_process_that_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pidfd = os.pidfd_open(child.pid)
    try:
        with pytest.raises(ProcessLookupError):
            send_sigio(pidfd, signal.SIGIO, descriptor=1, band=BAND)
        with pytest.raises(ProcessLookupError):
            send_sigio_to_thread(child.pid, child.pid, signal.SIGIO, descriptor=1, band=BAND)
        with pytest.raises(OSError, match=r"No such process|Bad file descriptor"):
            get_descriptor(pidfd, 0)
    finally:
        os.close(pidfd)


def test_a_thread_of_another_process_is_not_signalled() -> None:
    with waiting(signal.SIGIO) as (child, _), pytest.raises(ProcessLookupError):
        send_sigio_to_thread(os.getpid(), child.pid, signal.SIGIO, descriptor=1, band=BAND)


def test_no_such_signal() -> None:
    with waiting(signal.SIGIO) as (_, pidfd), pytest.raises(OSError, match="Invalid") as caught:
        send_sigio(pidfd, 65, descriptor=1, band=BAND)
    assert caught.value.errno == errno.EINVAL


def test_a_descriptor_of_another_process() -> None:
    read_fd, write_fd = os.pipe()
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[write_fd]) as child:
        os.close(write_fd)
        pidfd = os.pidfd_open(child.pid)
        try:
            fd = get_descriptor(pidfd, write_fd)
            assert not os.get_inheritable(fd)
            os.write(fd, b"through")
            os.close(fd)
            with pytest.raises(OSError, match="Bad file descriptor") as caught:
                get_descriptor(pidfd, 999)
            assert caught.value.errno == errno.EBADF
        finally:
            os.close(pidfd)
            child.kill()
    assert os.read(read_fd, 100) == b"through"
    os.close(read_fd)


def test_a_process_of_another_user_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with subprocess.Popen(["sleep", "60"]) as child:
        pidfd = os.pidfd_open(child.pid)
        errors: list[int | None] = []

        def as_nobody() -> None:
            # The capabilities of one thread: the system call itself, not the C library's, which changes all threads.
            import ctypes

            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.syscall(ctypes.c_long(_setresuid()), 65534, 65534, 65534) == 0
            try:
                get_descriptor(pidfd, 0)
            except OSError as error:
                errors.append(error.errno)

        thread = threading.Thread(target=as_nobody)
        thread.start()
        thread.join()
        os.close(pidfd)
        child.kill()
    assert errors == [errno.EPERM]


def _setresuid() -> int:
    numbers = {"x86_64": 117, "aarch64": 147, "riscv64": 147}
    machine = os.uname().machine
    if machine not in numbers:
        pytest.skip(f"the number of setresuid on {machine} is not known here")
    return numbers[machine]
