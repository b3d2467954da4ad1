"""What is never trained costs nothing; what is sometimes trained switches without compiling; adapters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.harness import after
from trialfleet.errors import UserError
from trialfleet.training import checkpoints, control, describe, lora, train
from trialfleet.training.dropout import Dropout
from trialfleet.training.goodput import compilations
from trialfleet.trial.run import Preempted, Stop

pytestmark = pytest.mark.xdist_group("toy")  # one worker: the toy's programs are compiled once


def arrays(run, step=16):
    folder = run.checkpoints / f"{step:08d}"
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    found = checkpoints.contents(folder)
    return checkpoints.read_some(
        folder, {name: jax.ShapeDtypeStruct(shape, dtype, sharding=here) for name, (shape, dtype) in found.items()}
    )


def test_what_is_never_trained_is_not_saved_and_does_not_change(toy, new_run):
    config = toy("freezing.never=['body/.*/w']")
    run = new_run()
    train(config, run)
    saved = arrays(run)
    assert not [name for name in saved if "body" in name and name.endswith(".w")]
    assert [name for name in saved if "body" in name and name.endswith(".b")]
    assert "72" not in describe(config).splitlines()[2]
    assert "parameters  88 trained, 192 frozen" in describe(config)


def test_other_frozen_weights_are_refused_on_resume(toy, new_run):
    first = new_run(stop=after(3, Stop.PREEMPT))
    with pytest.raises(Preempted):
        train(toy("freezing.never=['body/.*']"), first)
    with pytest.raises(UserError, match="frozen weights are not those"):
        train(toy("freezing.never=['body/.*']", "seed=1"), new_run(earlier=[first]))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [("['bodi/.*']", "fits no parameter; there are body/layer0/b"), ("['.*']", "nothing is left")],
)
def test_patterns_that_cannot_be_meant_are_refused(toy, new_run, patterns, message):
    with pytest.raises(UserError, match=message):
        train(toy(f"freezing.never={patterns}"), new_run())


def test_units_are_released_one_by_one_without_compiling_again(toy, new_run):
    config = toy("freezing=scheduled", "freezing.epochs=[1]", "training.max_steps=12", "training.eval_every=6")
    train(config, new_run())  # an epoch has 8 batches
    run, before = new_run(), compilations.compiled
    train(config, run)
    assert compilations.compiled == before
    moved = arrays(run, 12)
    assert int(moved["state.opt.head.count"]) == 12
    assert int(moved["state.opt.layer2.count"]) == 4  # its own steps, so that Adam corrects for these alone
    assert int(moved["state.opt.layer0.count"]) == 0
    assert np.abs(moved["state.opt.layer2.mu.body.layer2.w"]).max() > 0
    assert np.abs(moved["state.opt.layer1.mu.body.layer1.w"]).max() == 0


@pytest.mark.slow
def test_a_late_unit_begins_like_an_early_one(toy, new_run):
    """Its first update is as large as any first update of Adam: the rate, whatever the step of the run is."""
    config = toy("freezing=scheduled", "freezing.epochs=[1]", "training.max_steps=9", "training.gradient_clip=null")
    run = new_run()
    train(config, run)
    body = run.reported("train/update_ratio/body")
    assert [body[step] for step in range(1, 9)] == [0.0] * 8
    assert body[9] > 0


def test_the_rule_of_progressive_freezing_and_its_boost(toy):
    boost = "{group: body, share: 0.5, of_group: head, factor: 0.6}"
    rates = ["optimizer.learning_rate=1e-3", "+optimizer.groups.body.learning_rate=1e-4"]
    config = toy("freezing=progressive", "freezing.max_units=2", f"freezing.rate_boost={boost}", *rates)
    sizes = {("body", "layer0"): 72, ("body", "layer1"): 72, ("body", "layer2"): 72, ("head", "head"): 64}
    facts = control.Facts(["layer2", "layer1", "layer0"], sizes, {"body": 1e-4, "head": 1e-3})
    known = control.start()
    seen = []
    for epoch in range(1, 5):
        known = control.control(known, control.Event(8 * epoch, epoch, True, None), config, facts)
        knobs = control.knobs(known, config, facts)
        seen.append((sorted(knobs.on), knobs.group_scale.get("body")))
    assert seen[0] == (["layer0", "layer1"], None)  # a third of the body is trained
    assert seen[1] == (["layer0"], pytest.approx(6.0))  # two thirds: .6 of the head's rate
    assert seen[3] == (["layer0"], pytest.approx(6.0))  # once, and no more units than wanted


def test_the_rule_of_adaptive_freezing(toy):
    config = toy("freezing=adaptive", "freezing.patience=2", "freezing.max_units=1")
    facts = control.Facts(["layer2", "layer1"], {}, {})
    known, released = control.start(), []
    for step, value in enumerate([1.0, 0.5, 0.5, 0.6, 0.5, 0.5, 0.5]):
        known = control.control(known, control.Event(step, 0, False, {"val/error": value}), config, facts)
        released.append(known["freezing"]["released"])
    assert released == [0, 0, 0, 1, 1, 1, 1]


def test_a_schedule_needs_units(config, new_run):
    with pytest.raises(UserError, match="asr has no units"):
        train(config("freezing=progressive"), new_run())


@pytest.mark.slow
def test_adapters_alone_are_trained_and_saved(toy, new_run):
    run = new_run()
    train(toy("model.rank=2"), run)
    saved = [name for name in arrays(run) if name.startswith("state.params.body")]
    assert len(saved) == 6
    assert all(lora.is_adapter(name.replace(".", "/")) for name in saved)
    losses = run.reported("train/loss")
    assert losses[16] < losses[1]


def test_an_adapter_begins_as_nothing_and_can_be_merged_in():
    base = {"a": {"w": jax.random.normal(jax.random.key(0), (4, 6))}, "b": {"w": jnp.ones((6, 2))}}
    params = lora.attach(base, "a/w", 2, jax.random.key(1))
    x = jax.random.normal(jax.random.key(2), (3, 4))
    assert jnp.array_equal(lora.linear(params["a"], "w", x, 2.0), x @ base["a"]["w"])
    params["a"]["w_lora_b"] = jnp.ones((2, 6))
    adapted = lora.linear(params["a"], "w", x, 2.0)
    assert not jnp.allclose(adapted, x @ base["a"]["w"])
    merged = lora.merged(params, 2.0)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    assert jnp.allclose(x @ merged["a"]["w"], adapted, atol=1e-5)
    assert jnp.array_equal(lora.linear(params["a"], "w", x, 2.0, adapter=False), x @ base["a"]["w"])
    with pytest.raises(ValueError, match="fits no parameter; there are a/w, b/w"):
        lora.attach(base, "c/.*", 2, jax.random.key(1))


def test_an_adapter_does_not_see_all_of_its_input_in_training():
    x = jnp.ones((400, 50))
    half = Dropout(jnp.asarray(0.5), jax.random.key(0))
    dropped = half.dropped("w", x)
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.05)
    assert jnp.array_equal(dropped, half.dropped("w", x))
    assert not jnp.array_equal(dropped, half.dropped("v", x))
    params = {"w": jnp.eye(50), "w_lora_a": jnp.eye(50), "w_lora_b": jnp.eye(50)}
    assert jnp.array_equal(lora.linear(params, "w", x, 1.0, dropout=half), x + dropped)


def test_the_rule_of_stages_holds_again_what_was_trained(toy):
    config = toy("freezing=asr_stages", "freezing.stages=[[head],[layer2],[head,layer2]]", "freezing.epochs=[2,3]")
    facts = control.Facts([], {("head", "head"): 1, ("body", "layer2"): 1}, {})
    known, held = control.start(), []
    held.append(sorted(control.knobs(known, config, facts).on))
    for epoch in range(1, 5):
        known = control.control(known, control.Event(8 * epoch, epoch, True, None), config, facts)
        held.append(sorted(control.knobs(known, config, facts).on))
    assert held == [["layer2"], ["layer2"], ["head"], [], []]


@pytest.mark.parametrize(
    ("stages", "epochs", "message"),
    [
        ("[[head],[layer0,layer1,layer2]]", "[]", "freezing.epochs: .* there are 2 stages"),
        ("[[head],[layer0],[layer1,layer2]]", "[2,1]", "freezing.epochs: .* in rising order"),
        ("[[head],[tail]]", "[1]", "freezing.stages: no unit 'tail' is trained; there are head, layer0"),
        ("[[head],[layer0,layer1]]", "[1]", "freezing.stages: layer2 is trained in none of them"),
    ],
)
def test_stages_that_cannot_be_meant_are_refused(toy, new_run, stages, epochs, message):
    with pytest.raises(UserError, match=message):
        train(toy("freezing=asr_stages", f"freezing.stages={stages}", f"freezing.epochs={epochs}"), new_run())
