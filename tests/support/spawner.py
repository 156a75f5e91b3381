"""Starts servers from a process that has imported the server already.

In a guest without hardware virtualisation Python takes ten seconds and more to import it, and a test that kills servers
and starts them again would do little else. What runs is the same: `memnotify serve`, in a process of its own.

Each message on the socket is JSON: {"log": PATH, "argv": [...]} starts a server, {"reap": PID} asks how one ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

MESSAGE_BYTES = 1 << 16


class Spawned:
    """A process of the spawner's, with what tests need of subprocess.Popen."""

    def __init__(self, spawner: Spawner, pid: int) -> None:
        self._spawner = spawner
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None and self._has_ended(0):
            self.returncode = int(self._spawner.ask({"reap": self.pid})["code"])
            os.close(self._pidfd)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not self._has_ended(timeout):
            raise subprocess.TimeoutExpired("memnotify serve", timeout or 0.0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: signal.Signals | int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _has_ended(self, timeout_s: float | None) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


class Spawner:
    """Starts servers; a context manager."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.spawner", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
            )

    def start(self, argv: list[str], log: Path) -> Spawned:
        """Run `memnotify` with these arguments; its stderr goes to `log`."""
        return Spawned(self, self.ask({"log": str(log), "argv": argv})["pid"])

    def ask(self, request: dict[str, Any]) -> Any:  # noqa: ANN401 # what it answers is JSON
        self._ours.send(json.dumps(request).encode())
        answer = self._ours.recv(MESSAGE_BYTES)
        assert answer, "the spawner has ended"
        return json.loads(answer)

    def __enter__(self) -> Spawner:
        return self

    def __exit__(self, *error: object) -> None:
        self._ours.close()
        self._process.wait(60)


def _start(request: dict[str, Any], asked: socket.socket) -> int:
    from memnotify_cuse.cli.main import main

    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        asked.close()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 2)
        os.close(log)
        code = main(request["argv"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(asked: socket.socket) -> None:
    import memnotify_cuse.cli.main
    import memnotify_cuse.cli.serve
    import memnotify_cuse.daemon
    import memnotify_cuse.fasync.forker
    import memnotify_cuse.keeper.setup  # noqa: F401

    while message := asked.recv(MESSAGE_BYTES):
        request = json.loads(message)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            answer = {"pid": _start(request, asked)}
        asked.send(json.dumps(answer).encode())


if __name__ == "__main__":
    _run(socket.socket(fileno=int(sys.argv[1])))
