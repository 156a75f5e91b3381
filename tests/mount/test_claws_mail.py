"""Claws Mail, which has asked /dev/mem_notify for SIGIO since 2008, as Debian ships it today.

    sudo apt-get install --no-install-recommends claws-mail xvfb

It opens the device, sets itself as the owner, and then calls fcntl with an invalid command in place of F_SETFL: only
mode `owner` serves it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.mounted import LIMIT_S, calm_proc, wait_until
from tests.support.server import Server

pytestmark = pytest.mark.mount

DEVICE = Path("/dev/mem_notify")
INSTALLED_HANDLER = "/dev/mem_notify: installed handler"
TOLD = "/dev/mem_notify: Kernel says we should free up some memory!"
FREED = "Freeing cache memory for queue"
# The folder "queue" is read at start and not shown, so that its cache is what can be freed.
CACHE_READ = "Scanning folder queue for cache changes"
STARTED = "Total cache memory usage: "

LETTER = """\
From: Ann <ann@example.org>
To: Ben <ben@example.org>
Subject: letter {number}
Date: Mon, 02 Jan 2023 10:00:0{number} +0000
Message-ID: <{number}@example.org>

Hello.
"""

# Protocol 6 is an account that only sends.
ACCOUNTS = """\
[Account: 1]
account_name=ben
is_default=1
name=Ben
address=ben@example.org
protocol=6
smtp_server=localhost
"""

FOLDERS = """\
<?xml version="1.0" encoding="UTF-8"?>
<folderlist>
    <folder type="mh" name="Mail" path="Mail" collapsed="0">
        <folderitem type="inbox" name="inbox" path="inbox" />
        <folderitem type="outbox" name="sent" path="sent" />
        <folderitem type="draft" name="draft" path="draft" />
        <folderitem type="queue" name="queue" path="queue" />
        <folderitem type="trash" name="trash" path="trash" />
    </folder>
</folderlist>
"""


def missing() -> str | None:
    """Why this cannot be tested here, None if it can."""
    for program in ("claws-mail", "Xvfb"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if os.geteuid() != 0:
        return "only root can make /dev/mem_notify"
    if DEVICE.exists():
        return "/dev/mem_notify is there already"
    return None


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with an account and a mailbox, so that no wizard asks for them."""
    home = tmp_path / "home"
    for folder in ("inbox", "sent", "draft", "queue", "trash"):
        (home / "Mail" / folder).mkdir(parents=True)
    for number in range(1, 4):
        (home / "Mail" / "queue" / str(number)).write_text(LETTER.format(number=number))
    settings = home / ".claws-mail"
    settings.mkdir()
    (settings / "accountrc").write_text(ACCOUNTS)
    (settings / "folderlist.xml").write_text(FOLDERS)
    return home


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process for the block, which ends it."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(LIMIT_S)


@contextmanager
def display(directory: Path) -> Iterator[str]:
    """The name of a display of its own."""
    read_fd, write_fd = os.pipe()
    command = ["Xvfb", "-displayfd", str(write_fd), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    with (directory / "xvfb.log").open("w") as log, ExitStack() as stack:
        stack.enter_context(ended(subprocess.Popen(command, pass_fds=[write_fd], stdout=log, stderr=log)))
        os.close(write_fd)
        with open(read_fd) as told:
            number = told.readline()
        assert number.endswith("\n"), (directory / "xvfb.log").read_text()
        yield f":{number.strip()}"


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_its_cache_is_freed(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "claws.log"
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)

    def said(words: str) -> int:
        return log.read_text(errors="replace").count(words)

    with (
        Server(tmp_path, "--proc", str(calm_proc(tmp_path).path), node=DEVICE) as server,
        display(tmp_path) as name,
        log.open("w") as output,
    ):
        environment = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "DISPLAY": name,
            "XDG_RUNTIME_DIR": str(runtime),
            "LANG": "C.UTF-8",
            "NO_AT_BRIDGE": "1",
            "GSETTINGS_BACKEND": "memory",
        }
        command = ["claws-mail", "--debug", "--select", "#mh/Mail/inbox"]
        claws = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        with ended(claws):
            wait_until(lambda: said(INSTALLED_HANDLER) or claws.poll() is not None, "the handler installed")
            assert said(INSTALLED_HANDLER), log.read_text(errors="replace")
            wait_until(lambda: (said(CACHE_READ) and said(STARTED)) or claws.poll() is not None, "the mailbox read")
            assert not said(TOLD)
            assert not said(FREED)
            server.simulate(seconds=LIMIT_S)
            wait_until(lambda: said(TOLD), "Claws Mail told")
            wait_until(lambda: said(FREED), "its cache freed")
            server.simulate(seconds=0)
            assert claws.poll() is None
            claws.send_signal(signal.SIGTERM)
            assert claws.wait(LIMIT_S) == 0, "it ends as it should"
    assert not DEVICE.exists()
