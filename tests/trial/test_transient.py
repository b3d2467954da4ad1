"""Errors of a file system that pass by themselves: what they are, and waiting for them."""

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from trialfleet.trial import out_of_memory, transient
from trialfleet.trial.transient import FIRST_PAUSE, LONGEST_PAUSE, is_full, passes, patiently


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(transient, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=clock.sleep))
    return clock


def failing(times: int, number: int = errno.EIO) -> Callable[[], str]:
    """A call that works after so many failures."""
    left = [times]

    def call() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, os.strerror(number))
        return "done"

    return call


def test_what_passes_is_tried_again_with_growing_pauses(clock: Clock) -> None:
    assert patiently(failing(10), 60.0) == "done"
    assert clock.pauses == [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(10)]


def test_what_does_not_pass_is_raised_when_patience_is_over(clock: Clock) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        patiently(failing(10**6), 60.0)
    assert 60.0 - LONGEST_PAUSE <= clock.now <= 60.0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ENOENT])
def test_other_errors_are_raised_at_once(clock: Clock, number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)):
        patiently(failing(1, number), 60.0)
    assert clock.pauses == []


def test_who_has_no_time_to_wait_does_not(clock: Clock) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        patiently(failing(1), 60.0, give_up=lambda: True)
    assert clock.pauses == []


class Silent(Exception):
    """One whose message cannot be shown."""

    def __str__(self) -> str:
        raise KeyError(1)


def caused(by: BaseException, error: BaseException) -> BaseException:
    """An exception that another one led to."""
    error.__cause__ = by
    return error


STALE = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
FULL = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
LOOP = ValueError("each caused by the other")
LOOP.__cause__ = caused(LOOP, ValueError())
STORY = [
    (STALE, True, False, None),
    (caused(STALE, ValueError("cannot save")), True, False, None),
    (RuntimeError(f"zarr: {os.strerror(errno.EIO)}"), True, False, None),  # a library that passes on the words alone
    (caused(STALE, Silent()), True, False, None),
    (FULL, False, True, None),
    (caused(FULL, Silent()), False, True, None),
    (Silent(), False, False, None),
    (LOOP, False, False, None),
    (OSError(errno.ENOENT, "RESOURCE_EXHAUSTED memory"), False, False, None),
    (MemoryError(), False, False, out_of_memory.HOST),
    (caused(MemoryError(), ValueError()), False, False, out_of_memory.HOST),
    (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), False, False, out_of_memory.HOST),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), False, False, out_of_memory.DEVICE),
    (RuntimeError("RESOURCE_EXHAUSTED: too many requests"), False, False, None),
    (caused(RuntimeError("CUDA out of memory."), Silent()), False, False, out_of_memory.DEVICE),
]


@pytest.mark.parametrize(("error", "passing", "full", "out_of"), STORY)
def test_what_an_error_is_told_by_itself_or_by_what_led_to_it(
    error: BaseException, passing: bool, full: bool, out_of: str | None
) -> None:
    assert (passes(error), is_full(error), out_of_memory.ran_out(error)) == (passing, full, out_of)
