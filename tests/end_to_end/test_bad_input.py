"""Wrong input: a clear message in a few lines, a non-zero exit, nothing half made."""

from pathlib import Path

import pytest

from .conftest import Run

pytestmark = pytest.mark.xdist_group("bad input")  # one worker has the host that all are forked from

CASES = {
    "misspelt key": (["optimizer.learning_rte=1"], ["optimizer.learning_rte", "learning_rate"]),
    "misspelt sweeper key": (["hydra.sweeper.ntrials=1"], ["hydra.sweeper.ntrials", "n_trials"]),
    "added key": (["+optimizer.warmth=1"], ["optimizer.warmth"]),
    "string for a number": (["training.max_steps=many"], ["training.max_steps", "many"]),
    "string for a count": (["hydra.sweeper.n_trials=many"], ["hydra.sweeper.n_trials", "many"]),
    "empty space": (["hydra.sweeper.params={}"], ["search space is empty", "hydra.sweeper.params"]),
    "wrong interval": (["optimizer.learning_rate=interval(1,0)"], ["optimizer.learning_rate", "low"]),
    "grid over an interval": (
        ["hydra/sweeper/sampler=grid", "optimizer.learning_rate=interval(0,1)"],
        ["optimizer.learning_rate", "grid"],
    ),
    "objective that no metric bears": (["objective.metric=val/nope"], ["objective.metric", "val/nope", "val/wer"]),
    "contradicting directions": (["hydra.sweeper.direction=maximize"], ["direction", "objective.direction"]),
    "two objectives and one direction": (
        ["objective.metric=[val/wer,val/loss]"],
        ["objective.metric names 2 and objective.direction 1"],
    ),
    "pruner with two objectives": (
        [
            "objective.metric=[val/wer,val/loss]",
            "objective.direction=[minimize,minimize]",
            "hydra/sweeper/pruner=median",
        ],
        ["pruner", "several"],
    ),
    "storage that cannot be opened": (
        ["hydra.sweeper.storage=sqlite:////nonexistent/x.db"],
        ["hydra.sweeper.storage", "cannot be opened"],
    ),
    "tracking that cannot be written": (["tracking.uri=sqlite:////proc/x.db"], ["tracking.uri"]),
    "unreadable data": (["dataset.data_dir=/nonexistent"], ["dataset.data_dir", "/nonexistent"]),
    "checkpoint that is not there": (["training.init_from=/nonexistent"], ["training.init_from", "/nonexistent"]),
    "problems that are not there": (
        ["workload=grpo_base", "dataset=gsm8k", "dataset.train_path=nowhere.jsonl"],
        ["dataset.train_path: there is no nowhere.jsonl"],
    ),
    "recordings that are not there": (
        ["workload=asr_decoder", "dataset.train=[nowhere.jsonl]"],
        ["dataset.train: there is no nowhere.jsonl"],
    ),
    "reward that cannot be imported": (
        ["+experiment=grpo_from_scratch", "rewards.answer.function=nowhere.answer"],
        ["rewards.answer.function", "nowhere"],
    ),
    "bound of what no trial reports": (
        ["hydra.sweeper.constraints={val/los: '<= 2'}"],
        ["hydra.sweeper.constraints", "val/los", "did you mean 'val/loss'"],
    ),
    "local jobs on two nodes": (["hydra.launcher.nodes=2"], ["hydra.launcher.nodes=2", "one node"]),
    "mesh larger than the machine": (["mesh.data=64"], ["mesh", "64 devices"]),
    "Hydra's own sweeper": (["hydra/sweeper=basic"], ["default_params", "hydra/sweeper=optuna"]),
    "unknown choice": (["hydra/sweeper/pruner=medan"], ["medan", "median"]),
    "no name for a member of a group": (["optimizer=null"], ["optimizer=null", "chosen by name", "adamw"]),
    "enqueued point outside of the space": (
        ["hydra.sweeper.enqueue=[{optimizer.learning_rate:7}]"],
        ["hydra.sweeper.enqueue", "optimizer.learning_rate"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_sweep_is_refused(here: Path, run_quickly: Run, case: str) -> None:
    words, said = CASES[case]
    shown = run_quickly("pipelines.sweep", *words, code=2).stdout
    assert all(text in shown for text in said), shown
    assert "Traceback" not in shown
    assert list(here.iterdir()) == []


def test_a_launcher_without_slurm_is_refused(here: Path, run_quickly: Run) -> None:
    shown = run_quickly(
        "pipelines.sweep", "hydra/launcher=submitit_slurm", code=2, environment={"PATH": "/nowhere"}
    ).stdout
    assert "sbatch" in shown
    assert "hydra/launcher" in shown
    assert list(here.iterdir()) == []


def test_a_training_is_refused(run: Run) -> None:
    shown = run("pipelines.train", "mesh.data=64", code=2).stdout
    assert "64 devices" in shown
    assert "Traceback" not in shown


def test_a_folder_that_hydra_cannot_make_is_named(here: Path, run_quickly: Run) -> None:
    shown = run_quickly("pipelines.train", "hydra.run.dir=/proc/here", code=2).stdout
    assert "error: /proc/here: No such file or directory\n  fix: " in shown
    assert "Traceback" not in shown


def test_the_traceback_is_there_for_who_asks(run: Run) -> None:
    shown = run("pipelines.sweep", "hydra.sweeper.params={}", code=1, environment={"HYDRA_FULL_ERROR": "1"}).stdout
    assert "Traceback" in shown
