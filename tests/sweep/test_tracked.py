"""What the driver sees of a trial when it looks."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from trialfleet.sweep.fleet import Fleet
from trialfleet.sweep.reconcile import Job
from trialfleet.sweep.tracked import LISTED_EVERY, Tracked
from trialfleet.tracking import metrics
from trialfleet.tracking.submission import JobRef, TrialRecord
from trialfleet.tracking.trial_dir import Result, TrialDir, TrialState


class Said(Fleet):
    """A launcher that says of each job what it was told to say."""

    limit = 1

    def __init__(self) -> None:
        self.says = Job.RUNNING

    def submit(self, submission: Path, uuid: str, count: int) -> list[JobRef]:
        raise NotImplementedError

    def refresh(self) -> bool:
        return True

    def phase(self, job: JobRef) -> Job:
        return self.says

    def find(self, uuid: str, index: int) -> JobRef | None:
        return None

    def cancel(self, jobs: Sequence[JobRef]) -> None:
        raise NotImplementedError


@pytest.fixture
def trial(tmp_path: Path) -> Tracked:
    """Trial 0, as job 7 of Slurm, which has claimed it."""
    record = TrialRecord(0, [], {}, submission="uuid", launcher="slurm", job=JobRef("slurm", "7"))
    claim(tmp_path, restart=0)
    return Tracked(0, record, TrialDir(tmp_path))


def claim(directory: Path, restart: int) -> None:
    """The job starts, or starts again, and reports its restart count."""
    run = TrialDir(directory).run_dir(TrialDir(directory).claim(1, "slurm:7", restart).label)
    writer = metrics.Writer(run / "metrics.jsonl")
    writer.append(1, {"restart": restart})
    writer.close()


def looks_until_restarted(trial: Tracked, fleet: Said) -> int:
    for looks in range(1, 100):
        trial.see({"slurm": fleet})
        if any(label == "1.1" for label, _ in trial.new_lines()):
            return looks
    raise AssertionError("the second run was never seen")


def test_a_restart_that_the_launcher_tells_of_is_seen_at_once(trial: Tracked) -> None:
    fleet = Said()
    trial.see({"slurm": fleet})
    fleet.says = Job.PENDING
    trial.see({"slurm": fleet})
    claim(trial.dir.path, restart=1)
    fleet.says = Job.RUNNING
    assert looks_until_restarted(trial, fleet) == 1


def test_a_restart_between_two_words_of_the_launcher_is_seen_a_few_looks_late(trial: Tracked) -> None:
    fleet = Said()
    trial.see({"slurm": fleet})
    claim(trial.dir.path, restart=1)
    assert looks_until_restarted(trial, fleet) <= LISTED_EVERY


def test_a_result_comes_with_the_run_that_brought_it(trial: Tracked) -> None:
    fleet = Said()
    trial.see({"slurm": fleet})
    assert [label for label, _ in trial.new_lines()] == ["1.0"]
    claim(trial.dir.path, restart=1)
    trial.dir.commit(Result(TrialState.COMPLETE, [1.0], None, {}, "1.1", {}))
    assert trial.see({"slurm": fleet}).result is not None
    assert [(label, line.values) for label, line in trial.new_lines()] == [("1.1", {"restart": 1.0})]
