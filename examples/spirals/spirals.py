"""A workload of your own: two spirals to be told apart, in one file, with one yaml beside it.

    export PYTHONPATH=examples/spirals
    python -m pipelines.train 'hydra.searchpath=[file://examples/spirals/conf]' workload=spirals

and, since whatever can be trained can be swept,

    python -m pipelines.sweep 'hydra.searchpath=[file://examples/spirals/conf]' workload=spirals \
        'optimizer.learning_rate=tag(log, interval(1e-3, 1e-1))' 'model.dropout=interval(0, 0.5)'

What each method must do is said in `trialfleet.training.workload`. (The driver of a sweep imports this file for
the config. Put the config into a file of its own, without jax, to spare it half a second.)
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from pydantic.dataclasses import dataclass

from trialfleet.config import Config
from trialfleet.config.traced import STRICT, Host, Traced
from trialfleet.training.workload import BatchPlan, Loss, Summary, Workload

# ---- the config: every value of it stands in conf/workload/spirals.yaml ---------------------------------------


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Perceptron:
    """A field without a mark is part of the compiled program; `Traced` is an input of it."""

    width: int
    layers: int
    dropout: Traced[float]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Points:
    """`Host` is for the data only: trials that differ in it share a program as well."""

    train: Host[int]
    held_out: Host[int]
    noise: Host[float]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SpiralsConfig(Config):
    """What every training has, and these two groups."""

    METRICS: ClassVar[frozenset[str]] = frozenset({"val/accuracy", "val/loss"})

    model: Perceptron
    dataset: Points


# ---- the data -------------------------------------------------------------------------------------------------


class Spirals:
    """Points on two spirals; a point follows from its number."""

    def __init__(self, config: Points, batch: int, split: str) -> None:
        self.config, self.batch, self.split = config, batch, split

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        if self.split == "train":  # shuffled, and full batches only
            rows = np.random.default_rng([seed, epoch]).permutation(self.config.train)
            rows = rows[: len(rows) // self.batch * self.batch]
        else:
            rows = np.arange(self.config.held_out)
        return [BatchPlan(tuple(map(int, rows[i : i + self.batch])), bucket=0) for i in range(0, len(rows), self.batch)]

    def example(self, row: int, rng: np.random.Generator) -> dict[str, Any]:
        own = np.random.default_rng([row, ["train", "val", "test"].index(self.split)])
        label, turn = row % 2, own.uniform(0.5, 3 * np.pi)
        angle = turn + label * np.pi
        x = np.asarray([np.cos(angle), np.sin(angle)]) * turn / 5 + own.normal(size=2) * self.config.noise
        return {"id": row, "weight": 1.0, "x": x, "label": label}

    def collate(self, examples: Sequence[dict[str, Any]], bucket: int) -> dict[str, np.ndarray]:
        types = {"id": np.int32, "weight": np.float32, "x": np.float32, "label": np.int32}
        return {name: np.stack([example[name] for example in examples]).astype(types[name]) for name in types}


# ---- the workload ---------------------------------------------------------------------------------------------


class SpiralClassifier(Workload):
    """A perceptron that says on which spiral a point lies."""

    def __init__(self, config: SpiralsConfig) -> None:
        self.config = config

    def source(self, split: str) -> Spirals:
        training = self.config.training
        return Spirals(self.config.dataset, training.global_batch if split == "train" else training.eval_batch, split)

    def init(self, key: jax.Array) -> Any:
        model = self.config.model
        sizes = [2, *[model.width] * model.layers, 2]
        keys = jax.random.split(key, len(sizes))
        params = {
            f"layer{n}": {"w": jax.random.normal(keys[n], (a, b)) * (2 / a) ** 0.5, "b": jnp.zeros(b)}
            for n, (a, b) in enumerate(pairwise(sizes))
        }
        return params, ()

    def axes(self) -> Any:
        # How parameters are split on a mesh: 'embed' over fsdp, 'mlp' over tp.
        count = self.config.model.layers + 1
        return {f"layer{n}": {"w": ("embed", "mlp"), "b": ("mlp",)} for n in range(count)}

    def group(self, path: str) -> str:
        return path.partition("/")[0]

    def norms(self, batch: Any) -> Any:
        return {"examples": jnp.sum(batch["weight"])}

    def loss(self, params: Any, extra: Any, batch: Any, norms: Any, key: Any, hp: Any) -> Any:
        losses = self._losses(self._logits(params, batch["x"], hp["model.dropout"], key), batch["label"])
        return jnp.sum(losses * batch["weight"]) / norms["examples"], Loss(extra, {})

    def eval_step(self, params: Any, extra: Any, batch: Any, key: Any, hp: Any) -> Any:
        logits = self._logits(params, batch["x"], 0.0, key)
        right = jnp.argmax(logits, -1) == batch["label"]
        return {
            "id": batch["id"],
            "weight": batch["weight"],
            "right": right,
            "loss": self._losses(logits, batch["label"]),
        }

    def summarize(self, rows: Any, split: str) -> Summary:
        return Summary({"accuracy": float(rows["right"].mean()), "loss": float(rows["loss"].mean())}, files={})

    def _logits(self, params: Any, x: jax.Array, rate: Any, key: jax.Array) -> jax.Array:
        *hidden, last = (params[f"layer{n}"] for n in range(self.config.model.layers + 1))
        for n, layer in enumerate(hidden):
            x = jax.nn.gelu(x @ layer["w"] + layer["b"])
            kept = jax.random.uniform(jax.random.fold_in(key, n), x.shape) >= rate
            x = jnp.where(kept, x / (1 - rate), 0)
        return x @ last["w"] + last["b"]

    def _losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
