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
    from memnotify_cuse.cli.streams import complain, have_standard_streams
    from memnotify_cuse.keeper.keeper import EXIT_ERROR, keep
    from memnotify_cuse.keeper.rights import raise_limits, too_few_descriptors
    from memnotify_cuse.keeper.start import probe, serve

    have_standard_streams()
    if argv[1:2] == ["--probe"]:
        # A keeper that runs asks whether it can become this code.
        return probe(argv[2])
    # The keeper itself needs some, to say what is wrong.
    raise_limits()
    refusal = too_few_descriptors()
    if refusal is not None:
        complain(f"memnotify: {refusal}")
        return EXIT_ERROR

    def set_up(channel: Channel, keeper_pid: int) -> int:
        from memnotify_cuse.cli import serve as command
        from memnotify_cuse.cli.main import build_parser

        return command.set_up(build_parser(["serve"]).parse_args(argv), channel, keeper_pid)

    return keep(set_up, serve)
