"""The example of a workload outside the package: it trains with the commands of any other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.harness import composed
from trialfleet.errors import UserError
from trialfleet.training import train
from trialfleet.training.setup import find_factory
from trialfleet.trial.directory import TrialDir

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "spirals"


@pytest.mark.slow
def test_the_example_learns(new_run, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    run = new_run()
    config = composed(
        f"hydra.searchpath=[file://{FOLDER / 'conf'}]",
        "workload=spirals",
        "training.max_steps=150",
        "training.global_batch=64",
        "optimizer.learning_rate=0.02",
        "training.checkpoints.keep_best=0",
        "runtime.compilation_cache=null",
    )
    outcome = train(config, run)
    assert outcome.metrics["val/accuracy"] > 0.9


@pytest.mark.slow
def test_the_example_is_swept_like_any_other(tmp_path):
    command = [sys.executable, "-m", "pipelines.sweep", f"hydra.searchpath=[file://{FOLDER / 'conf'}]"]
    options = ["workload=spirals", "training.max_steps=20", "hydra.sweeper.n_trials=2"]
    space = ["optimizer.learning_rate=tag(log,interval(1e-3,1e-1))"]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), "XLA_FLAGS": ""}
    done = subprocess.run([*command, *options, *space], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [TrialDir(path).result() for path in tmp_path.glob("sweeps/*/trials/*")]
    assert [result and result.state.value for result in results] == ["COMPLETE", "COMPLETE"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.Nothing", "nowhere.Nothing cannot be imported"),
        ("pathlib.Path", "pathlib.Path is no workload"),
        ("trialfleet.training.workload.Workload", "lacks eval_step, init, loss, source"),
    ],
)
def test_what_is_no_workload_is_refused(path, message):
    with pytest.raises(UserError, match=f"workload.factory: .*{message}"):
        find_factory(path)
