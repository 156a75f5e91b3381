"""The first steps of the server's process: what it imports while it is being set up, and what it waits for."""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memnotify_cuse.keeper.channel import Channel

EXIT_ERROR = 2


def serve(channel: Channel, keeper_pid: int) -> int:
    """Become the server; the exit code. What keeps it from starting is one line on stderr."""
    from memnotify_cuse.kernel.capabilities import die_with_parent
    from memnotify_cuse.lean import import_lean

    # Not yet as the server does, which changes its user: but a start must not outlive its keeper either.
    die_with_parent(keeper_pid, signal.SIGKILL)
    import_lean()
    from memnotify_cuse import daemon
    from memnotify_cuse.config import ServeError
    from memnotify_cuse.keeper.handover import take_over
    from memnotify_cuse.logstream import log_to_stderr, say

    given = take_over(channel)
    if given is None:
        # Nothing was set up; why is for the setting up to say.
        return 0
    log_to_stderr(given.log_level)
    try:
        return daemon.serve(given, channel, keeper_pid)
    except ServeError as error:
        say(f"memnotify: {error}")
        return EXIT_ERROR
