"""Servers that many tests share, one after the other: each finds its server at rest, and leaves it so.

Starting a server takes many times as long as most tests do, above all in a guest without hardware virtualisation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memnotify_cuse.board import NOTIFY_INTERVAL_NS
from tests.support.mounted import Machine, complaints, notifications, open_files, wait_until, watchdog
from tests.support.server import Server
from tests.support.spawner import Spawner
from tests.support.transport import Transport


@dataclass(frozen=True, slots=True)
class Setup:
    """What a test needs of its server: `options` of serve, and whether the machine must be calm at its start.

    Without that it saves the time until the server looks at a machine at rest again, which is seconds.
    """

    options: tuple[str, ...] = ()
    calm: bool = True


PLAIN: Final = Setup()
TELLS_ALL: Final = Setup(("--no-herd-control", "--sigio", "owner"), calm=False)
"""For SIGIO, which comes with each notification, whatever the state was: everybody is told at each of them."""

NO_SIGIO: Final = Setup(("--sigio", "off"))
"""Also for thousands of open files, of which each would be looked at for an owner."""

EXACT: Final = Setup(("--no-herd-control", "--sigio", "auto"), calm=False)
"""Where there are kprobe events; elsewhere it is no different."""

STRICT: Final = Setup(("--no-herd-control", "--sigio", "strict"), calm=False)


@dataclass(slots=True, eq=False)
class Stage:
    """A running server and the machine that it sees."""

    server: Server
    machine: Machine
    notifications: int = 0
    free_at_s: float = 0.0
    """When the next notification may come: a test that makes pressure is to see it at once."""


class Stages:
    """Starts servers when they are first asked for; `end` ends them as a user would."""

    def __init__(self, directory: Path, spawner: Spawner) -> None:
        self._directory = directory
        self._spawner = spawner
        self._stages: dict[tuple[str, tuple[str, ...]], Stage] = {}
        self._started = 0

    @contextmanager
    def lend(self, transport: Transport, setup: Setup) -> Iterator[Stage]:
        """A stage for one test. AssertionError if that leaves it with files open, or with a complaint."""
        key = transport.name, setup.options
        stage = self._stages.get(key) or self._start(transport, setup)
        self._stages[key] = stage
        try:
            with watchdog(stage.server):
                if setup.calm and stage.machine.tight:
                    _calm(stage)
                time.sleep(max(0.0, stage.free_at_s - time.monotonic()))
                yield stage
                _come_to_rest(stage)
        except BaseException:
            # The next test is to have one that nothing is known against.
            del self._stages[key]
            stage.server.kill()
            raise

    def end(self, transport: Transport | None = None, setup: Setup | None = None) -> None:
        """End all servers, or those of a transport and a setup."""
        keys = [
            key
            for key in self._stages
            if (transport is None or key[0] == transport.name) and (setup is None or key[1] == setup.options)
        ]
        with ExitStack() as stack:
            servers = [stack.enter_context(self._stages.pop(key).server) for key in keys]
            for server in servers:
                assert server.stop() == 0, f"the server did not end well: {server.log}"
                assert not complaints(server), f"the server complained: {server.log}"
                assert not server.device.exists()

    def _start(self, transport: Transport, setup: Setup) -> Stage:
        self._started += 1
        directory = self._directory / f"{self._started}-{transport.name}"
        directory.mkdir(mode=0o755)
        machine = Machine(directory)
        options = ("--log-level", "info", *machine.options, *setup.options)
        servers: list[Server] = []

        def started() -> bool:
            try:
                servers.append(self.server(transport, directory, *options))
            except RuntimeError as error:
                # Mode `strict` needs a trace instance; the kernel may refuse one for a while after others went.
                if "Cannot allocate memory" not in str(error):
                    raise
            return bool(servers)

        wait_until(started, "a server with memory for its trace")
        return Stage(servers[0], machine)

    def server(self, transport: Transport, directory: Path, *options: str, node: Path | None = None) -> Server:
        """A server that is not shared, with a device at `node`, or at a path of its own if we may make one."""
        if node is None and os.geteuid() == 0:
            node = transport.node(directory)
        kind = ("--node", transport.name) if node is not None else ()
        return Server(directory, *kind, *options, node=node, spawner=self._spawner)


def _calm(stage: Stage) -> None:
    stage.machine.make_room()
    wait_until(lambda: "status=1" not in stage.server.status(), "no pressure")
    stage.machine.fill_up()


def _come_to_rest(stage: Stage) -> None:
    server = stage.server
    assert server.process.poll() is None, f"the server ended: {server.log}"
    server.simulate(seconds=0)
    free_at_s = time.monotonic() + NOTIFY_INTERVAL_NS / 1e9
    wait_until(lambda: open_files(server) == 0, "all files closed")
    told = notifications(server)
    if told != stage.notifications:
        stage.notifications, stage.free_at_s = told, free_at_s
    assert not complaints(server), f"the server complained: {server.log}"
