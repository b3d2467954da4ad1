"""The example of a workload outside the package; tests/end_to_end types its commands."""

from pathlib import Path

import pytest

from tests.training.harness import composed
from trialfleet.errors import UserError
from trialfleet.training import train
from trialfleet.training.setup import find_factory

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "digits_mlp"


@pytest.mark.slow
def test_the_example_learns(new_run, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    config = composed(
        f"hydra.searchpath=[file://{FOLDER / 'conf'}]",
        "workload=digits_mlp",
        "training.checkpoints.keep_best=0",
        "runtime.compilation_cache=null",
    )
    outcome = train(config, new_run())
    assert outcome.metrics["val/accuracy"] > 0.95


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
