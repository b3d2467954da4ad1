"""Fouls from several cameras on the trainer: learning, unfreezing, exact resume, meshes."""

import jax
import numpy as np
import pytest

from tests.training.harness import after, losses_of
from tests.workloads.test_mvfoul import small
from trialfleet.config import hyperparameters
from trialfleet.training import checkpoints, evaluate, restore, train, trees
from trialfleet.training.data import examples_of
from trialfleet.training.setup import Setup
from trialfleet.trial.run import Preempted, Stop
from trialfleet.workloads.mvfoul import Mvfoul

# One worker: most programs are made once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mvfoul")]

RELEASED = "freezing=mvfoul_progressive"
SHORT = ("training.max_epochs=3", "training.report_every=1", "training.max_steps=18")


def test_a_cut_training_goes_on_bit_for_bit(new_run):
    config = small(RELEASED, *SHORT, "model.norm=batch", "loss.view_consistency=0.3", "training.ema_decay=0.99")
    whole, first = new_run(), new_run(stop=after(11, Stop.PREEMPT))  # units have been released by then
    uncut = train(config, whole)
    with pytest.raises(Preempted):
        train(config, first)
    second = new_run(earlier=[first])
    assert train(config, second) == uncut
    assert second.notes["resumed_from"] > 0
    merged = {(step, tuple(values)): values for run in (first, second) for step, values in run.untimed()}
    assert merged == {(step, tuple(values)): values for step, values in whole.untimed()}
    assert (whole.artifacts / "val-confusion-severity.png").read_bytes().startswith(b"\x89PNG")
    judge_what_was_trained(config, second, new_run())


def judge_what_was_trained(config, trained, run):
    """A checkpoint scores as it did in its training, and who begins with it has the statistics of its batch norm."""
    checkpoint = trained.notes["checkpoints"]["last"]
    values = evaluate(config, run, checkpoint)
    assert values == {name: trained.reported(name)[18] for name in values}
    setup = Setup(config)
    state, frozen = setup.program.init(setup.inputs.hp, setup.inputs.seed)
    state, _, report = restore.with_parameters_of(checkpoint, setup, state, frozen)
    assert report["extra_not_there"] == []
    means = [leaf for path, leaf in trees.named_leaves(state.extra) if path.endswith("mean")]
    assert any(np.asarray(mean).any() for mean in means)


def test_layers_are_released_last_first_and_those_that_are_held_keep_their_statistics(new_run):
    run = new_run()
    outcome = train(
        small("freezing=mvfoul_progressive", "training.max_epochs=2", "training.report_every=1", "model.norm=batch"),
        run,
    )
    ratio, epoch = run.reported("train/update_ratio/backbone"), run.reported("train/epoch")
    assert all((value == 0) == (epoch[step] <= 1) for step, value in ratio.items())
    assert all(value > 0 for value in run.reported("train/update_ratio/heads").values())
    saved, here = run.checkpoints / f"{outcome.steps:08}", jax.sharding.SingleDeviceSharding(jax.devices()[0])
    means = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=here)
        for name, (shape, dtype) in checkpoints.contents(saved).items()
        if name.startswith("state.extra") and name.endswith("mean")
    }
    moved = {name for name, mean in checkpoints.read_some(saved, means).items() if np.asarray(mean).any()}
    assert len(means) == 5
    assert moved == {name for name in means if "stage1" in name}  # the last of two


MESHES = (
    ("group", [("mesh.data=2", "mesh.fsdp=2", "mesh.tp=2"), ("training.per_device_batch=2",)]),
    ("batch", [("mesh.data=1", "mesh.fsdp=8")]),
)


def test_losses_are_the_same_on_a_mesh_and_in_micro_batches():
    """For longer, and with norms over the batch, in benchmarks/proofs."""
    agree(*MESHES[0], steps=8)


def agree(norm, others, steps):
    """The losses of so many steps are those of one device."""
    curves = []
    quiet = ("freezing=none", "model.dropout=0", f"model.norm={norm}")
    for overrides in ((), *others):
        setup = Setup(small(*SHORT, *quiet, *overrides))
        curves.append(losses_of(setup, steps))
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=1e-5)


@pytest.mark.parametrize("kind", ["adaptive", "scheduled"])
def test_the_other_ways_of_unfreezing_run_too(new_run, kind):
    run = new_run()
    overrides = {"adaptive": ["freezing.patience=1"], "scheduled": ["freezing.epochs=[1]"]}[kind]
    train(small("training.max_epochs=2", "training.report_every=1", f"freezing=mvfoul_{kind}", *overrides), run)
    ratios = np.asarray(list(run.reported("train/update_ratio/backbone").values()))
    assert ratios[0] == 0
    assert (ratios[-1] > 0) == (kind == "scheduled")


def test_the_loss_of_blended_actions_is_that_of_both_by_their_shares():
    workload = Mvfoul(small("model.dropout=0"))
    source = workload.source("train")
    plan = source.epoch(0, 0)[0]
    batch = source.collate(examples_of(source, plan, 0, 0, 0, range(8)), plan.bucket)
    params, extra = jax.jit(workload.init)(jax.random.key(0))
    hp = {name: np.float32(value) for name, value in hyperparameters(workload.config).items()}

    @jax.jit
    def loss(labels, others, share):
        named = {"severity": labels[0], "action": labels[1], "other_severity": others[0], "other_action": others[1]}
        given = {**batch, **named, "share": share * np.ones(8, np.float32)}
        return workload.loss(params, extra, given, workload.norms(given), jax.random.key(0), hp)[0]

    one = np.stack([batch["severity"], batch["action"]])
    other = one[:, ::-1]
    mixed = loss(one, other, np.float32(0.3))
    alone = [loss(labels, labels, np.float32(1)) for labels in (one, other)]
    assert mixed == pytest.approx(0.3 * alone[0] + 0.7 * alone[1], rel=1e-4)
    assert mixed == pytest.approx(loss(other, one, np.float32(0.7)), rel=1e-4)
