"""A disk with something to work on: sources and a compiler for a compile job, a repository for `git gc`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.support.guest.kernel import GuestUnavailableError

LABEL: Final = "memnotify-work"
SOURCES: Final = 6
FUNCTIONS: Final = 150
BLOBS: Final = 300
BLOB_BYTES: Final = 1 << 20
DISK_MIB: Final = 1100
"""Room for the old pack and the new one, and the rest."""

_FUNCTION: Final = """
static int compare_{0}(const void *a, const void *b) {{ return *(const int *)a - *(const int *)b; }}
int work_{0}(const char *text, int *numbers, size_t count)
{{
	char *copy = strdup(text);
	int sum = 0;
	for (size_t i = 0; copy && i < count; i++) {{
		numbers[i] = (int)strtol(copy + i % (strlen(copy) + 1), NULL, {1});
		sum += numbers[i] * {0} + (numbers[i] ^ (sum >> {2}));
	}}
	qsort(numbers, count, sizeof(*numbers), compare_{0});
	printf("%d %s\\n", sum, copy ? copy : "");
	free(copy);
	return sum;
}}
"""


def make_work_disk(directory: Path) -> Path:
    """The image, made once. Raises GuestUnavailableError where git or a compiler is missing."""
    image = directory / "work.img"
    if image.exists():
        return image
    missing = [tool for tool in ("git", "gcc") if shutil.which(tool) is None]
    if missing:
        raise GuestUnavailableError(f"not installed: {', '.join(missing)}")
    stage = directory / "work"
    shutil.rmtree(stage, ignore_errors=True)
    _make_sources(stage / "src")
    _make_repository(stage / "repo")
    _copy_compiler(stage / "toolchain")
    command = ["/sbin/mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-d", str(stage), str(image), f"{DISK_MIB}M"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(stage)
    return image


def _make_sources(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(SOURCES):
        functions = range(number * FUNCTIONS, (number + 1) * FUNCTIONS)
        text = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
        text += "".join(_FUNCTION.format(each, 2 + each % 30, 1 + each % 15) for each in functions)
        (folder / f"part{number:02}.c").write_text(text)


def _make_repository(folder: Path) -> None:
    """One pack of files that do not compress, so that what git does is to read and to write."""
    folder.mkdir(parents=True)
    for number in range(BLOBS):
        (folder / f"{number:03}.bin").write_bytes(os.urandom(BLOB_BYTES))
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    fast = ["-c", "core.compression=0", "-c", "pack.window=0"]
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "."],
        ["commit", "--quiet", "-m", "Files"],
        ["gc", "--quiet", "--prune=now"],
    ):
        subprocess.run(["git", *identity, *fast, *command], cwd=folder, check=True, capture_output=True)
    for file in folder.glob("*.bin"):
        file.unlink()


def _copy_compiler(folder: Path) -> None:
    """The large parts, so that they need not come from the host's files, where each page is a round trip."""
    folder.mkdir(parents=True)
    for part in ("cc1", "as"):
        path = subprocess.run(
            ["gcc", f"-print-prog-name={part}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        found = shutil.which(path)
        if found is not None:
            shutil.copy2(found, folder / part, follow_symlinks=True)
