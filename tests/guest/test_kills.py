"""The server is killed again and again under a crowd, over both nodes, on a kernel that cannot send requests again."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.reliability.__main__ import SOURCES, crowds, kill_often
from tests.support.mounted import calm_proc, facts
from tests.support.programs import Programs
from tests.support.server import Server

KILLS = 20
SHARE = 0.05
"""Of the crowd: an emulated processor takes long to start a thousand processes."""


@pytest.mark.parametrize("node", ["fuse", "cuse"])
def test_kills_under_a_crowd(node: str, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    path = Path("/dev/memnotify-kills") if node == "cuse" else tmp_path / "node"
    arguments = ("--no-herd-control", "--proc", str(calm_proc(tmp_path).path), "--node", node)
    with ExitStack() as stack:
        server = stack.enter_context(Server(tmp_path, *arguments, node=path))
        programs = Programs(SOURCES, tmp_path)
        crowd = stack.enter_context(crowds(server, tmp_path, programs, SHARE))
        problems, took_s = kill_often(server, crowd, KILLS, signal.SIGKILL, seed=1)
        assert problems == []
        assert len(took_s) == KILLS
        assert facts(server)["restarts"] == str(KILLS)
        assert server.stop() == 0
