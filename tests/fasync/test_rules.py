"""Who may be signalled, and who had better not be."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.fasync.rules import effective_signal, may_signal, would_die
from memnotify_cuse.kernel.fileowner import FileOwner, OwnerKind
from memnotify_cuse.kernel.process import PendingSignals, ThreadStatus

SIGIO = int(signal.SIGIO)
REALTIME = int(signal.SIGRTMIN) + 1
ALICE, BOB, ROOT = 1001, 1002, 0

numbers = st.integers(1, 64)
uids = st.sampled_from([ROOT, ALICE, BOB, 1003])


def owner(uid: int | None = ALICE, euid: int | None = ALICE, number: int = 0) -> FileOwner:
    return FileOwner(OwnerKind.PROCESS, 100, number, uid, euid)


def target(real: int = ALICE, effective: int = ALICE, saved: int = ALICE, **masks: int) -> ThreadStatus:
    signals = PendingSignals(**{"pending": 0, "blocked": 0, "ignored": 0, "caught": 0, **masks})
    return ThreadStatus(100, real, effective, saved, signals)


def bit(number: int) -> int:
    return 1 << (number - 1)


@pytest.mark.parametrize(("number", "effective"), [(0, SIGIO), (SIGIO, SIGIO), (REALTIME, REALTIME), (10, 10)])
def test_the_signal_is_sigio_unless_f_setsig_says_otherwise(number: int, effective: int) -> None:
    assert effective_signal(owner(number=number)) == effective


@given(uids, uids, uids, uids, uids)
def test_permission_is_sigio_perm(uid: int, euid: int, real: int, effective: int, saved: int) -> None:
    """uid_eq(fown->euid, GLOBAL_ROOT_UID) || fown->euid or fown->uid is one of cred->suid, cred->uid."""
    expected = euid == 0 or euid in (saved, real) or uid in (saved, real)
    assert may_signal(owner(uid, euid), 4711, target(real, effective, saved)) == expected


@given(uids, uids, uids, uids, uids)
def test_a_user_without_root_signals_nobody_else(uid: int, euid: int, real: int, effective: int, saved: int) -> None:
    if euid != ROOT and not {uid, euid} & {real, saved}:
        assert not may_signal(owner(uid, euid), ROOT, target(real, effective, saved))


def test_where_the_kernel_does_not_tell_who_set_the_owner_it_is_who_opened_the_file() -> None:
    assert may_signal(owner(None, None), ALICE, target())
    assert not may_signal(owner(None, None), BOB, target())


def test_a_file_that_root_opened_gives_nobody_root_s_right_where_the_kernel_does_not_tell() -> None:
    """Whoever root passed the file on to may have set the owner."""
    assert not may_signal(owner(None, None), ROOT, target(BOB, BOB, BOB))


@given(numbers)
def test_the_default_action_ends_a_program(number: int) -> None:
    harmless = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    assert would_die(number, target()) == (number not in harmless)


@given(numbers, st.sampled_from(["caught", "ignored", "blocked"]))
def test_what_is_caught_ignored_or_blocked_does_no_harm(number: int, mask: str) -> None:
    assert not would_die(number, target(**{mask: bit(number)}))


@given(numbers)
def test_what_is_waited_for_does_no_harm(number: int) -> None:
    assert not would_die(number, target(), bit(number))


@given(numbers, numbers)
def test_another_signal_s_disposition_does_not_help(number: int, other: int) -> None:
    if number != other:
        masks = {"caught": bit(other), "ignored": bit(other), "blocked": bit(other), "pending": bit(number)}
        assert would_die(number, target(**masks), bit(other)) == would_die(number, target())
