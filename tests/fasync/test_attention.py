"""The page in which a helper notes whom it touches."""

from __future__ import annotations

import os
import signal

from memnotify_cuse.fasync.attention import OURSELVES, UNKNOWN_UID, Attention, make_page
from memnotify_cuse.keeper.children import fork
from tests.support.mounted import LIMIT_S, wait_until


def test_what_a_killed_helper_noted_last_is_still_there() -> None:
    page = make_page()
    ours = Attention(page)
    assert ours.read()[:2] == (0, 0)

    def note_and_hang() -> int:
        theirs = Attention(page)
        theirs.note(4711, UNKNOWN_UID)
        theirs.note(4711, 1001)
        signal.pause()
        return 0

    child = fork("memnotify-test", note_and_hang)
    os.close(page)
    try:
        wait_until(lambda: ours.read()[:2] == (4711, 1001), "what it noted")
    finally:
        child.kill()
        assert child.reap(LIMIT_S)
    assert ours.read()[:2] == (4711, 1001)
    ours.close()


def test_each_step_with_the_same_process_is_another() -> None:
    """A helper that goes on, however slowly the machine lets it, is told from one that hangs."""
    fd = make_page()
    ours, helpers = Attention(fd), Attention(fd)
    os.close(fd)
    helpers.note(4711, 1001)
    before = ours.read()
    helpers.step()
    assert ours.read() != before
    assert ours.read()[:2] == before[:2]
    for page in (ours, helpers):
        page.close()


def test_while_our_own_server_is_asked_no_client_is_touched() -> None:
    fd = make_page()
    page = Attention(fd)
    os.close(fd)
    page.note(4711, 1001)
    with page.on_ourselves():
        assert page.read().pid == OURSELVES
    assert page.read()[:2] == (4711, 1001)
    page.close()
