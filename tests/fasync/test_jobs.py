"""The messages between server and helpers: what is sent arrives, and anything else is an error."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify_cuse.fasync.jobs import (
    FANOUT_MEMBERS,
    MAX_JOBS,
    MESSAGE_BYTES,
    SEARCH_DESCRIPTORS,
    Job,
    JobError,
    Kind,
    Report,
    Said,
    Status,
    decode_jobs,
    decode_reports,
    encode_job,
    encode_report,
)

signed = st.integers(0, 2**31 - 1)
unsigned = st.integers(0, 2**32 - 1)
numbers = st.integers(0, 2**64 - 1)

jobs = st.builds(
    Job,
    kind=st.sampled_from(Kind),
    id=unsigned,
    number=numbers,
    pid=signed,
    descriptor=signed,
    count=signed,
    opener_uid=unsigned,
    after_pid=signed,
    spare=st.booleans(),
    elsewhere=st.booleans(),
    mark=numbers,
    identity=numbers,
    signal=st.integers(0, 64),
    owner_uid=unsigned,
    owner_euid=unsigned,
)
reports = st.builds(
    Report,
    said=st.sampled_from(Said),
    id=unsigned,
    status=st.sampled_from(Status),
    owned=st.booleans(),
    number=numbers,
    pid=signed,
    descriptor=signed,
    uid=unsigned,
    signalled=signed,
    owner_pid=signed,
    mark=numbers,
    identity=numbers,
    signal=st.integers(0, 64),
    owner_uid=unsigned,
    owner_euid=unsigned,
)
JOB_BYTES = len(encode_job(Job(Kind.SEARCH)))
REPORT_BYTES = len(encode_report(Report(Said.END, 0)))


@given(st.lists(jobs, max_size=MAX_JOBS))
def test_jobs_arrive_as_they_were_sent(sent: list[Job]) -> None:
    assert list(decode_jobs(b"".join(map(encode_job, sent)))) == sent


@given(st.lists(reports, max_size=MAX_JOBS))
def test_reports_arrive_as_they_were_sent(sent: list[Report]) -> None:
    assert list(decode_reports(b"".join(map(encode_report, sent)))) == sent


@given(st.binary(max_size=4 * JOB_BYTES))
def test_any_bytes_are_jobs_or_an_error(message: bytes) -> None:
    try:
        found = list(decode_jobs(message))
    except JobError:
        return
    assert len(found) * JOB_BYTES == len(message)
    for job in found:
        assert min(job.pid, job.descriptor, job.count, job.after_pid) >= 0


@given(jobs, st.integers(0, JOB_BYTES - 1), st.integers(0, 255))
def test_a_job_with_a_wrong_byte_is_a_job_or_an_error(job: Job, place: int, byte: int) -> None:
    message = bytearray(encode_job(job))
    message[place] = byte
    with contextlib.suppress(JobError):
        assert len(list(decode_jobs(bytes(message)))) == 1


@given(st.binary(max_size=4 * REPORT_BYTES))
def test_any_bytes_are_reports_or_an_error(message: bytes) -> None:
    with contextlib.suppress(JobError):
        assert len(list(decode_reports(message))) * REPORT_BYTES == len(message)


@given(jobs, st.integers(1, JOB_BYTES - 1))
def test_half_a_job_is_an_error(job: Job, length: int) -> None:
    with pytest.raises(JobError, match="not whole jobs"):
        list(decode_jobs(encode_job(job) * 2 + encode_job(job)[:length]))


@given(reports, st.integers(1, REPORT_BYTES - 1))
def test_half_a_report_is_an_error(report: Report, length: int) -> None:
    with pytest.raises(JobError, match="not whole reports"):
        list(decode_reports(encode_report(report)[:length]))


@pytest.mark.parametrize(
    "job",
    [
        Job(Kind.SIGNAL, pid=-1),
        Job(Kind.SIGNAL, descriptor=-1),
        Job(Kind.SIGNAL, count=-1),
        Job(Kind.SIGNAL, after_pid=-1),
    ],
    ids=["pid", "descriptor", "count", "after_pid"],
)
def test_a_number_below_zero_is_an_error(job: Job) -> None:
    """A helper would signal a group, or everybody."""
    with pytest.raises(JobError, match="below 0"):
        list(decode_jobs(encode_job(job)))


def test_a_kind_that_is_not_known_is_an_error() -> None:
    with pytest.raises(JobError, match="of kind 77"):
        list(decode_jobs(bytes([77]) + encode_job(Job(Kind.SEARCH))[1:]))
    with pytest.raises(JobError, match="of kind 77"):
        list(decode_reports(bytes([77]) + encode_report(Report(Said.END, 1))[1:]))
    with pytest.raises(JobError, match="status 77"):
        list(decode_reports(bytes([Said.END, 77]) + encode_report(Report(Said.END, 1))[2:]))


def test_a_message_of_all_jobs_and_one_of_who_is_left_out_fit() -> None:
    """A report is sent by itself, so only jobs can be too many for a message."""
    assert 2 * MAX_JOBS * JOB_BYTES <= MESSAGE_BYTES
    assert max(FANOUT_MEMBERS, SEARCH_DESCRIPTORS) * REPORT_BYTES <= MESSAGE_BYTES
