"""Who may be signalled, and who had better not be. Pure."""

from __future__ import annotations

import signal
from typing import Final

from memnotify_cuse.kernel.fileowner import FileOwner
from memnotify_cuse.kernel.process import ThreadStatus

_IGNORED_BY_DEFAULT: Final = frozenset({signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH})


def effective_signal(owner: FileOwner) -> int:
    """The signal of F_SETSIG, or SIGIO."""
    return owner.signal or signal.SIGIO


def may_signal(owner: FileOwner, opener_uid: int, target: ThreadStatus) -> bool:
    """Whether who set the owner may have `target` signalled: sigio_perm() of fs/fcntl.c.

    Where the kernel does not tell who that was, it is taken to be who opened the file.
    """
    uid = opener_uid if owner.uid is None else owner.uid
    euid = opener_uid if owner.euid is None else owner.euid
    allowed = (target.saved_uid, target.real_uid)
    return euid == 0 or euid in allowed or uid in allowed


def would_die(signal_number: int, target: ThreadStatus, awaited: int = 0) -> bool:
    """Whether the signal would end `target`: not caught, ignored, blocked or waited for, and its default is to end.

    Many a program becomes owner before it installs its handler, or never does. `awaited` is the mask of the signals
    that it waits for in sigwaitinfo.
    """
    if signal_number in _IGNORED_BY_DEFAULT:
        return False
    taken_care_of = target.signals.caught | target.signals.ignored | target.signals.blocked | awaited
    return not taken_care_of & 1 << (signal_number - 1)
