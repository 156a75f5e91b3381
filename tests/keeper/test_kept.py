"""What a keeper leaves to the next one: real descriptors, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.keeper.kept import Kept

SHOW = """
import os
from memnotify_cuse.keeper.kept import Kept
kept = Kept.inherited()
print({name: os.read(fd, 10).decode() for name, fd in sorted(kept.fds.items())}, kept.read())
print(any(os.get_inheritable(fd) for fd in kept.fds.values()))
print([name for name in os.environ if name.startswith(("LISTEN_", "MEMNOTIFY_KEPT"))])
"""


@given(
    st.lists(st.tuples(st.sampled_from(["given", "undo", "told"]), st.text(st.characters(exclude_categories=["Cs"]))))
)
def test_facts_come_back_as_they_were(facts: list[tuple[str, str]]) -> None:
    kept = Kept()
    kept.write([("undo", "of another time, and longer than all that comes after it")])
    kept.write(facts)
    assert kept.read() == facts
    kept.close()


def test_there_are_none_before_any_were_written() -> None:
    assert Kept().read() == []


def test_paths_of_any_bytes() -> None:
    kept = Kept()
    path = os.fsdecode(b"/a\xff\n\\n\0b")
    kept.write([("undo", f"rmdir {path}")])
    assert kept.read() == [("undo", f"rmdir {path}")]
    kept.close()


def pipe_with(text: bytes) -> int:
    read_end, write_end = os.pipe()
    os.write(write_end, text)
    os.close(write_end)
    return read_end


def test_newer_code_of_the_same_process_inherits_them() -> None:
    pass_on = (
        "import os, sys\n"
        "from memnotify_cuse.keeper.kept import Kept\n"
        "kept = Kept()\n"
        "for name in ('fuse', 'lock'):\n"
        "    read_end, write_end = os.pipe()\n"
        "    os.write(write_end, name.encode())\n"
        "    kept.fds[name] = read_end\n"
        "kept.write([('undo', 'rmdir /x')])\n"
        f"kept.pass_on([sys.executable, '-c', {SHOW!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", pass_on], capture_output=True, text=True, check=True)
    assert done.stdout == "{'fuse': 'fuse', 'lock': 'lock'} [('undo', 'rmdir /x')]\nFalse\n[]\n"


def test_code_that_cannot_be_executed_leaves_all_as_it_was(tmp_path: Path) -> None:
    kept = Kept()
    kept.fds["fuse"] = pipe_with(b"x")
    with pytest.raises(FileNotFoundError):
        kept.pass_on([str(tmp_path / "no-python")])
    assert not os.get_inheritable(kept.fds["fuse"])
    assert os.read(kept.fds["fuse"], 1) == b"x"
    kept.close()


def test_what_the_service_manager_has_stored_comes_back(tmp_path: Path) -> None:
    facts = Kept()
    facts_fd = facts.write([("told", "inodes 7")])
    fuse, other = pipe_with(b"fuse"), pipe_with(b"other")
    low = {3: facts_fd, 4: other, 5: fuse}

    def place() -> None:
        # As systemd does it: from 3 on.
        high = [os.dup(fd) for fd in low.values()]
        for number, fd in zip(low, high, strict=True):
            os.dup2(fd, number, inheritable=True)
        os.environ["LISTEN_PID"] = str(os.getpid())

    names = "memnotify-facts:socket-of-another:memnotify-fuse"
    run = (
        "import os, sys\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        f"os.execv(sys.executable, [sys.executable, '-c', {SHOW!r}])\n"
    )
    environment = os.environ | {"LISTEN_FDS": "3", "LISTEN_FDNAMES": names}
    done = subprocess.run(
        [sys.executable, "-c", run],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        close_fds=False,
        preexec_fn=place,
    )
    assert done.stdout == "{'fuse': 'fuse'} [('told', 'inodes 7')]\nFalse\n[]\n"
    facts.close()
    for fd in (fuse, other):
        os.close(fd)


@pytest.mark.parametrize("pid", ["1", "", "x"])
def test_what_is_meant_for_another_process_is_left_alone(pid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LISTEN_PID", pid), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "memnotify-fuse:memnotify-lock")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MEMNOTIFY_KEPT", f"{pid}:fuse=0")
    kept = Kept.inherited()
    assert kept.fds == {}
    assert "LISTEN_FDS" not in os.environ
