"""The server is killed again and again under a crowd, over both nodes, on a kernel that cannot send requests again."""

from __future__ import annotations

import signal
import statistics
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.reliability.__main__ import SOURCES, crowds, kill_often
from tests.support.mounted import calm_proc, facts
from tests.support.programs import Programs
from tests.support.server import Server

KILLS = 20
SHARE = 0.05
"""Of the crowd: a thousand programs that are woken five times a second leave an emulated processor to nothing else,
SIGIO helpers among that."""

MANY_KILLS = 100


@pytest.mark.parametrize("node", ["fuse", "cuse"])
def test_kills_under_a_crowd(node: str, tmp_path: Path) -> None:
    kill_under_a_crowd(node, tmp_path, KILLS, SHARE)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("node", ["fuse", "cuse"])
def test_a_hundred_kills(node: str, tmp_path: Path) -> None:
    """It takes long: the boots `kills-100-fuse` and `kills-100-cuse`, which are run when they are asked for."""
    took_s = kill_under_a_crowd(node, tmp_path, MANY_KILLS, SHARE)
    print(f"all told: {statistics.median(took_s):.2f} s at the median, {max(took_s):.2f} s at the worst")


def kill_under_a_crowd(node: str, tmp_path: Path, kills: int, share: float) -> list[float]:
    """How long it took after each until all were told, in seconds."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    path = Path("/dev/memnotify-kills") if node == "cuse" else tmp_path / "node"
    arguments = ("--no-herd-control", "--proc", str(calm_proc(tmp_path).path), "--node", node)
    with ExitStack() as stack:
        server = stack.enter_context(Server(tmp_path, *arguments, node=path))
        programs = Programs(SOURCES, tmp_path)
        crowd = stack.enter_context(crowds(server, tmp_path, programs, share))
        print(f"{sum(one.count for one in crowd)} programs", flush=True)
        problems, took_s = kill_often(server, crowd, kills, signal.SIGKILL, seed=1)
        assert problems == []
        assert len(took_s) == kills
        assert facts(server)["restarts"] == str(kills)
        assert server.stop() == 0
        return took_s
