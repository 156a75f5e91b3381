"""Forking: the processes under the keeper, and work that may hang done in a process that may be left behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
END_SIGNAL = signal.SIGUSR1
"""Ends a child between two steps of its work (`whole_step`). Unlike SIGTERM it comes from the keeper only."""
IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF)
"""Each would end the process, and is not meant for it."""
ANSWER_BYTES = 4096


class ApartError(Exception):
    """What was done in a process of its own failed, or did not end in time; the message is for the user."""


class Child:
    """A process that was forked, held by a pidfd."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self.code: int | None = None

    def fileno(self) -> int:
        """Readable once the process has ended."""
        return self._pidfd

    def end_after_step(self) -> None:
        """End it, unless it has ended; in `whole_step` only after that."""
        if self.code is None:
            signal.pidfd_send_signal(self._pidfd, END_SIGNAL)

    def kill(self) -> None:
        """SIGKILL it, unless it has ended."""
        if self.code is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def reap(self, timeout_s: float) -> bool:
        """Whether it has ended within the time; `code` is its exit code then, negative for a signal."""
        if self.code is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(max(0.0, timeout_s) * 1000):
                return False
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)
            os.close(self._pidfd)
        return True


@contextlib.contextmanager
def whole_step() -> Iterator[None]:
    """Put `Child.end_after_step` off: for what must be done and reported, or not be done at all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [END_SIGNAL])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fork(name: str, body: Callable[[], int], *, in_steps: bool = False) -> Child:
    """Run `body` in a new process, which ends with the code that it returns. `in_steps`: END_SIGNAL is for it.

    The child ignores the signals that end the keeper: those come to all processes of a terminal or a service at once,
    and the keeper ends its children in the right order.
    """
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _run(name, body, in_steps=in_steps)
    try:
        return Child(pid)
    except OSError:
        # There is no descriptor for it, so it could not be ended later.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _run(name: str, body: Callable[[], int], *, in_steps: bool) -> NoReturn:
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for number in (*STOP_SIGNALS, *IGNORED_SIGNALS):
            signal.signal(number, signal.SIG_IGN)
        if in_steps:
            signal.signal(END_SIGNAL, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, END_SIGNAL))
        from memnotify_cuse.kernel.capabilities import ParentGoneError, set_name

        set_name(name)
        try:
            code = body()
        except ParentGoneError:
            # The end of all has overtaken the start of one.
            code = 1
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(code)


def apart(work: Callable[[], str | None], limit_s: float, what: str) -> str:
    """What `work` returns, from a process of its own. ApartError if it fails or takes too long.

    For what may wait on our own mount, which the processes that hold its connection must never do. A process that
    hangs is killed, and left behind if not even that ends it.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)

    def body() -> int:
        try:
            answer = "+" + (work() or "")
        except Exception as error:
            answer = "-" + str(error)
        os.write(write_end, answer.encode(errors="surrogateescape")[:ANSWER_BYTES])
        return 0

    child = fork("memnotify-apart", body)
    os.close(write_end)
    try:
        poll = select.poll()
        poll.register(read_end, select.POLLIN)
        deadline_s = time.monotonic() + limit_s
        if not poll.poll(limit_s * 1000):
            raise ApartError(f"{what}: no answer within {limit_s:g} s")
        answer = os.read(read_end, ANSWER_BYTES).decode(errors="surrogateescape")
        child.reap(max(0.1, deadline_s - time.monotonic()))
    finally:
        os.close(read_end)
        child.kill()
        child.reap(0.1)
    if not answer.startswith("+"):
        raise ApartError(answer[1:] or f"{what}: the process that did it died")
    return answer[1:]
