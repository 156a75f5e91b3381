"""/proc/self/smaps, with names as files can have them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memnotify_cuse.kernel.mappings import clean_file_mappings

MAPPING = """\
7f0c5a400000-7f0c5a426000 r--p 00000000 fd:00 1311   {}
Size:                152 kB
Anonymous:             {} kB
"""


@pytest.mark.parametrize("name", ["/lib/a", "/a\rb", "/a\x1cb", "/a\u0085b", "/a\u2028\u2028b", "/a b"])
def test_what_looks_like_a_line_end_in_a_name_is_none(name: str) -> None:
    assert clean_file_mappings(MAPPING.format(name, 0)) == [(0x7F0C5A400000, 0x26000)]
    assert clean_file_mappings(MAPPING.format(name, 4)) == []


DROP = """
import mmap, sys
from memnotify_cuse.kernel.mappings import drop_clean_file_pages
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
    drop_clean_file_pages()
    print(mapped[0:4].decode())
"""


def test_a_program_with_such_a_file_mapped_lets_go_of_its_pages(tmp_path: Path) -> None:
    file = tmp_path / "a\r\x0c\u2028\u0085"
    file.write_text("here" * 4096)
    done = subprocess.run([sys.executable, "-c", DROP, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "here\n"
