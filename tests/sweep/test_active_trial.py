"""What the driver sees of a trial when it looks."""

import os
import time
from pathlib import Path

import pytest

from tests.sweep.fake_slurm import FakeSlurm
from trialfleet.sweep.active_trial import LISTED_EVERY, ActiveTrial
from trialfleet.sweep.fleets.slurm import LAUNCHER, SlurmFleet
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial import metrics, records
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.identity import Identity
from trialfleet.trial.result import Result, TrialState
from trialfleet.trial.submission import JobRef, TrialRecord
from trialfleet.trial.worker_folder import WorkerFolder

OURS = Identity("study", records.digest({}))


@pytest.fixture
def trial(tmp_path: Path) -> ActiveTrial:
    """Trial 0, as job 7 of Slurm, which has claimed it."""
    folder = tmp_path / "00000"
    claim(folder, restart=0)
    record = TrialRecord(0, [], {}, submission="uuid", launcher=LAUNCHER, job=JobRef(LAUNCHER, "7"))
    return ActiveTrial(0, record, TrialDir(folder), ["study"], 1, tmp_path)


def claim(folder: Path, restart: int) -> None:
    """The job starts, or starts again, and reports its restart count."""
    run = TrialDir(folder).run_dir(TrialDir(folder).claim(1, f"{LAUNCHER}:7", restart, OURS).label)
    writer = metrics.Writer(run / "metrics.jsonl")
    writer.append(1, {"restart": restart})
    writer.close()


def look(trial: ActiveTrial, slurm: FakeSlurm, fleet: SlurmFleet, state: str) -> list[dict[str, float]]:
    """Ask Slurm, which says that the job is in `state`, and look: what is newly reported."""
    slurm.queue(f"7 {state}")
    assert fleet.refresh()
    trial.see({LAUNCHER: fleet})
    return [dict(line.values) for line in trial.new_lines()]


FIRST, SECOND = {"restart": 0.0}, {"restart": 1.0}


def test_a_restart_that_slurm_tells_of_is_seen_at_once(trial: ActiveTrial, slurm: FakeSlurm) -> None:
    fleet = slurm.fleet()
    assert look(trial, slurm, fleet, "RUNNING") == [FIRST]
    assert look(trial, slurm, fleet, "PENDING BeginTime") == []
    claim(trial.dir.path, restart=1)
    assert look(trial, slurm, fleet, "RUNNING") == [SECOND]


def test_a_restart_that_slurm_was_not_asked_about_is_seen_a_few_looks_late(
    trial: ActiveTrial, slurm: FakeSlurm
) -> None:
    fleet = slurm.fleet()
    assert look(trial, slurm, fleet, "RUNNING") == [FIRST]
    claim(trial.dir.path, restart=1)
    seen = [look(trial, slurm, fleet, "RUNNING") for _ in range(LISTED_EVERY)]
    assert seen == [[]] * (LISTED_EVERY - 1) + [[SECOND]]


def test_a_run_whose_claim_was_deleted_is_followed(trial: ActiveTrial, slurm: FakeSlurm) -> None:
    (trial.dir.run_dir("1.0") / "claim").unlink()
    assert look(trial, slurm, slurm.fleet(), "RUNNING") == [FIRST]
    assert trial.started is not None


def test_a_result_comes_with_the_run_that_brought_it(trial: ActiveTrial, slurm: FakeSlurm) -> None:
    fleet = slurm.fleet()
    assert look(trial, slurm, fleet, "RUNNING") == [FIRST]
    claim(trial.dir.path, restart=1)
    trial.dir.commit(Result(TrialState.COMPLETE, [1.0], None, {}, "1.1", {}), Identity(None, None))
    ended = trial.see({LAUNCHER: fleet}).result
    assert ended is not None
    assert ended.run == "1.1"
    assert [line.values for line in trial.new_lines()] == [{"restart": 1.0}]


# ---------------------------------------------------------------- durations


def test_a_step_of_the_time_of_day_is_no_time_that_passed(
    trial: ActiveTrial, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that brought no result counts what the driver saw, on its own clock; of that which did, its own word."""
    fleet, today = slurm.fleet(), time.time
    for second, step in enumerate([0, 4 * 3600, 0, -4 * 3600]):
        monkeypatch.setattr(time, "time", lambda step=step: today() + step)
        os.utime(trial.dir.run_dir("1.0") / "claim", (today() + step, today() + step))
        look(trial, slurm, fleet, "RUNNING")
        trial.pass_time(float(second))
    assert trial.seconds() == 3.0
    claim(trial.dir.path, restart=1)
    result = Result(TrialState.COMPLETE, [1.0], None, {"total": 20.0}, "1.1", {})
    assert trial.seconds(result) == 23.0


def test_time_that_nobody_saw_does_not_count(trial: ActiveTrial, slurm: FakeSlurm) -> None:
    """The driver was suspended, or the job was in line, from one look to the next."""
    fleet = slurm.fleet()
    for now, state in [(0.0, "RUNNING"), (5.0, "PENDING BeginTime"), (100.0, "RUNNING"), (101.0, "RUNNING")]:
        look(trial, slurm, fleet, state)
        trial.pass_time(now)
    assert trial.seconds() == 6.0


def test_a_clock_that_goes_back_takes_nothing_away(trial: ActiveTrial, slurm: FakeSlurm) -> None:
    fleet = slurm.fleet()
    for now in (10.0, 12.0, 4.0, 5.0):
        look(trial, slurm, fleet, "RUNNING")
        trial.pass_time(now)
    assert trial.seconds() == 3.0


def test_a_run_is_over_when_its_job_waits_for_another_trial(trial: ActiveTrial, slurm: FakeSlurm) -> None:
    """Though the job goes on: what the run left may have been lost."""
    study = trial.dir.path.parent
    trial.submissions = study / ".submitit"
    fleet = slurm.fleet()
    look(trial, slurm, fleet, "RUNNING")
    assert trial.phase is JobState.RUNNING
    WorkerFolder(study, "uuid.0").wait_for(1, frozenset())
    look(trial, slurm, fleet, "RUNNING")
    assert trial.phase is JobState.OVER
