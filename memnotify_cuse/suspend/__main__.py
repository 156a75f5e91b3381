"""``python -m memnotify_cuse.suspend freeze|thaw``: run by packaging/memnotify-suspend.service around each sleep."""

from __future__ import annotations

import os
import sys

from memnotify_cuse.suspend.freezer import FreezeError, Freezer

USAGE = "usage: python -m memnotify_cuse.suspend freeze|thaw"
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def main(arguments: list[str]) -> int:
    """Freeze the programs that have the device open, or thaw them; 0, 1 if that failed, 2 for wrong usage."""
    if arguments not in (["freeze"], ["thaw"]):
        print(USAGE, file=sys.stderr)
        return EXIT_USAGE
    if os.geteuid() != 0:
        print("memnotify: freezing other users' programs needs root", file=sys.stderr)
        return EXIT_USAGE
    freezer = Freezer(lambda line: print(f"memnotify: {line}", file=sys.stderr))
    try:
        if arguments == ["thaw"]:
            freezer.thaw()
            return EXIT_OK
        print(f"memnotify: programs that have the device open, frozen: {freezer.freeze()}")
    except (FreezeError, OSError) as error:
        # Nothing stays frozen of what was: the machine may never go to sleep now, and never call again.
        freezer.thaw()
        print(f"memnotify: programs are not frozen: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
