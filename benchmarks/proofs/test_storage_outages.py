"""A file system that fails for a while, at many of a driver's calls: it says so, waits, and goes on."""

import errno

import pytest

from tests.sweep.test_storage_outages import CALLS, NewQuickStudy, survive


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("first", range(1, 5))
def test_errors_that_pass_are_waited_for_at_each_call(quick_study: NewQuickStudy, number: int, first: int) -> None:
    calls = range(first, CALLS, 4)
    assert survive(quick_study(), calls, number) > len(calls) * 2 / 5
