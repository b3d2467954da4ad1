"""Speech to text in the trainer beside the same in plain JAX: `python -m benchmarks.trainer_speech SPEECH`.

SPEECH is a list of recordings, such as `python -m jobs.fetch_prompts` makes. Of each model: the compiled step on the
first batch of a training. Both have the same weights and recordings. First it is checked that three updates lead both
to the same weights, without which no time means anything. Calls take turns (A B B A). A ratio is one of median times,
and beside it one of the least processor times; the last column is the peer against itself. Target: ≤ 1.05. Then how
many hours of recordings the loader makes ready in an hour with one core, beside what the step takes in; and the seconds
in which a second of recordings is transcribed.
"""

import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ["PJRT_NPROC"] = "1"

from hydra import compose, initialize_config_dir

from benchmarks.trainer_grpo import in_turns, norm, timed
from trialfleet.config import load
from trialfleet.config.asr_decoder import AsrDecoderConfig
from trialfleet.training import environment

COMMON = (
    "workload=asr_decoder",
    "freezing=none",
    "scheduler=constant",
    "scheduler.warmup_ratio=0",
    "optimizer.eps=1e-3",  # with less, the sign of gradients that are nothing but rounding would move weights
    "optimizer.learning_rate=1e-3",
    "dataset.buckets=[5.0,20.0]",
    "dataset.time_masks=0",
    "dataset.band_masks=0",
    "dataset.cache_mb=0",
    "mesh.data=1",
    "runtime.compilation_cache=null",
)
MODELS = {
    "asr_mini": (("model=asr_mini", "training.global_batch=16"), 8),
    "asr_whisper_tiny": (("model=asr_whisper_tiny", "training.global_batch=4"), 4),
}
BATCHES = 6  # of which the loader's rate is taken


def composed(speech: str, *overrides: str) -> AsrDecoderConfig:
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf")):
        config = load(compose("config", overrides=[*COMMON, f"dataset.train=['{speech}']", *overrides]))
    assert isinstance(config, AsrDecoderConfig)
    return config


class Ours:
    """The trainer's step on the first batch of a training."""

    def __init__(self, config: AsrDecoderConfig) -> None:
        from trialfleet.training.data import Feed, Loader, Position
        from trialfleet.training.mesh import batch_sharding
        from trialfleet.training.setup import Setup

        self.config, self.setup = config, Setup(config)
        self.state, self.frozen = self.setup.program.init(self.setup.inputs.hp, self.setup.inputs.seed)
        loader = Loader(self.setup.train_source, batch_sharding(self.setup.mesh), config.training.global_batch, 1)
        feed = Feed(loader, config.seed, Position(0, 0, 0), None, 1)
        self.batch = feed.next().batch
        feed.close()

    def step(self, number: int) -> None:
        import jax

        self.state, signals = self.setup.program.step(self.state, self.frozen, self.batch, self.setup.inputs)
        jax.block_until_ready(signals)


class Peer:
    """The same in plain JAX, from the same weights."""

    def __init__(self, ours: Ours) -> None:
        import jax
        import jax.numpy as jnp

        from benchmarks import trainer_speech_peer as plain

        config, leaves = ours.config, ours.setup.program.layout.leaves
        self._layers = config.model.encoder.layers, config.model.decoder.layers
        model = config.model
        silence, decoder = model.encoder.hears_silence, model.decoder
        shape = plain.Shape(model.projector.stack, silence, decoder.global_rope_base, decoder.norm_epsilon)
        self.encoder = jax.tree.map(jnp.copy, unstacked(ours.frozen["encoder"], self._layers[0]))
        self.weights = jax.tree.map(jnp.copy, self.of(ours.state.params))
        decays = self.of(_tree({path: leaf.decays for path, leaf in leaves.items()}), stacked=False)
        tx = plain.optimizer(config.optimizer, config.training.gradient_clip or float("inf"), decays)
        self.state = tx.init(self.weights)
        self.batch = {name: ours.batch[name][0] for name in ("features", "frames", "tokens", "weight")}
        self._update = jax.jit(partial(plain.update, shape, tx), donate_argnums=(0, 1))

    def of(self, params: Any, stacked: bool = True) -> Any:
        """The trainer's parameters as the peer has them."""
        decoder = unstacked(params["decoder"], self._layers[1], stacked)
        decoder["embedding"] = decoder.pop("embedder")["input_embedding"]
        return {"projector": params["projector"], "decoder": decoder}

    def step(self, number: int) -> Any:
        import jax

        self.weights, self.state, loss = self._update(self.weights, self.state, self.encoder, self.batch)
        return jax.block_until_ready(loss)


