"""A trial repeated from its folder: the same bits, or what differs; its study is not touched."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.forked import QuickStudy
from tests.tasks.studies import PROJECT
from trialfleet.errors import UserError
from trialfleet.review import rerunning
from trialfleet.review.rerunning import repeat
from trialfleet.review.studies import load
from trialfleet.trial import records


def everything(folder: Path) -> dict[str, int]:
    """All files below a folder, with the times of their last change."""
    return {str(path): os.stat(path).st_mtime_ns for path in folder.rglob("*") if path.is_file()}  # noqa: PTH116


@pytest.mark.slow
def test_a_trial_is_repeated_bit_for_bit_and_a_difference_is_told(
    finished_study: Callable[..., QuickStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished_study("hydra.sweeper.n_trials=2")
    monkeypatch.chdir(study.place)
    seen = load(study.folder)
    row = seen.rows[1]  # a copied folder gets its index anew
    before = everything(study.folder)
    repeated = repeat(seen, row, study.place / "again")
    assert repeated.same, repeated
    assert repeated.differences == []
    *objectives, others = repeated.outcome
    assert [line.partition(":")[0] for line in objectives] == ["loss", "loss was reported at 4 steps in both"]
    assert others == "of 1 more metrics 1 are the same at all steps"
    assert everything(study.folder) == before
    with pytest.raises(UserError, match="is not empty"):
        repeat(seen, seen.rows[1], study.place / "again")

    result = study.folder / "trials" / "00001" / "result.json"
    record = records.read(result)
    assert record is not None
    record["objectives"] = [record["objectives"][0] + 1e-9]
    record["notes"] = {"fingerprint": {"devices": "8 x TPU v5e"}}
    records.write(result, record)
    seen = load(study.folder)
    repeated = repeat(seen, seen.rows[1], study.place / "other")
    assert not repeated.same
    assert "fingerprint.devices: 8 x TPU v5e → None" in repeated.differences
    assert " then, " in repeated.outcome[0]


def test_other_metrics_are_told_and_decide_nothing() -> None:
    then = {"loss": {1: 0.5}, "train/loss": {1: 1.0, 2: 0.5}, "seconds": {1: 3.0, 2: 4.0}, "gone": {1: 1.0}}
    now = {"loss": {1: 0.5}, "train/loss": {1: 1.0, 2: 0.5}, "seconds": {1: 3.0, 2: 5.0}}
    (line,) = rerunning.of_other_metrics(then, now, ["loss"])
    assert line == "of 2 more metrics 1 are the same at all steps; others: seconds"
    assert list(rerunning.of_other_metrics({"loss": {1: 0.5}}, now, ["loss"])) == []


def test_a_trial_without_a_job_is_not_repeated(tmp_path: Path) -> None:
    from benchmarks import review

    review.make(tmp_path / "wide", 1)
    study = load(tmp_path / "wide")
    with pytest.raises(UserError, match="the trial ran in its driver's process"):
        repeat(study, study.rows[0], None)


@pytest.mark.slow
def test_a_trial_that_a_job_went_on_to_is_repeated(
    finished_study: Callable[..., QuickStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished_study("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "hydra.sweeper.worker.trials=2")
    monkeypatch.chdir(study.place)
    assert study.record(1)["worker"]
    seen = load(study.folder)
    assert repeat(seen, seen.rows[1], study.place / "again").same


SCRIPT = """\
import hydra

import constant


@hydra.main(config_path="conf", config_name="config")
def train(cfg):
    return cfg.x + cfg.shift + constant.VALUE


if __name__ == "__main__":
    train()
"""


@pytest.mark.slow
def test_each_trial_is_repeated_with_the_code_and_the_configs_that_it_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"))
    (tmp_path / "conf").mkdir()
    (tmp_path / "train.py").write_text(SCRIPT)

    def edit(value: int) -> None:
        (tmp_path / "constant.py").write_text(f"VALUE = {value}")
        (tmp_path / "conf" / "config.yaml").write_text(f"x: 0\nshift: {value}")

    def run(n_trials: int, *more: str) -> None:
        sweeper = ["hydra/sweeper=trialfleet", "hydra/launcher=submitit_local", "hydra.sweeper.tracking.uri=null"]
        command = [
            sys.executable,
            "train.py",
            "-m",
            *sweeper,
            "x=interval(0,0.5)",
            f"hydra.sweeper.n_trials={n_trials}",
        ]
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    edit(1)
    run(1)
    edit(10)
    run(2, "hydra.sweeper.study.allow_changes=[code,shift]")
    edit(100)
    (tmp_path / "elsewhere").mkdir()
    Path("sweeps/train").rename("elsewhere/train")
    study = load(tmp_path / "elsewhere" / "train")
    for row, value in zip(study.rows, (2, 20), strict=True):
        assert row.values is not None
        assert value <= row.values[0] <= value + 0.5
        assert repeat(study, row, None).same

    with pytest.raises(UserError, match="is no folder that could be written"):
        repeat(study, study.rows[0], tmp_path / "train.py")
    for copy in study.folder.glob("code/*/constant.py"):
        copy.write_text("VALUE = 7")
    repeated = repeat(study, study.rows[0], None)
    assert not repeated.same
    assert "was edited" in repeated.differences[0]
    shutil.rmtree(study.folder / "code")
    with pytest.raises(UserError, match="the copy of the code that trial 0 ran is not there"):
        repeat(study, study.rows[0], None)
