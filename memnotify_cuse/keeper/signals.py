"""The signals of the keeper."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from memnotify_cuse.keeper.children import IGNORED_SIGNALS, STOP_SIGNALS


class Signals:
    """SIGTERM, SIGINT and SIGHUP make `fileno()` readable; others that would end the process are ignored."""

    def __init__(self) -> None:
        self._ours, self._kernel_s = socket.socketpair()
        self._ours.setblocking(False)
        self._kernel_s.setblocking(False)
        # A program that ignores hangups is to outlive the terminal (nohup).
        self._outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._had_terminal = _has_terminal() and not self._outlives
        signal.set_wakeup_fd(self._kernel_s.fileno(), warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)
        for number in IGNORED_SIGNALS:
            if number != signal.SIGHUP:
                signal.signal(number, signal.SIG_IGN)
        # A keeper that replaced itself has blocked them meanwhile.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGHUP))

    def fileno(self) -> int:
        return self._ours.fileno()

    def came(self) -> set[str]:
        """What those that have come since the last time ask for: "stop", "reload"."""
        wanted = set()
        with contextlib.suppress(BlockingIOError):
            for number in self._ours.recv(64):
                # A terminal that is closed hangs up; the user that started the server there is gone.
                if number == signal.SIGHUP and not (self._had_terminal and not _has_terminal()):
                    wanted.add("reload")
                elif number in (*STOP_SIGNALS, signal.SIGHUP):
                    wanted.add("stop")
        return wanted

    def close(self) -> None:
        self._ours.close()
        self._kernel_s.close()

    def block(self) -> None:
        """For a process that is about to become another program: what comes meanwhile is for that one."""
        if self._outlives:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, signal.SIGHUP))

    def unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGHUP))

    def ignore(self) -> None:
        """Python restores the default handlers while it ends, and a second signal would change the exit code."""
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal, which has not hung up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
