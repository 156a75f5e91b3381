"""SIGIO from the server of an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounted import LIMIT_S, NOBODY, calm_proc, wait_until
from tests.support.sigio import REALTIME, Puppet, as_root

pytestmark = pytest.mark.mount

SERVE_AS_NOBODY = f"""
import os, shutil, subprocess, sys
import trio, pyfuse3
import memnotify_cuse.cli.main, memnotify_cuse.cli.serve, memnotify_cuse.daemon, memnotify_cuse.keeper.keeper
import memnotify_cuse.keeper.setup, memnotify_cuse.keeper.traces, memnotify_cuse.fasync.forker
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
os.environ["HOME"] = "/"
sys.exit(memnotify_cuse.cli.main.main(sys.argv[1:]))
"""


@as_root
@pytest.mark.usefixtures("fuse_for_all")
def test_a_server_of_an_ordinary_user_signals_that_user_s_programs(open_directory: Path, puppet: Puppet) -> None:
    os.chown(open_directory, NOBODY, NOBODY)
    mount, log = open_directory / "mount", open_directory / "log"
    proc = calm_proc(open_directory)
    options = ["serve", "--device", "", "--mount", str(mount), "--proc", str(proc.path), "--no-herd-control"]
    with (
        log.open("w") as stderr,
        subprocess.Popen([sys.executable, "-c", SERVE_AS_NOBODY, *options], stderr=stderr) as process,
    ):
        try:
            wait_until(lambda: "ready: " in log.read_text() or process.poll() is not None, "the server ready")
            assert process.poll() is None, log.read_text()
            puppet.ask("setresgid", NOBODY, NOBODY, NOBODY)
            puppet.ask("setresuid", NOBODY, NOBODY, NOBODY)
            puppet.ask("exec")
            fd = puppet.watch(mount / "mem_notify", number=REALTIME)
            puppet_of_root(mount)
            simulate = ["sh", "-c", f"echo all {LIMIT_S} > {mount}/simulate"]
            subprocess.run(simulate, user=NOBODY, group=NOBODY, check=True)
            if yama_allows():
                assert puppet.next().fd == fd
        finally:
            process.terminate()
            assert process.wait(LIMIT_S) == 0


def puppet_of_root(mount: Path) -> None:
    """Without allow_other not even root can look into a user's mount."""
    with pytest.raises(PermissionError):
        os.stat(mount / "mem_notify")


def yama_allows() -> bool:
    try:
        return Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip() == "0"
    except FileNotFoundError:
        return True
