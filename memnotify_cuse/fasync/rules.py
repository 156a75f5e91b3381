"""Who may be signalled, and who had better not be. Pure."""

from __future__ import annotations

import signal
from typing import Final

from memnotify_cuse.kernel.fileowner import FileOwner
from memnotify_cuse.kernel.process import ThreadStatus

_LIBRARY_S_OWN: Final = 1 << (32 - 1) | 1 << (33 - 1)
_IGNORED_BY_DEFAULT: Final = frozenset({signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH})


def effective_signal(owner: FileOwner) -> int:
    """The signal of F_SETSIG, or SIGIO."""
    return owner.signal or signal.SIGIO


def may_signal(owner: FileOwner, opener_uid: int, *, real_uid: int, saved_uid: int) -> bool:
    """Whether who set the owner may have a process of these users signalled: sigio_perm() of fs/fcntl.c.

    Where the kernel does not tell who that was, it is taken to be who opened the file.
    """
    allowed = (saved_uid, real_uid)
    if owner.uid is None or owner.euid is None:
        # Root may have passed the file on to a program that then set the owner: root's right is not passed on.
        return opener_uid in allowed
    return owner.euid == 0 or owner.euid in allowed or owner.uid in allowed


def is_handled(signal_number: int, target: ThreadStatus) -> bool:
    """Whether no thread of the process of `target` dies of the signal: it is caught, ignored, or harmless."""
    if signal_number in _IGNORED_BY_DEFAULT:
        return True
    return bool((target.signals.caught | target.signals.ignored) & 1 << (signal_number - 1))


def would_die(signal_number: int, target: ThreadStatus, *, waits_for_signals: bool = False) -> bool:
    """Whether the signal would end `target`: not caught, ignored or blocked, and its default is to end.

    Many a program becomes owner before it installs its handler, or never does. A thread that waits in sigwaitinfo is
    taken to wait for this signal among others: which ones stands in its memory only, which is not read.
    """
    if waits_for_signals:
        return False
    if signal_number in _IGNORED_BY_DEFAULT:
        return False
    blocked = target.signals.blocked
    if blocked & _LIBRARY_S_OWN == _LIBRARY_S_OWN:
        # Only a C library blocks these, with all others, and for a moment: during fork or posix_spawn.
        blocked = 0
    taken_care_of = target.signals.caught | target.signals.ignored | blocked
    return not taken_care_of & 1 << (signal_number - 1)
