"""Where the attacks' programs are, and where servers and attackers of every user meet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent / "programs"


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that every user may look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="memnotify-attack-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        yield Path(name)
