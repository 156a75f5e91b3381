"""``memnotify``: the one command, with a module for each of its subcommands.

Each subcommand module offers ``add_parser(subparsers)``, which describes its arguments, and
``run(args) -> int``, which returns the exit code. Only the module of the subcommand that was named is
imported, and a module keeps its heavy imports (psutil, pyfuse3, trio) inside ``run``: ``memnotify serve``
stays resident for the life of the machine and must not carry what only ``status`` needs.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from memnotify_cuse import __version__
from memnotify_cuse.cli.common import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, CommandError
from memnotify_cuse.cli.streams import complain, have_standard_streams, silence

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

SUBCOMMANDS = ("serve", "reload", "status", "wait", "simulate", "record", "explain", "doctor")

# A full disk; a terminal that has closed; a descriptor that is not open for writing.
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

_DESCRIPTION = "Be told before memory runs out: serve /dev/mem_notify to programs, and look at it."

_EPILOG = """\
examples:
  memnotify doctor                        what this kernel offers, what will be used, and why
  sudo memnotify serve                    create /dev/mem_notify and serve it until stopped
  memnotify wait --timeout 60             wait for one notification
  sudo memnotify simulate --for 2         tell every program, as if memory were tight
  memnotify status                        the state of every zone, and who watches
  sudo memnotify record trouble.jsonl.gz  write down what the scanner sees, for serve --replay
  memnotify explain trouble.jsonl.gz      by which rule a zone came under pressure, or what was missing

exit codes: 0 as asked; 1 a negative answer (each command's --help says which);
2 an error, told in one line on stderr; 130 interrupted with Ctrl-C.
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as every other error of the command is."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"memnotify: {message} (see {self.prog} --help)\n")


def build_parser(names: Sequence[str] = SUBCOMMANDS) -> argparse.ArgumentParser:
    """Return the parser for the subcommands in ``names``, whose modules are imported."""
    parser = _Parser(
        prog="memnotify",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"memnotify {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in names:
        module = importlib.import_module(f"memnotify_cuse.cli.{name}")
        before = set(subparsers.choices)
        module.add_parser(subparsers)
        for added in set(subparsers.choices) - before:
            subparsers.choices[added].set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return its exit code."""
    have_standard_streams()
    code = EXIT_ERROR
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except CommandError as error:
        complain(f"memnotify: {error}")
    except BrokenPipeError:
        # The reader has read enough.
        silence(1)
        return EXIT_OK
    except OSError as error:
        if error.filename is not None or error.errno not in _CANNOT_WRITE:
            raise
        silence(1)
        complain(f"memnotify: cannot write to stdout: {error.strerror}")
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _run(argv: list[str]) -> int:
    names = argv[:1] if argv and argv[0] in SUBCOMMANDS else SUBCOMMANDS
    try:
        args = build_parser(names).parse_args(argv)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else EXIT_ERROR
    code: int = args.run(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
