"""A workload of a few lines, with everything that a real one may have: groups, units, adapters, state, updates.

It learns y = tanh(x A) B by two layers; `extra` counts the examples that were seen.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from pydantic.dataclasses import dataclass

from trialfleet.config import Config
from trialfleet.config.traced import STRICT, Traced
from trialfleet.training import lora
from trialfleet.training.remat import rematerialized
from trialfleet.training.workload import BatchPlan, Loss, Summary, Workload

WIDTH = 8


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ToyModel:
    layers: int
    rank: int
    alpha: Traced[float]
    updates: int
    bad_from: Traced[float]  # a step from which the loss is not finite


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ToyConfig(Config):
    METRICS: ClassVar[frozenset[str]] = frozenset({"val/error", "train/examples"})

    model: ToyModel


class ToySource:
    def __init__(self, split: str, batch: int) -> None:
        self.split, self.batch = split, batch

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        rows = np.random.default_rng([seed, epoch]).permutation(64 if self.split == "train" else 20)
        last = len(rows) if self.split != "train" else len(rows) - self.batch + 1
        return [BatchPlan(tuple(map(int, rows[i : i + self.batch])), 0) for i in range(0, last, self.batch)]

    def example(self, row: int, rng: np.random.Generator) -> dict[str, Any]:
        x = np.random.default_rng([row, self.split == "train"]).normal(size=WIDTH).astype(np.float32)
        return {"id": row, "weight": 1.0, "x": x, "noise": rng.normal(size=WIDTH).astype(np.float32)}

    def collate(self, examples: Sequence[dict[str, Any]], bucket: int) -> dict[str, np.ndarray]:
        kinds = {"id": np.int32}
        return {name: np.stack([e[name] for e in examples]).astype(kinds.get(name, np.float32)) for name in examples[0]}


class Toy(Workload):
    def __init__(self, config: ToyConfig) -> None:
        self.config = config
        self.updates_per_batch = config.model.updates

    def source(self, split: str) -> ToySource:
        training = self.config.training
        return ToySource(split, training.global_batch if split == "train" else training.eval_batch)

    def init(self, key: jax.Array) -> Any:
        keys = jax.random.split(key, self.config.model.layers + 1)
        layers = {
            f"layer{n}": {"w": jax.random.normal(keys[n], (WIDTH, WIDTH)) / WIDTH**0.5, "b": jnp.zeros(WIDTH)}
            for n in range(self.config.model.layers)
        }
        params = {"body": layers, "head": {"w": jnp.eye(WIDTH)}}
        if self.config.model.rank:
            params = lora.attach(params, ".*layer.*/w", self.config.model.rank, keys[-1])
        return params, {"seen": jnp.zeros(())}

    def axes(self) -> Any:
        layer = {"w": ("embed", "mlp"), "b": ("mlp",)}
        axes = {
            "body": {f"layer{n}": layer for n in range(self.config.model.layers)},
            "head": {"w": ("embed", None)},
        }
        return lora.attach_axes(axes, ".*layer.*/w") if self.config.model.rank else axes

    def group(self, path: str) -> str:
        return path.partition("/")[0]

    def unit(self, path: str) -> str:
        return path.split("/")[1] if path.startswith("body") else "head"

    def release_order(self) -> Sequence[str]:
        return [f"layer{n}" for n in reversed(range(self.config.model.layers))]

    def trained(self, path: str) -> bool:
        return not self.config.model.rank or lora.is_adapter(path) or path.startswith("head")

    def norms(self, batch: Any) -> dict[str, jax.Array]:
        return {"weight": jnp.sum(batch["weight"])}

    def _errors(self, params: Any, x: jax.Array, hp: Any) -> jax.Array:
        target = jnp.roll(jnp.sin(x), 1, axis=-1)
        h = x.astype(params["head"]["w"].dtype)
        scale = hp["model.alpha"] / max(1, self.config.model.rank)

        def block(layer: Any, h: jax.Array) -> jax.Array:
            return h + jnp.tanh(lora.linear(layer, "w", h, scale) + layer["b"])

        for n in range(self.config.model.layers):
            h = rematerialized(block, self.config.training.remat)(params["body"][f"layer{n}"], h)
        return jnp.mean(jnp.square((h @ params["head"]["w"]).astype(jnp.float32) - target), -1)

    def loss(self, params: Any, extra: Any, batch: Any, norms: Any, key: Any, hp: Any) -> Any:
        errors = self._errors(params, batch["x"] + 0.01 * batch["noise"], hp)
        seen = extra["seen"] + jnp.sum(batch["weight"])
        errors = jnp.where(seen > hp["model.bad_from"], jnp.nan, errors)
        share = jnp.sum(errors * batch["weight"]) / norms["weight"]
        return share, Loss({"seen": seen}, {"examples": jnp.sum(batch["weight"])})

    def eval_step(self, params: Any, extra: Any, batch: Any, key: Any, hp: Any) -> Any:
        return {"id": batch["id"], "weight": batch["weight"], "error": self._errors(params, batch["x"], hp)}

    def summarize(self, rows: Any, split: str) -> Summary:
        assert sorted(rows["id"]) == list(range(20))  # each example once, and no padding
        return Summary({"error": float(rows["error"].mean())}, {})


class Rounds(Toy):
    """Makes its batches itself, and updates on each of them more than once."""

    def prepare(self, context: Any, params: Any, extra: Any, batch: Any, key: Any, hp: Any) -> Any:
        if context.stop():
            return None
        return {**batch, "noise": batch["noise"] + jax.random.normal(key, batch["noise"].shape)}
