"""The first steps of the server's process: what it imports while it is being set up, and what it waits for."""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memnotify_cuse.keeper.channel import Channel

EXIT_ERROR, EXIT_OTHER_STATE = 2, 4


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
    from memnotify_cuse.keeper.statefile import StateError
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
    except StateError as error:
        say(f"memnotify: {error}")
        return EXIT_OTHER_STATE


def probe(state: str) -> int:
    """Whether this code starts, and can go on with a state file that begins with the bytes `state`: 0 if so."""
    from memnotify_cuse.lean import import_lean

    import_lean()
    from memnotify_cuse import daemon  # noqa: F401
    from memnotify_cuse.cli import main, serve  # noqa: F401
    from memnotify_cuse.fasync import forker  # noqa: F401
    from memnotify_cuse.keeper import keeper, manager, remount, setup, traces  # noqa: F401
    from memnotify_cuse.keeper.statefile import StateError, check_header

    try:
        check_header(bytes.fromhex(state))
    except (StateError, ValueError):
        return EXIT_OTHER_STATE
    return 0
