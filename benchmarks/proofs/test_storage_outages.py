"""A file system that fails for a while, at many of a driver's or a job's calls: it says so, waits, and goes on."""

import errno

import pytest

from tests.sweep.test_storage_outages import (
    CALLS,
    FOR_EVER,
    JOBS_CALLS,
    N,
    NewQuickStudy,
    start_on_a_full_disk,
    survive,
    survive_as_job,
)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("first", range(1, 5))
def test_errors_that_pass_are_waited_for_at_each_call(finished_study: NewQuickStudy, number: int, first: int) -> None:
    calls = range(first, CALLS, 4)
    assert survive(finished_study(f"{N}1"), [(at, number) for at in calls]) > len(calls) * 2 / 5


@pytest.mark.parametrize("times", [2, FOR_EVER])
def test_errors_of_a_jobs_file_system_fail_no_trial(quick_study: NewQuickStudy, times: int) -> None:
    """At each of its calls: those that pass, and those that last as long as the run does."""
    assert sum(survive_as_job(quick_study(), at, times) for at in range(1, JOBS_CALLS)) >= 10


@pytest.mark.parametrize("at", range(1, 8))
def test_a_disk_that_is_full_at_the_start_is_said_in_a_few_words(quick_study: NewQuickStudy, at: int) -> None:
    start_on_a_full_disk(quick_study(f"{N}1"), [at])
