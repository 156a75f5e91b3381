"""The log of what users can provoke is bounded, whatever they provoke."""

from __future__ import annotations

import logging

import pytest

from memnotify_cuse.transport.errorlog import MAX_KINDS, ErrorLog

log = logging.getLogger("test")


def test_each_kind_has_one_traceback_and_is_counted_after_that(caplog: pytest.LogCaptureFixture) -> None:
    errors = ErrorLog(log)
    for _ in range(1000):
        errors.unexpected("here", KeyError("a"))
        errors.unexpected("here", ValueError("b"))
        errors.unexpected("there", ValueError("c"))
    assert errors.total == 3000
    assert len([record for record in caplog.records if record.exc_info]) == 3
    assert len(caplog.records) == 3 * (1 + 3)
    assert "there: 1000 times by now, last 'c'" in caplog.text


def test_the_number_of_kinds_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    errors = ErrorLog(log)
    for number in range(5 * MAX_KINDS):
        errors.unexpected(f"request {number}", ValueError())
    assert len([record for record in caplog.records if record.exc_info]) == MAX_KINDS + 1
    assert errors.total == 5 * MAX_KINDS
