"""The command's first steps: ``memnotify serve`` forks its keeper before anything is imported that it does not need."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memnotify_cuse.keeper.channel import Channel


def main() -> int:
    """Run the process's own command line and return its exit code."""
    argv = sys.argv[1:]
    if argv[:1] != ["serve"]:
        from memnotify_cuse.cli.main import main as run_command

        return run_command(argv)
    from memnotify_cuse.keeper.keeper import keep

    def serve(channel: Channel, keeper_pid: int) -> int:
        from memnotify_cuse.cli.main import build_parser
        from memnotify_cuse.cli.serve import serve_under_keeper

        return serve_under_keeper(build_parser(["serve"]).parse_args(argv), channel, keeper_pid)

    return keep(serve)
