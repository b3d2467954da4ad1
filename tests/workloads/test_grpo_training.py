"""Reinforcement learning on the trainer: a base, adapters on it, exact resume within a round, meshes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.training.harness import RecordingRun, after, composed
from tests.workloads.decoder.small import SMALL
from trialfleet.config import Config
from trialfleet.errors import UserError
from trialfleet.training import checkpoints, evaluate, train, trees
from trialfleet.training.mesh import batch_sharding, replicated
from trialfleet.training.setup import Setup
from trialfleet.trial.run import Preempted, Stop

pytestmark = pytest.mark.xdist_group("grpo")  # one worker: the base and the programs are made once

BASE = ("workload=grpo_base", "model.lora_rank=null", "training.max_epochs=2", "stages.next_token_epochs=1")
POLICY = (
    "grpo.num_iterations=2",
    "generation.max_generation_steps=6",
    "training.max_steps=6",
    "training.report_every=1",
    "training.eval_every=3",
)
TENSOR = ("mesh.data=2", "mesh.fsdp=2", "mesh.tp=2")
MICRO = ("training.per_device_batch=2",)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The checkpoint of a base model that has learned hardly anything."""
    run = RecordingRun(tmp_path_factory.mktemp("base"))
    train(composed(*SMALL, *BASE), run)
    return max(path.parent for path in run.checkpoints.glob("*/manifest.json"))


@pytest.fixture(scope="module")
def uncut(base, tmp_path_factory) -> tuple[RecordingRun, Any]:
    """A whole training of a policy, and its outcome."""
    run = RecordingRun(tmp_path_factory.mktemp("whole"))
    compiled: Counter[str] = Counter()

    def took(event: str, seconds: float, **more: str | int) -> None:
        compiled[str(more.get("fun_name"))] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(took)
    outcome = train(policy_on(base), run)
    jax.monitoring.unregister_event_duration_listener(took)
    # Three rounds of two updates, two evaluations; prefill, decoding and reading are one program. (The others a test
    # before this one may have compiled.)
    assert compiled["jit(evaluate)"] == 1
    assert max(compiled[f"jit({name})"] for name in ("init", "roll", "step")) <= 1
    return run, outcome


def policy_on(base: Path, *overrides: str) -> Config:
    return composed(*SMALL, *POLICY, f"training.init_from={base}", *overrides)


@pytest.mark.slow
@pytest.mark.parametrize(("cut", "step"), [(4, 1), (8, 3)])  # between two updates, and while preparing
def test_a_training_cut_within_a_round_goes_on_bit_for_bit(base, uncut, new_run, cut, step):
    config = policy_on(base)
    whole, outcome = uncut
    first = new_run(stop=after(cut, Stop.PREEMPT))
    with pytest.raises(Preempted):
        train(config, first)
    second = new_run(earlier=[first])
    assert train(config, second) == outcome
    assert second.notes["resumed_from"] == step
    merged = {(step, tuple(values)): values for run in (first, second) for step, values in run.untimed()}
    assert merged == {(step, tuple(values)): values for step, values in whole.untimed()}
    report = whole.notes["init_from"]
    assert report["taken"] == 12 + 2
    assert all("_lora_" in path for path in report["not_there"])
    # The base is in no checkpoint of the policy.
    saved = checkpoints.contents(whole.checkpoints / "00000006")
    assert not any("q_einsum" in name and "_lora_" not in name for name in saved)
    # On the first update of a round the policy is the one that drew the completions.
    assert whole.reported("train/clip_fraction")[1] == 0
    assert whole.reported("train/tokens_per_second")[1] > 0
    rewards = whole.reported("train/reward_mean")
    first, second = rewards[1], rewards[3]  # two updates are made on each batch
    running = whole.reported("train/reward_running_mean")
    assert running[1] == running[2] == pytest.approx(first, abs=1e-5)
    assert running[3] == pytest.approx((0.9 * first + second) / 1.9, abs=1e-5)


def agree(others: Sequence[Sequence[str]], steps: int) -> None:
    """The losses of so many steps on a stored rollout are those of one device."""
    stored: dict[str, np.ndarray] = {}
    curves = []
    for overrides in ((), *others):
        setup = Setup(policy_on(Path("unread"), "optimizer.learning_rate=1e-2", *overrides))
        state, frozen = setup.program.init(setup.inputs.hp, setup.inputs.seed)
        stored = stored or rolled_out(setup, trees.merge(state.params, frozen))
        parts = setup.program.accumulation
        batch = {name: leaf.reshape(parts, 8 // parts, *leaf.shape[2:]) for name, leaf in stored.items()}
        batch = jax.device_put(batch, batch_sharding(setup.mesh))
        curve = []
        for _ in range(steps):
            state, signals = setup.program.step(state, frozen, batch, setup.inputs)
            curve.append(setup.program.signals.means(np.asarray(signals))["loss"])
        curves.append(curve)
    assert max(curves[0]) - min(curves[0]) > 1e-3
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=1e-5)


@pytest.mark.slow
def test_losses_on_a_stored_rollout_are_the_same_on_a_mesh_and_in_micro_batches():
    """On another mesh, and for longer, in benchmarks/proofs."""
    agree((TENSOR, MICRO), steps=8)


def rolled_out(setup: Setup, params: Any) -> dict[str, np.ndarray]:
    """A prepared batch, with advantages as if some completions had been better than others."""

    class Going:
        mesh = setup.mesh

        def stop(self) -> bool:
            return False

        def generated(self, tokens: int) -> None:
            assert tokens > 0

    source = setup.train_source
    plan = source.epoch(0, 0)[0]
    examples = [source.example(row, np.random.default_rng(row)) for row in plan.rows]
    batch = {name: leaf[None] for name, leaf in source.collate(examples, plan.bucket).items()}
    placed = jax.device_put(batch, batch_sharding(setup.mesh))
    key = jax.device_put(jax.random.key(7), replicated(setup.mesh))
    with jax.set_mesh(setup.mesh):
        found = setup.workload.prepare(Going(), params, {"reward": np.zeros(2)}, placed, key, setup.hp)
    assert found is not None
    found["advantage"] = np.random.default_rng(0).normal(size=found["advantage"].shape)
    return {
        name: np.asarray(leaf, np.int32 if "int" in str(leaf.dtype) else np.float32) for name, leaf in found.items()
    }


@pytest.mark.slow
def test_a_checkpoint_is_not_judged_beside_another_base(base, uncut, new_run):
    """Say of one that was lost, and made anew on another machine."""
    whole, _ = uncut
    config, last = policy_on(base), str(whole.checkpoints / "00000006")
    assert evaluate(config, new_run(), last)["val/accuracy"] >= 0
    drawn = replace(config, training=replace(config.training, init_from=None))
    with pytest.raises(UserError, match=r"the frozen weights are not those that .*00000006 was trained on"):
        evaluate(drawn, new_run(), last)


@pytest.mark.slow
def test_a_stop_breaks_the_preparation_off(base, new_run):
    run = new_run(stop=lambda: Stop.PREEMPT)
    with pytest.raises(Preempted):
        train(policy_on(base), run)
