"""The video networks in the trainer beside the same in plain JAX: `python -m benchmarks.trainer_video`.

Of each network: the compiled step, and steps of the trainer's whole loop, which makes its batches ready, reports and
polls for stops; the peer has its batch already. Both have the same weights and clips. First it is checked that three
updates lead both to the same weights, without which no time means anything. Calls take turns (A B B A), so that
whatever else the machine does hits both. A ratio is one of median times, and beside it one of the least processor
times, which hardly knows of others on the machine; the last column is the peer against itself. Target: ≤ 1.05.
"""

import os
import statistics
import sys
import time
from functools import partial
from typing import Any, NamedTuple

os.environ["PJRT_NPROC"] = "1"

from pathlib import Path

from hydra import compose, initialize_config_dir

from benchmarks.trainer_grpo import Seconds, in_turns, norm, timed
from benchmarks.trainer_steps import TimedRun
from trialfleet.config import load
from trialfleet.config.mvfoul import MvfoulConfig
from trialfleet.training import environment, train

COMMON = (
    "workload=mvfoul",
    "freezing=none",
    "scheduler=constant",
    "optimizer.eps=1e-3",  # with less, the sign of gradients that are nothing but rounding would move weights
    "scheduler.warmup_ratio=0",
    "class_balance=none",
    "loss=plain",
    "model.dropout=0",
    "mesh.data=1",
    "runtime.compilation_cache=null",
    "training.max_epochs=1000",
    "training.report_every=1",
    "training.eval_every=100000",
    "training.eval_batch=1",
    "training.limit_eval_batches=1",
    "training.checkpoints.at_end=false",
    "training.checkpoints.keep_best=0",
)
WARM = 3  # steps of a loop that are not timed


class Size(NamedTuple):
    """A network, and how often what is measured on it."""

    overrides: tuple[str, ...]
    calls: int  # pairs of pairs of single steps
    loops: int  # of blocks of the loop
    length: int  # steps that are timed in a block


MODELS = {
    "resnet3d_tiny": Size(("model=resnet3d_tiny", "training.global_batch=8"), 8, 2, 8),
    "mvit_tiny": Size(("model=mvit_tiny", "training.global_batch=8"), 8, 2, 8),
    "resnet3d, widths 16-32-64": Size(
        ("model=resnet3d_tiny", "model.widths=[16,32,64]", "model.depths=[1,2,1]", "training.global_batch=4"), 4, 1, 4
    ),
    "mvit, widths 32-64-128": Size(
        (
            "model=mvit_tiny",
            "model.widths=[32,64,128]",
            "model.depths=[1,2,3]",
            "dataset.size=64",
            "training.global_batch=2",
        ),
        4,
        1,
        4,
    ),
}


def composed(*overrides: str) -> MvfoulConfig:
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf")):
        config = load(compose("config", overrides=[*COMMON, *overrides]))
    assert isinstance(config, MvfoulConfig)
    return config


class Ours:
    """The trainer's step on the first batch of a training, and its loop."""

    def __init__(self, config: MvfoulConfig) -> None:
        from trialfleet.training.data import Feed, Loader, Position
        from trialfleet.training.mesh import batch_sharding
        from trialfleet.training.setup import Setup

        self.config, self.setup = config, Setup(config)
        self.state, self.frozen = self.setup.program.init(self.setup.inputs.hp, self.setup.inputs.seed)
        sharding = batch_sharding(self.setup.mesh)
        feed = Feed(
            Loader(self.setup.train_source, sharding, config.training.global_batch, 1),
            config.seed,
            Position(0, 0, 0),
            None,
            1,
        )
        self.batch = feed.next().batch
        feed.close()

    def step(self, number: int) -> None:
        import jax

        self.state, signals = self.setup.program.step(self.state, self.frozen, self.batch, self.setup.inputs)
        jax.block_until_ready(signals)

    def loop(self, count: int) -> Seconds:
        """Seconds of one of so many steps of the trainer's loop."""
        run = TimedRun()
        train(self.config, run)
        return per_step(run.times[WARM], run.times[WARM + count], count)


