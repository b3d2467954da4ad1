"""A whole training: what it reports, saves and leaves; how it stops and goes on."""

import numpy as np
import pytest

from tests.training.harness import after
from trialfleet.errors import UserError
from trialfleet.training import NonFinite, train
from trialfleet.trial.run import Preempted, Pruned, Stop


def test_reports_evaluates_saves_and_ends(config, new_run):
    run = new_run()
    outcome = train(config(), run)
    assert sorted(run.reported("train/loss")) == [2, 4, 6]
    assert sorted(run.reported("val/wer")) == [3, 6]
    assert outcome.steps == 6
    assert outcome.ended == "all steps"
    assert outcome.metrics == {"val/wer": run.reported("val/wer")[outcome.step]}
    assert (run.checkpoints / "00000006" / "manifest.json").exists()
    assert (run.artifacts / "val-samples.txt").read_text().count("\n") >= 15
    assert run.notes["steps"] == 6
    assert {"compile", "train", "evaluate", "save"} <= set(run.notes["seconds"])


def test_an_untrained_model_reads_nothing_right(config, new_run):
    run = new_run()
    train(config("training.max_steps=1", "optimizer.learning_rate=0"), run)
    assert 0.9 <= run.reported("val/wer")[1] <= 1.1


@pytest.mark.parametrize("cut", [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 5])
def test_a_preempted_run_goes_on_bit_for_bit(config, new_run, cut):
    whole, first = new_run(), new_run(stop=after(cut, Stop.PREEMPT))
    uncut = train(config(), whole)
    with pytest.raises(Preempted):
        train(config(), first)
    second = new_run(earlier=[first])
    resumed = train(config(), second)
    assert second.notes["resumed_from"] > 0
    assert resumed == uncut
    assert dict(first.untimed()) | dict(second.untimed()) == dict(whole.untimed())
    merged = {(step, tuple(values)): values for run in (first, second) for step, values in run.untimed()}
    assert merged == {(step, tuple(values)): values for step, values in whole.untimed()}


def test_a_run_that_is_stopped_before_its_first_step_saves_nothing(config, new_run):
    run = new_run(stop=after(1, Stop.PREEMPT))
    with pytest.raises(Preempted, match="at step 0"):
        train(config(), run)
    assert not run.checkpoints.exists()


def test_a_pruned_run_saves_nothing(config, new_run):
    run = new_run(stop=after(2, Stop.PRUNE))
    with pytest.raises(Pruned):
        train(config(), run)
    assert not run.checkpoints.exists()


def test_a_superseded_run_leaves_and_saves_nothing(config, new_run):
    run = new_run(stop=after(2, Stop.SUPERSEDED))
    with pytest.raises(Preempted):
        train(config(), run)
    assert not run.checkpoints.exists()


def test_a_loss_that_is_not_finite_fails_with_step_and_value(config, new_run):
    run = new_run()
    with pytest.raises(NonFinite, match=r"at step [23]") as caught:
        train(config("optimizer.learning_rate=1e30"), run)
    assert not np.isfinite(caught.value.loss) or caught.value.step > 0
    assert not list(run.checkpoints.glob("*/manifest.json"))


def test_must_resume_is_refused_without_a_checkpoint(config, new_run):
    with pytest.raises(UserError, match=r"training\.resume"):
        train(config("training.resume=must"), new_run())
    with pytest.raises(UserError, match=r"training\.resume: /nowhere, and there is no checkpoint"):
        train(config("training.resume=/nowhere"), new_run())


def test_a_run_goes_on_from_the_checkpoint_that_is_named(config, new_run):
    """Of two that are there, as it would have gone on itself; then from its own."""
    whole, cut = new_run(), new_run(stop=after(8, Stop.PREEMPT))
    often = ("training.report_every=1", "training.checkpoints.every_steps=2", "training.checkpoints.keep_last=9")
    train(config(*often), whole)
    named = f"training.resume={whole.checkpoints / '00000002'}"
    with pytest.raises(Preempted):
        train(config(*often, named), cut)
    assert cut.notes["resumed_from"] == 2
    rest = new_run(earlier=[cut])
    train(config(*often, named), rest)
    assert rest.notes["resumed_from"] > 2
    both = [*cut.untimed(), *rest.untimed()]
    assert [line for line in both if line[1]] == [line for line in whole.untimed() if line[0] > 2]
    folder = new_run()
    train(config(*often, f"training.resume={whole.directory}"), folder)
    assert folder.notes["resumed_from"] == 6  # the furthest there