def unstacked(params: Any, layers: int, stacked: bool = True) -> dict[str, Any]:
    """With a list of layers in the place of their stack."""
    import jax

    def layer(number: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[number] if stacked else leaf, params["layers"])

    return {**params, "layers": [layer(number) for number in range(layers)]}


def _tree(flat: dict[str, Any]) -> Any:
    from trialfleet.training import trees

    return trees.unflatten(flat)


def check(name: str, ours: Ours, peer: Peer) -> None:
    """Ends the benchmark if the two do not calculate the same."""
    import jax
    import jax.numpy as jnp

    before = jax.tree.map(jnp.copy, peer.weights)
    for n in range(3):
        ours.step(n)
        peer.step(n)
    moved = norm(jax.tree.map(jnp.subtract, peer.weights, before))
    share = float(norm(jax.tree.map(jnp.subtract, peer.weights, peer.of(ours.state.params))) / moved)
    print(f"{name}: three updates move weights alike but for {share:.1e} of the way", file=sys.stderr)
    if not share < 1e-2:
        sys.exit("the two do not calculate the same: no time means anything")


def measure(name: str, speech: str) -> None:
    overrides, rounds = MODELS[name]
    ours = Ours(composed(speech, *overrides))
    peer = Peer(ours)
    check(name, ours, peer)
    one, other = in_turns(timed(ours.step), timed(peer.step), rounds)
    mine, plain = (statistics.median(wall for wall, _ in side) for side in (one, other))
    processor = min(own for _, own in one) / min(own for _, own in other)
    noise = statistics.median(other[n][0] / other[n + 1][0] for n in range(0, len(other), 2))
    print(
        f"| {name} | {1e3 * mine:.0f} | {1e3 * plain:.0f} | **{mine / plain:.3f}** | **{processor:.3f}** "
        f"| {noise:.3f} |",
        flush=True,
    )
    show_rates(name, ours, mine)


def show_rates(name: str, ours: Ours, step: float) -> None:
    """Hours of recordings an hour: made ready, taken in by steps; and transcribed."""
    import jax
    import numpy as np

    from trialfleet.training.data import examples_of
    from trialfleet.workloads.asr.utterances import FRAMES

    source: Any = ours.setup.train_source
    plans = source.epoch(0, 0)[:BATCHES]
    began, frames = time.process_time(), 0
    for plan in plans:
        rows = list(range(len(plan.rows)))
        frames += int(source.collate(examples_of(source, plan, 0, 0, 0, rows), plan.bucket)["frames"].sum())
    made = frames / FRAMES / (time.process_time() - began)
    taken = float(np.sum(ours.batch["frames"])) / FRAMES / step
    batch = ours.setup.batch_shapes("val")
    evaluation = next(iter(ours.setup.workload.source("val").epoch(0, 0)))
    val: Any = ours.setup.workload.source("val")
    rows = list(range(len(evaluation.rows)))
    given = val.collate(examples_of(val, evaluation, 0, 0, 0, rows), evaluation.bucket)
    short = batch["id"].shape[0] - len(given["id"])
    given = {key: np.concatenate([leaf, np.repeat(leaf[:1], short, 0)]) for key, leaf in given.items()}
    given["weight"][len(rows) :] = 0
    state = (ours.state.params, ours.frozen, ours.state.extra)

    def transcribe(number: int) -> None:
        jax.block_until_ready(
            ours.setup.program.evaluate(*state, given, np.asarray(number, np.int32), ours.setup.inputs)
        )

    call = timed(transcribe)
    seconds = statistics.median(call(n)[0] for n in range(3))
    heard = float(given["frames"].sum()) / FRAMES
    print(
        f"{name}: hours of recordings made ready in an hour of one core {made:.0f}, taken in by steps {taken:.0f}; "
        f"a second is transcribed in {seconds / heard:.3f} s (weights of no training, which write to the last token)",
        flush=True,
    )


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.trainer_speech SPEECH")
    speech = str(Path(sys.argv[1]).expanduser().absolute())
    environment.prepare(composed(speech))
    print("| model | ours ms | plain JAX ms | ratio | of the processor | plain / plain |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        measure(name, speech)


if __name__ == "__main__":
    main()
