"""Programs that do a similar job, as Debian ships them: fetched and unpacked into build/bench, not installed.

They kill processes when memory is short. So each runs in a PID namespace of its own, where it sees no other process,
and never while anything makes real reclaim.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.processes import wait_until
from benchmarks.report import CannotRunError

FOLDER: Final = Path(__file__).resolve().parent.parent / "build" / "bench"
FETCH_LIMIT_S: Final = 120.0


@contextmanager
def earlyoom() -> Iterator[int]:
    """earlyoom with the options of its Debian service, and --dryrun; its PID."""
    program = _package("earlyoom") / "usr/bin/earlyoom"
    with _alone([str(program), "-r", "3600", "--dryrun"]) as pid:
        yield pid


@contextmanager
def nohang() -> Iterator[int]:
    """nohang with the options and the configuration of its Debian service; its PID."""
    package = _package("nohang")
    program, configuration = package / "usr/sbin/nohang", package / "etc/nohang/nohang.conf"
    python = Path("/usr/bin/python3")
    if not python.exists():
        raise CannotRunError(f"nohang needs {python}")
    with _alone([str(python), str(program), "--monitor", "--config", str(configuration)]) as pid:
        yield pid


def _package(name: str) -> Path:
    """The unpacked Debian package; CannotRunError if it cannot be had."""
    unpacked = FOLDER / name
    if unpacked.is_dir():
        return unpacked
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise CannotRunError(f"the package {name} cannot be had: no {tool}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".fetch-") as directory:
        fetch = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name]
        try:
            subprocess.run(fetch, cwd=directory, check=True, capture_output=True, timeout=FETCH_LIMIT_S)
            (archive,) = Path(directory).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", str(archive), f"{directory}/files"], check=True, capture_output=True)
        except (subprocess.SubprocessError, ValueError) as error:
            raise CannotRunError(f"the package {name} cannot be had: {error}") from None
        with contextlib.suppress(OSError):  # somebody else was faster
            Path(directory, "files").rename(unpacked)
    return unpacked


@contextmanager
def _alone(command: list[str]) -> Iterator[int]:
    """The program in a PID namespace of its own; its PID in ours."""
    if os.geteuid() != 0:
        raise CannotRunError(f"{Path(command[0]).name} is only started in a PID namespace of its own: needs root")
    if shutil.which("unshare") is None:
        raise CannotRunError("no unshare (util-linux)")
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(unshare, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        try:
            wait_until(lambda: _child(process.pid) is not None or process.poll() is not None, f"{command[0]} starts")
            pid = _child(process.pid)
            if pid is None:
                raise CannotRunError(f"{command[0]} cannot be started in a PID namespace of its own")
            yield pid
        finally:
            # The first process of a namespace is deaf to SIGTERM if it has no handler, and unshare waits for it.
            child = _child(process.pid)
            with contextlib.suppress(ProcessLookupError):
                if child is not None:
                    os.kill(child, signal.SIGKILL)
                else:
                    process.kill()
            process.wait()


def _child(pid: int) -> int | None:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(words[0]) if words else None
