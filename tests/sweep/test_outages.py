"""Storage and file system that fail for a while, under a driver at work: it says so, waits, and goes on."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.forked import QuickStudy

NewQuickStudy = Callable[..., QuickStudy]
N = "hydra.sweeper.n_trials="
# The study's own calls to the file system, and appends to the journal, fail from number `at` on, `times` times.
OUTAGE = """
import os, threading
from trialfleet.sweep import driver, session
from trialfleet.sweep.journal import OwnJournal

me, count = os.getpid(), 0
driver.FIRST_REST = driver.LONGEST_REST = session.START_AGAIN = 0.02

def meet(path):
    global count
    mine = os.getpid() == me and threading.current_thread() is threading.main_thread()
    if mine and "/sweeps/" in str(path):
        count += 1
        if {at} <= count < {at} + {times}:
            print(path, file=open("struck", "a"))
            raise OSError({number}, os.strerror({number}), str(path))

def failing(real):
    def call(path, *more, **named):
        meet(path)
        return real(path, *more, **named)
    return call

for name in ("replace", "link", "open", "rename", "unlink", "listdir"):
    setattr(os, name, failing(getattr(os, name)))
append = OwnJournal.append_logs
OwnJournal.append_logs = lambda self, logs: (meet(self._file_path), append(self, logs))[1]
"""


def survive(study: QuickStudy, at: int, number: int, times: int) -> bool:
    """Let a study of one trial that has ended go on to three in an outage, and judge it; whether there was one."""
    study.run(f"{N}1")
    said = study.run(f"{N}3", first=OUTAGE.format(at=at, times=times, number=number))
    study.check(3, steps=4)
    assert study.undisturbed_by_restarts(), f"at call {at}:\n{study.report()}"
    struck = (study.place / "struck").read_text() if (study.place / "struck").exists() else ""
    # What is saved on the way out is done without; whatever else was struck, the driver says why it waits.
    silent = all(word in LAST_WORDS for line in struck.split() for word in line.split("/sweeps/descent/")[1:])
    assert silent or os.strerror(number) in said, f"at call {at}:\n{struck}{said}"
    return bool(struck)


CALLS = 130
LAST_WORDS = ()


def test_errors_that_pass_are_waited_for_wherever_they_come(quick_study: NewQuickStudy) -> None:
    """At every eleventh call; the slow test below takes them all."""
    struck = [survive(quick_study(), at, errno.EIO, 2) for at in range(3, CALLS, 11)]
    assert sum(struck) > 5
