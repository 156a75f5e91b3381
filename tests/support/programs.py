"""Programs in C for the mount tier, each compiled once for a run of the tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread")


def compiler_problem() -> str | None:
    """Why no C program can be compiled here, None if one can."""
    return None if shutil.which("cc") else "no C compiler (cc)"


class Programs:
    """The programs of the folder `sources`, compiled into `directory` when they are first asked for."""

    def __init__(self, sources: Path, directory: Path) -> None:
        self._sources = sources
        self._directory = directory

    def __call__(self, name: str) -> Path:
        """The path of the program whose source is `name`.c."""
        program = self._directory / name
        if not program.exists():
            source = self._sources / f"{name}.c"
            subprocess.run(["cc", *FLAGS, "-o", str(program), str(source)], check=True)
        return program
