"""The video networks on the trainer: the same losses on a mesh, exact resume."""

import pytest

from tests.training.harness import after, composed, losses_of
from tests.workloads.mvfoul.test_networks import TINY
from tests.workloads.test_mvfoul import SMALL as CLIPS
from trialfleet.training import train
from trialfleet.training.setup import Setup
from trialfleet.trial.run import Preempted, Stop

# One worker: most programs are made once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mvfoul")]

SHORT = ("training.max_epochs=2", "training.report_every=1", "training.max_steps=8")
SPLIT = ("mesh.data=2", "mesh.fsdp=2", "mesh.tp=2")


def of(name, *overrides):
    clips = [word for word in CLIPS if word.startswith(("dataset.", "training.", "mesh.", "runtime."))]
    return composed("workload=mvfoul", *TINY[name], "model.head_hidden=8", *clips, *SHORT, *overrides)


def test_losses_are_the_same_on_a_mesh():
    """The other networks, and micro-batches, in benchmarks/proofs."""
    agree("mvit_tiny", SPLIT)


def agree(name, overrides):
    """The losses of some steps are those of one device."""
    kinds = {"r2plus1d": "moe", "resnet3d_tiny": "mlp", "mvit_tiny": "transformer"}
    # With a smaller epsilon, the sign of gradients that are nothing but rounding would move weights.
    quiet = ("freezing=none", "model.dropout=0", "optimizer.eps=1e-3", f"model.aggregator={kinds[name]}")
    if name == "mvit_tiny":
        quiet += ("model.stochastic_depth=0",)
    one, other = (losses_of(Setup(of(name, *quiet, *words)), 5) for words in ((), overrides))
    assert other == pytest.approx(one, abs=1e-5)


def test_a_cut_training_goes_on_bit_for_bit(new_run):
    config = of("mvit_tiny", "model.aggregator=moe", "loss.view_consistency=0.3", "training.compute_dtype=bfloat16")
    whole, first = new_run(), new_run(stop=after(5, Stop.PREEMPT))
    uncut = train(config, whole)
    with pytest.raises(Preempted):
        train(config, first)
    second = new_run(earlier=[first])
    assert train(config, second) == uncut
    assert whole.reported("train/expert_load")
    merged = {(step, tuple(values)): values for run in (first, second) for step, values in run.untimed()}
    assert merged == {(step, tuple(values)): values for step, values in whole.untimed()}
