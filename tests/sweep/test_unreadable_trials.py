"""Files of one trial that cannot be read: it is named and waited for, and nobody else is kept."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.builder import Cluster, build, stored
from tests.sweep.fake_slurm import FakeSlurm
from tests.tasks.forked import QuickStudy
from trialfleet.sweep.driver import Driver
from trialfleet.sweep.stopping import Jobs
from trialfleet.sweep.study.lease import LeaseLost
from trialfleet.sweep.unreadable_trials import UnreadableTrials


class Shut:
    """A trial's folder that the driver, and not the trial's job, cannot read while `closed()` is true."""

    def __init__(self, driver: Driver, number: int, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
        self.folder = driver.study.trial_dir(number).path
        self.closed: Callable[[], bool] = lambda: False
        self._living = False
        self._error = error
        live = driver.clock.sleep

        def sleep(seconds: float) -> None:
            self._living = True
            live(seconds)
            self._living = False

        driver.clock.sleep = sleep
        for name in ("open", "listdir"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *more: Any, **named: Any) -> Any:
            if not self._living and self.closed() and str(path).startswith(str(self.folder)):
                raise OSError(self._error, os.strerror(self._error), str(path))
            return real(path, *more, **named)

        return call


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_a_trial_that_cannot_be_read_keeps_no_other(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    cluster = Cluster(slurm)
    driver, heard = build(cluster, n_trials=5, n_jobs=2)
    shut = Shut(driver, 1, monkeypatch, error)

    shut.closed = lambda: cluster.jobs != [] and len(heard.results) < 4
    driver.recover()
    driver.run()
    assert list(heard.results) == [0, 2, 3, 4, 1]
    assert [trial.state.name for trial in stored(driver)] == ["COMPLETE"] * 5
    (notice,) = heard.notices
    assert os.strerror(error) in notice
    assert str(shut.folder) in notice
    assert "trial 1" in notice


def test_when_only_such_trials_are_left_the_driver_waits_and_then_leaves(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(slurm)
    driver, heard = build(cluster, n_trials=3, n_jobs=2, patience=60.0)
    shut = Shut(driver, 1, monkeypatch, errno.EIO)

    shut.closed = lambda: cluster.jobs != []
    driver.recover()
    driver.run()
    assert sorted(heard.results) == [0, 2]
    assert driver.stopping.leaves
    assert driver.stopping.request is not None
    assert str(shut.folder) in driver.stopping.request.reason
    shut.closed = lambda: False
    again, heard = build(cluster, n_trials=3, n_jobs=2)
    again.recover()
    again.run()
    assert sorted(heard.results) == [1]


def test_errors_of_other_files_are_not_the_trials(tmp_path: Path) -> None:
    said: list[str] = []
    trials = UnreadableTrials(said.append)
    for number, file in ((errno.EIO, "other"), (errno.ENOSPC, "1/trial.json")):
        with pytest.raises(OSError, match="here"), trials.look(1, tmp_path / "1", 0.0):
            raise OSError(number, "here", str(tmp_path / file))
    assert said == []
    assert 1 not in trials


def test_one_that_cannot_be_read_at_the_start_is_in_nobodys_way(quick_study: Callable[..., QuickStudy]) -> None:
    """Of a trial that has ended, and of one that has not: the command goes on with the others."""
    study = quick_study("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2")
    study.run("hydra.sweeper.n_trials=1")
    shut = """
import errno, os
from trialfleet.sweep.study import consistency
consistency.PATIENCE = 0.05
me, real = os.getpid(), os.open
def failing(path, *more, **named):
    if "trials/00000" in str(path) and os.getpid() == me:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
    return real(path, *more, **named)
os.open = failing
"""
    said = study.run("hydra.sweeper.n_trials=3", first=shut)
    assert f"{study.trial(0).trial_json}" in said
    assert "is left as it is" in said
    assert [trial.state.name for trial in study.stored()] == ["COMPLETE"] * 3


# ---------------------------------------------------------------- requests to stop


def test_a_cancelled_study_ends_its_trials_once(slurm: FakeSlurm) -> None:
    cluster = Cluster(slurm)
    driver, heard = build(cluster, n_trials=4, n_jobs=2)
    live = driver.clock.sleep

    def sleep(seconds: float) -> None:
        live(seconds)
        if any(job.state == "RUNNING" for job in cluster.jobs):
            driver.request_stop("no more", Jobs.CANCEL)

    driver.clock.sleep = sleep
    driver.run()
    assert [result.state.value for result in heard.results.values()] == ["FAIL", "FAIL"]
    assert driver.stopping.reason == "no more"
    assert sorted(cluster.cancelled()) == ["101_0", "101_1"]


def test_who_lost_the_study_cancels_nothing(slurm: FakeSlurm) -> None:
    cluster = Cluster(slurm)
    driver, _ = build(cluster, n_trials=2)
    live = driver.clock.sleep

    def lost() -> None:
        raise LeaseLost("another driver has it", "watch that one")

    def sleep(seconds: float) -> None:
        live(seconds)
        driver.store._lease_check = lost
        driver.request_stop("no more", Jobs.CANCEL)

    driver.clock.sleep = sleep
    with pytest.raises(LeaseLost):
        driver.run()
    assert cluster.cancelled() == []
    assert not driver.study.trial_dir(0).result_json.exists()