class Peer:
    """The same in plain JAX, from the same weights."""

    def __init__(self, ours: Ours) -> None:
        import jax
        import jax.numpy as jnp

        from benchmarks import trainer_video_peer as plain
        from trialfleet.training import trees

        config, leaves = ours.config, ours.setup.program.layout.leaves
        own: Any = config.optimizer
        rates = {path: own.groups[leaf.group].learning_rate or own.learning_rate for path, leaf in leaves.items()}
        decays = {path: leaf.decays for path, leaf in leaves.items()}
        clip = config.training.gradient_clip or 0.0
        tx = plain.optimizer(own, clip, trees.unflatten(rates), trees.unflatten(decays))
        self.weights = jax.tree.map(jnp.copy, ours.state.params)
        self.state = tx.init(self.weights)
        names = ("video", "mask", "severity", "action")
        self.batch = {name: ours.batch[name][0] for name in names}
        self._update = jax.jit(partial(plain.update, shape_of(config), tx), donate_argnums=(0, 1))

    def step(self, number: int) -> Any:
        import jax

        key = jax.random.key(number)
        self.weights, self.state, loss = self._update(self.weights, self.state, self.batch, key)
        return jax.block_until_ready(loss)

    def loop(self, count: int) -> Seconds:
        began = (0.0, 0.0)
        for n in range(WARM + count):
            if n == WARM:
                began = time.perf_counter(), time.process_time()
            float(self.step(n))
        return per_step(began, (time.perf_counter(), time.process_time()), count)


def per_step(began: Seconds, ended: Seconds, count: int) -> Seconds:
    return (ended[0] - began[0]) / count, (ended[1] - began[1]) / count


def shape_of(config: MvfoulConfig) -> Any:
    from benchmarks import trainer_video_peer as plain

    model: Any = config.model
    transformer = model.name == "mvit"
    return plain.Shape(
        kind=model.name,
        groups=0 if transformer else model.norm_groups,
        heads=model.heads if transformer else (),
        depths=model.depths,
        patch_stride=model.patch_stride if transformer else (),
        key_stride=model.key_stride if transformer else 0,
        smoothing=config.loss.label_smoothing,
        dropout=model.dropout,
    )


def check(name: str, ours: Ours, peer: Peer) -> None:
    """Ends the benchmark if the two do not calculate the same."""
    import jax
    import jax.numpy as jnp

    before = jax.tree.map(jnp.copy, peer.weights)
    for n in range(3):
        ours.step(n)
        peer.step(n)
    moved = norm(jax.tree.map(jnp.subtract, peer.weights, before))
    share = float(norm(jax.tree.map(jnp.subtract, peer.weights, ours.state.params)) / moved)
    print(f"{name}: three updates move weights alike but for {share:.1e} of the way", file=sys.stderr)
    if not share < 1e-2:
        sys.exit("the two do not calculate the same: no time means anything")


def measure(name: str, size: Size) -> None:
    ours = Ours(composed(*size.overrides, f"training.max_steps={WARM + size.length}"))
    peer = Peer(ours)
    check(name, ours, peer)
    parts = {
        "step": (timed(ours.step), timed(peer.step), size.calls),
        "loop": (lambda _: ours.loop(size.length), lambda _: peer.loop(size.length), size.loops),
    }
    for part, (a, b, rounds) in parts.items():
        one, other = in_turns(a, b, rounds)
        mine, plain = (statistics.median(wall for wall, _ in side) for side in (one, other))
        processor = min(own for _, own in one) / min(own for _, own in other)
        noise = statistics.median(other[n][0] / other[n + 1][0] for n in range(0, len(other), 2))
        print(
            f"| {name} | {part} | {1e3 * mine:.0f} | {1e3 * plain:.0f} | **{mine / plain:.3f}** | **{processor:.3f}** "
            f"| {noise:.3f} |",
            flush=True,
        )


def main() -> None:
    environment.prepare(composed(*MODELS["mvit_tiny"].overrides))
    print("| model | part | ours ms | plain JAX ms | ratio | of the processor | plain / plain |")
    print("|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or MODELS:
        measure(name, MODELS[name])


if __name__ == "__main__":
    main()
