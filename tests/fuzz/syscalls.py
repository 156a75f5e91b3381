"""Real system calls of all kinds (program/syscalls.c) against a real server, looked at before and afterwards.

What has to hold: the server goes on, tells a poller of a notification, logs nothing that was not to be expected, holds
as many descriptors and as much memory as before once all is closed, knows of no open file, and ends with exit code 0.
And no client hangs.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.fuzz.findings import Findings, Outcome
from tests.fuzz.processes import Held, connection_of, end, held_by
from tests.support.mounted import NOBODY, Blocking, calm_proc, complaints, open_files, opened, revents, wait_until
from tests.support.programs import Programs
from tests.support.server import Server

PROCESSES: Final = 8
SPARE_DESCRIPTORS: Final = 4
"""How many more the server may hold afterwards: what it opens at its first need and keeps."""

SPARE_KB: Final = 6 * 1024
"""How much more memory the server may hold afterwards: what Python does not give back of the most it ever had."""

END_S: Final = 90.0
"""How long the program may take to end, behind its time: it gives those that hang 30 s, and its dead 30 s more."""

SETTLE_S: Final = 60.0
ANSWER_S: Final = 10.0
STOP_S: Final = 20.0
TELL_S: Final = 1.0
"""Of simulated pressure, to tell a poller: longer than the least time between two notifications, 200 ms."""

BURST_S: Final = 0.05
BURST_PAUSE_S: Final = 0.25
EXPECTED: Final = ("simulate: ",)
"""In the lines that are no complaint, beside those of every server: junk that root wrote to `simulate`."""


def fuzz_syscalls(seconds: float, seed: int, processes: int = PROCESSES) -> Outcome:
    """Run the program for `seconds`; half of its `processes` as another user, if we are root."""
    findings = Findings()
    facts: Counter[str] = Counter()
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="memnotify-fuzz-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        # Every user runs the program, and looks into the mount.
        directory.chmod(0o755)
        program = Programs(Path(__file__).parent / "program", directory)("syscalls")
        proc = calm_proc(directory).path
        with Server(directory, "--log-level", "info", "--proc", str(proc)) as server, _limited(server, seconds):
            try:
                _run(server, program, seconds, seed, processes, findings, facts)
            except Exception as error:
                findings.add(f"{type(error).__name__}: {error}", f"seed {seed}")
    facts["calls"] = calls = sum(count for fact, count in facts.items() if fact.startswith("times: "))
    return Outcome("system calls", calls, time.monotonic() - start_s, findings, facts)


def _run(
    server: Server,
    program: Path,
    seconds: float,
    seed: int,
    processes: int,
    findings: Findings,
    facts: Counter[str],
) -> None:
    example = f"seed {seed}, {seconds} s"
    # The first notification makes what is made at need, and is no leak.
    for _ in range(2):
        for problem in _failed("a poller that is told at first", lambda: _poller_told(server)):
            findings.add(problem, example)
        wait_until(lambda: "status=1" not in server.status(), "no pressure", limit_s=SETTLE_S)
    before = held_by(server.process.pid)
    with _bursts(server) as slowest_ms:
        for line in _output(program, server.mount, seconds, seed, processes):
            kind, _, text = line.partition(" ")
            if kind == "fact":
                count, _, what = text.partition(" ")
                facts[what] += int(count)
            else:
                findings.add(text or line, example)
    facts["ms took the slowest simulation meanwhile"] = round(slowest_ms[0])
    for problem in _afterwards(server, before, facts):
        findings.add(problem, example)


def _output(program: Path, mount: Path, seconds: float, seed: int, processes: int) -> list[str]:
    other = NOBODY if os.geteuid() == 0 else 0
    command = [str(program), str(mount), str(seconds), str(seed), str(processes), str(other)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        try:
            output, _ = running.communicate(timeout=seconds + END_S)
        except subprocess.TimeoutExpired:
            running.kill()
            return ["found the program did not end"]
    lines = output.splitlines()
    if running.returncode not in (0, 1) or not lines:
        lines.append(f"found the program ended with {running.returncode}")
    return lines


def _afterwards(server: Server, before: Held, facts: Counter[str]) -> Iterator[str]:
    """What is not as it was before."""
    if server.process.poll() is not None:
        yield f"the server ended with {server.process.returncode}: {server.log[-2000:]}"
        return
    if no_answer := list(_failed("an answer of the server", lambda: bool(server.status()))):
        # Each of the others would be waited for in vain.
        yield from no_answer
        return
    for what, check in (
        ("open_files=0", lambda: open_files(server) == 0),
        ("the end of the simulated pressure", lambda: "status=1" not in server.status()),
        ("a poller that is told afterwards", lambda: _poller_told(server)),
    ):
        yield from _failed(what, check)
    yield from _failed(
        "the descriptors of before",
        lambda: held_by(server.process.pid).descriptors <= before.descriptors + SPARE_DESCRIPTORS,
    )
    after = held_by(server.process.pid)
    facts["processes of the server"] = after.processes
    facts["descriptors of the server before"] = before.descriptors
    facts["descriptors of the server after"] = after.descriptors
    facts["KiB of PSS before"] = before.pss_kb
    facts["KiB of PSS after"] = after.pss_kb
    for name, kb, most_kb in (("RSS", after.rss_kb, before.rss_kb), ("PSS", after.pss_kb, before.pss_kb)):
        if kb > most_kb + SPARE_KB:
            yield f"{name} of {kb} KiB afterwards, {most_kb} before"
    code = server.stop()
    if code:
        yield f"exit code {code} at SIGTERM"
    for line in complaints(server):
        if not any(word in line for word in EXPECTED):
            yield f"logged: {line}"


def _failed(what: str, condition: Callable[[], bool]) -> Iterator[str]:
    """`what` is not so within SETTLE_S, or the server does not say."""
    # A thread of its own asks: it would hang with the server.
    asked = Blocking(lambda: wait_until(condition, what, limit_s=SETTLE_S))
    try:
        wait_until(lambda: asked.returned, f"{what}: the server does not answer", limit_s=SETTLE_S + ANSWER_S)
        asked.result()
    except (AssertionError, OSError) as error:
        yield str(error)


def _poller_told(server: Server) -> bool:
    """Whether a new notification is told to a program that polls. To be asked when there is no pressure."""
    with opened(server.device) as fd:
        server.simulate(seconds=TELL_S)
        return bool(revents(fd, SETTLE_S))


@contextmanager
def _bursts(server: Server) -> Iterator[list[float]]:
    """Simulated pressure now and then, for the block; how long the slowest took to be begun, in ms."""
    stop = threading.Event()
    slowest_ms = [0.0]

    def run() -> None:
        while not stop.wait(BURST_PAUSE_S):
            start_s = time.monotonic()
            # A lease of another process can be in the way; and where the server is gone, that is found out elsewhere.
            with suppress(OSError):
                server.simulate(seconds=BURST_S)
            slowest_ms[0] = max(slowest_ms[0], (time.monotonic() - start_s) * 1000)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield slowest_ms
    finally:
        stop.set()
        thread.join(SETTLE_S)


@contextmanager
def _limited(server: Server, seconds: float) -> Iterator[None]:
    """Whatever hangs, it ends: the server is killed and its connection aborted when the block takes too long."""
    connection = connection_of(server.mount)
    limit_s = seconds + END_S + 6 * SETTLE_S
    timer = threading.Timer(limit_s, end, (server.process.pid, connection))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if server.process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                server.process.terminate()
                server.process.wait(STOP_S)
            if server.process.poll() is None:
                end(server.process.pid, connection)
