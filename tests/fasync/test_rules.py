"""Who may be signalled, and who had better not be."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.fasync.rules import effective_signal, is_handled, may_signal, would_die
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


@given(uids, uids, uids, uids)
def test_permission_is_sigio_perm(uid: int, euid: int, real: int, saved: int) -> None:
    """uid_eq(fown->euid, GLOBAL_ROOT_UID) || fown->euid or fown->uid is one of cred->suid, cred->uid."""
    expected = euid == 0 or euid in (saved, real) or uid in (saved, real)
    assert may_signal(owner(uid, euid), 4711, real_uid=real, saved_uid=saved) == expected


@given(uids, uids, uids, uids)
def test_a_user_without_root_signals_nobody_else(uid: int, euid: int, real: int, saved: int) -> None:
    if euid != ROOT and not {uid, euid} & {real, saved}:
        assert not may_signal(owner(uid, euid), ROOT, real_uid=real, saved_uid=saved)


def test_where_the_kernel_does_not_tell_who_set_the_owner_it_is_who_opened_the_file() -> None:
    assert may_signal(owner(None, None), ALICE, real_uid=ALICE, saved_uid=ALICE)
    assert not may_signal(owner(None, None), BOB, real_uid=ALICE, saved_uid=ALICE)


def test_a_file_that_root_opened_gives_nobody_root_s_right_where_the_kernel_does_not_tell() -> None:
    """Whoever root passed the file on to may have set the owner."""
    assert not may_signal(owner(None, None), ROOT, real_uid=BOB, saved_uid=BOB)


@given(numbers)
def test_the_default_action_ends_a_program(number: int) -> None:
    harmless = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    assert would_die(number, target()) == (number not in harmless)


@given(numbers, st.sampled_from(["caught", "ignored", "blocked"]))
def test_what_is_caught_ignored_or_blocked_does_no_harm(number: int, mask: str) -> None:
    assert not would_die(number, target(**{mask: bit(number)}))


@given(numbers)
def test_a_thread_that_waits_for_signals_is_taken_to_wait_for_this_one(number: int) -> None:
    assert not would_die(number, target(), waits_for_signals=True)


@given(numbers, numbers)
def test_another_signal_s_disposition_does_not_help(number: int, other: int) -> None:
    if number != other:
        masks = {"caught": bit(other), "ignored": bit(other), "blocked": bit(other), "pending": bit(number)}
        assert would_die(number, target(**masks)) == would_die(number, target())
        assert is_handled(number, target(**masks)) == is_handled(number, target())


def test_what_a_c_library_blocks_for_a_moment_does_not_count() -> None:
    """During fork or posix_spawn all is blocked, its own two signals as well, which nobody else can block."""
    everything = (1 << 64) - 1
    assert would_die(SIGIO, target(blocked=everything))
    assert not would_die(SIGIO, target(blocked=everything & ~(bit(32) | bit(33))))


@given(numbers, st.sampled_from(["caught", "ignored"]))
def test_a_handler_counts_for_all_threads(number: int, mask: str) -> None:
    assert is_handled(number, target(**{mask: bit(number)}))


@given(numbers)
def test_what_one_thread_blocks_or_has_pending_does_not(number: int) -> None:
    harmless = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    assert is_handled(number, target(blocked=bit(number), pending=bit(number))) == (number in harmless)
