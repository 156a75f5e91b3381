"""Mounts that are taken away while the server runs: noticed, said once, and made again."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from tests.support.mounted import LONG_S, calm_proc, opened, read_record, wait_until
from tests.support.server import Server, unmount
from tests.support.sigio import as_root

pytestmark = [as_root, pytest.mark.mount]


def has_said(server: Server, line: str, times: int) -> bool:
    return server.log.count(line) == times


def test_the_device_is_shown_again_and_removed_at_the_end(tmp_path: Path) -> None:
    node = tmp_path / "node"
    with Server(tmp_path, "--proc", str(calm_proc(tmp_path).path), node=node) as server:
        for count in range(1, 3):
            unmount(node)
            said = f"WARNING: {node}: the mount was taken away; it has been made again\n"
            wait_until(partial(has_said, server, said, count), "a line in the log")
            with opened(node) as fd:
                server.simulate(seconds=LONG_S)
                assert read_record(fd).pressure == 1
        assert server.stop() == 0
    assert not os.path.lexists(node)
    assert not os.path.lexists(server.mount)


def test_a_control_file_system_that_is_unmounted_is_mounted_again(tmp_path: Path) -> None:
    node = tmp_path / "node"
    with Server(tmp_path, "--proc", str(calm_proc(tmp_path).path), node=node) as server, opened(node):
        unmount(server.mount)
        wait_until(lambda: "has been made again" in server.log, "a line in the log")
        assert (server.mount / "status").read_text()
        # Programs are still told.
        with opened(node):
            pass
        assert server.stop() == 0
