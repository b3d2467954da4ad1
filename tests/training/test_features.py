"""What a user turns on by a key of the config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.harness import after
from tests.training.test_freezing import arrays
from tests.training.toy import ToySource
from trialfleet.errors import UserError
from trialfleet.training import NonFinite, evaluate, train
from trialfleet.training.goodput import compilations
from trialfleet.trial.run import Preempted, Stop

pytestmark = pytest.mark.xdist_group("toy")  # one worker: the toy's programs are compiled once

KINDS = [
    "adamw",
    "muon",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("adam", "sgd", "lion", "adafactor")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_learns_and_another_number_compiles_nothing(toy, new_run, kind):
    same_batch = ["training.overfit_batches=1", "model.layers=1", "training.max_steps=12"]
    run = new_run()
    train(toy(f"optimizer={kind}", *same_batch, "optimizer.learning_rate=0.01"), run)
    losses = run.reported("train/loss")
    assert losses[12] < 0.95 * losses[1]
    before = compilations.compiled
    train(toy(f"optimizer={kind}", *same_batch, "optimizer.learning_rate=0.002"), new_run())
    assert compilations.compiled == before


@pytest.mark.slow
def test_a_study_of_numbers_compiles_once(toy, new_run):
    train(toy("training.ema_decay=0.9"), new_run())
    before = compilations.compiled
    numbers = [
        "optimizer.learning_rate=1",  # an integer where others have a float
        "optimizer.weight_decay=0.3",
        "optimizer.beta2=0.5",
        "training.gradient_clip=0.1",
        "training.ema_decay=0.5",
        "training.max_steps=11",
        "model.alpha=9",
        "seed=5",
    ]
    for number in numbers:
        train(toy("training.ema_decay=0.9", number), new_run())
    assert compilations.compiled == before


@pytest.mark.slow
def test_groups_have_rates_of_their_own(toy, new_run):
    run = new_run()
    train(toy("+optimizer.groups.body.learning_rate=0", "+optimizer.groups.body.weight_decay=0.5"), run)
    assert set(run.reported("train/update_ratio/body").values()) == {0.0}
    assert min(run.reported("train/update_ratio/head").values()) > 0


def test_a_group_that_is_not_there_is_refused(toy, new_run):
    with pytest.raises(UserError, match=r"optimizer\.groups\.tail: .* toy has body, head"):
        train(toy("+optimizer.groups.tail.learning_rate=0.1"), new_run())


@pytest.mark.slow
def test_the_gradient_is_clipped_by_its_norm(toy, new_run):
    run = new_run()
    clip = ["training.gradient_clip=1e-3", "optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false"]
    train(toy(*clip, "optimizer.learning_rate=1", "training.max_steps=1", "model.layers=1"), run)
    before, after_ = new_run(), run
    train(toy(*clip, "optimizer.learning_rate=0", "training.max_steps=1", "model.layers=1"), before)
    change = [
        np.square(arrays(after_, 1)[name] - arrays(before, 1)[name]).sum()
        for name in arrays(before, 1)
        if name.startswith("state.params")
    ]
    assert np.sqrt(sum(change)) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.slow
def test_micro_batches_give_the_same_curve(toy, new_run):
    curves = []
    for per_device in ("null", "2"):
        run = new_run()
        train(toy(f"training.per_device_batch={per_device}"), run)
        curves.append((run.reported("train/loss"), run.reported("train/examples"), run.reported("val/error")))
    for whole, parts in zip(*curves, strict=True):
        assert parts == pytest.approx(whole, abs=1e-6)


def test_the_average_is_what_is_evaluated(toy, new_run):
    run = new_run()
    train(toy("training.ema_decay=0.9", "training.max_steps=1"), run)
    saved = arrays(run, 1)
    start, end, mean = new_run(), saved["state.params.head.w"], saved["state.ema.head.w"]
    train(toy("training.ema_decay=0.9", "training.max_steps=1", "optimizer.learning_rate=0"), start)
    initial = arrays(start, 1)["state.params.head.w"]
    decay = min(0.9, 2 / 11)
    assert jnp.allclose(mean, decay * initial + (1 - decay) * end, atol=1e-6)


def test_an_evaluation_of_which_nothing_can_be_read_is_an_error(toy, new_run, monkeypatch):
    """Its files were there when the training began: metrics of no example would be no numbers."""
    read = ToySource.example
    weighs = {"train": 1.0, "val": 0.0}
    monkeypatch.setattr(
        ToySource, "example", lambda self, row, rng: {**read(self, row, rng), "weight": weighs[self.split]}
    )
    with pytest.raises(UserError, match=r"dataset: of the examples for val none could be read"):
        train(toy(), new_run())


def test_bfloat16_computes_and_float32_stays(toy, new_run):
    run = new_run()
    train(toy("training.compute_dtype=bfloat16"), run)
    assert all(array.dtype != jnp.bfloat16 for array in arrays(run).values())
    assert run.reported("train/loss")[16] < run.reported("train/loss")[1]


@pytest.mark.slow
def test_what_the_backward_pass_forgets_changes_nothing(toy, new_run):
    curves = []
    for remat in ("none", "dots", "full"):
        run = new_run()
        train(toy(f"training.remat={remat}", "training.max_steps=4"), run)
        curves.append(run.reported("train/loss"))
    assert curves[1] == pytest.approx(curves[0], abs=1e-6)
    assert curves[2] == pytest.approx(curves[0], abs=1e-6)


def test_early_stopping_ends_and_saves(toy, new_run):
    run = new_run()
    early = "training.early_stopping={patience: 2, min_delta: 0.0}"
    outcome = train(toy("optimizer.learning_rate=0", early), run)
    assert outcome.ended == "no improvement in 2 evaluations"
    assert outcome.steps == 12
    assert (run.checkpoints / "00000012" / "manifest.json").exists()


@pytest.mark.slow
def test_the_test_split_is_evaluated_once_from_the_best_checkpoint(toy, new_run):
    run = new_run()
    outcome = train(
        toy(
            "training.evaluate_test=true",
            "training.checkpoints.keep_best=1",
            "objective.metric=[val/error,test/error]",
            "objective.direction=[minimize,minimize]",
        ),
        run,
    )
    assert list(outcome.metrics) == ["val/error", "test/error"]
    assert len(run.reported("test/error")) == 1


def test_last_and_best_may_differ(toy, new_run):
    bad = ["optimizer.learning_rate=3", "scheduler=constant"]
    best, last = (train(toy(*bad, f"objective.at={at}"), new_run()) for at in ("best", "last"))
    assert last.step == 16
    assert best.metrics["val/error"] <= last.metrics["val/error"]


def test_a_maximized_objective(toy, new_run):
    outcome = train(toy("objective.direction=maximize"), new_run())
    assert outcome.step == 4  # the error falls


def test_several_seeds_are_averaged_and_finished_ones_not_repeated(toy, new_run):
    run = new_run()
    outcome = train(toy("objective.seeds=2"), run)
    assert run.reported("val/error").keys() == run.reported("seed1/val/error").keys()
    by_seed = run.notes["by_seed"]
    assert outcome.metrics["val/error"] == pytest.approx(sum(one["val/error"] for one in by_seed) / 2)
    assert by_seed[0] != by_seed[1]
    cut = new_run(stop=after(30, Stop.PREEMPT))
    with pytest.raises(Preempted):
        train(toy("objective.seeds=2"), cut)
    rest = new_run(earlier=[cut])
    assert train(toy("objective.seeds=2"), rest) == outcome
    assert not rest.reported("train/loss")


def test_a_few_batches_over_and_over(toy, new_run):
    run = new_run()
    train(toy("training.overfit_batches=1", "optimizer.learning_rate=0", "training.max_epochs=3"), run)
    losses = list(run.reported("train/loss").values())
    assert len(losses) == 3
    assert len(set(losses)) == 1


def test_epochs_and_evaluations_at_their_ends(toy, new_run):
    run = new_run()
    train(toy("training.max_steps=null", "training.max_epochs=2", "training.eval_every=null"), run)
    assert sorted(run.reported("val/error")) == [8, 16]
    assert run.reported("train/epoch")[16] == 2.0


@pytest.mark.slow
def test_parameters_of_another_training(toy, new_run):
    first, run = new_run(), new_run()
    train(toy(), first)
    source = first.checkpoints / "00000016"
    train(toy(f"training.init_from={source}", "model.layers=4", "training.max_steps=1"), run)
    report = run.notes["init_from"]
    assert report["taken"] == 7
    assert report["not_there"] == ["body/layer3/b", "body/layer3/w"]
    with pytest.raises(UserError, match=r"training\.init_from: .* is no whole checkpoint"):
        train(toy(f"training.init_from={source / 'state'}"), new_run())


def test_a_checkpoint_is_evaluated_by_itself(toy, new_run):
    run, judged = new_run(), new_run()
    train(toy("training.ema_decay=0.5"), run)
    checkpoint = run.notes["checkpoints"]["last"]
    values = evaluate(toy("training.ema_decay=0.5"), judged, checkpoint)
    assert values == {"val/error": run.reported("val/error")[16]}
    assert judged.lines == [(0, values)]
    with pytest.raises(UserError, match=r"not hold this model: body/layer3/b, body/layer3/w .*layers was 3 and is 4\)"):
        evaluate(toy("model.layers=4"), judged, checkpoint)


def test_another_config_is_refused_on_resume(toy, new_run):
    first = new_run()
    train(toy(), first)
    with pytest.raises(UserError, match=r"model\.layers: 3 -> 1"):
        train(toy("model.layers=1"), new_run(earlier=[first]))


@pytest.mark.parametrize("cut", [2, pytest.param(9, marks=pytest.mark.slow), pytest.param(12, marks=pytest.mark.slow)])
def test_rounds_of_several_updates_go_on_in_their_middle(toy, new_run, cut):
    rounds = ["workload.factory=tests.training.toy.Rounds", "model.updates=3"]
    whole, first = new_run(), new_run(stop=after(cut, Stop.PREEMPT))
    train(toy(*rounds), whole)
    with pytest.raises(Preempted):
        train(toy(*rounds), first)
    second = new_run(earlier=[first])
    train(toy(*rounds), second)
    both = {(step, name): value for run in (first, second) for step, v in run.untimed() for name, value in v.items()}
    assert both == {(step, name): value for step, v in whole.untimed() for name, value in v.items()}


def test_a_loss_that_becomes_nan_is_told_with_its_step(toy, new_run):
    run = new_run()
    with pytest.raises(NonFinite, match="the loss is nan at step 5") as caught:
        train(toy("model.bad_from=33", "training.checkpoints.keep_best=1"), run)
    assert caught.value.step == 5
    saved = [int(path.parent.name) for path in run.checkpoints.glob("*/manifest.json")]
    assert saved == [4]


def test_a_trace_of_some_steps(toy, new_run):
    run = new_run()
    train(toy("training.profile={first_step: 2, steps: 2}", "training.max_steps=4"), run)
    assert list((run.artifacts / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_shards_become_smaller_as_fsdp_grows(toy, new_run):
    from trialfleet.training.setup import Setup

    def bytes_per_device(fsdp: int) -> int:
        setup = Setup(toy("mesh.data=1", f"mesh.fsdp={fsdp}"))
        state, _ = setup.program.init(setup.inputs.hp, setup.inputs.seed)
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((state.params, state.opt)))

    assert bytes_per_device(8) < bytes_per_device(2) < bytes_per_device(1)
    assert bytes_per_device(8) < 0.3 * bytes_per_device(1)
