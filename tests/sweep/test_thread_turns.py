"""A driver's threads take turns often, and those of whatever comes after it as before."""

import sys
from collections.abc import Iterator

import pytest

from trialfleet.sweep import thread_turns


def seconds() -> float:
    return round(sys.getswitchinterval(), 5)  # Python keeps whole microseconds, and one less at times


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield
    sys.setswitchinterval(before)


def fail() -> None:
    with thread_turns.short():
        assert seconds() == thread_turns.SECONDS
        raise KeyError


def test_turns_are_short_within_and_as_before_after_it() -> None:
    with pytest.raises(KeyError):
        fail()
    assert seconds() == 0.005


def test_shorter_ones_stay() -> None:
    sys.setswitchinterval(0.0001)
    with thread_turns.short():
        assert seconds() == 0.0001
    assert seconds() == 0.0001
