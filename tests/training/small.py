"""A workload that says what it must and nothing else: every default of the contract is in use. It fits a line."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from pydantic.dataclasses import dataclass

from trialfleet.config import Config
from trialfleet.config.traced import STRICT
from trialfleet.training.arrays import ArraySource
from trialfleet.training.workload import Workload


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SmallConfig(Config):
    METRICS: ClassVar[frozenset[str]] = frozenset({"val/loss"})


class Small(Workload):
    def source(self, split: str) -> Any:
        x = np.random.default_rng(0).normal(size=(40, 8))
        return ArraySource({"x": x, "y": x.sum(1, keepdims=True)}, split, self.config.training)

    def init(self, key: Any) -> Any:
        return {"line": {"w": jnp.zeros((8, 1)), "b": jnp.zeros(1)}}

    def loss(self, params: Any, extra: Any, batch: Any, norms: Any, key: Any, hp: Any) -> Any:
        return jnp.sum(errors(params, batch) * batch["weight"]) / norms["weight"]

    def eval_step(self, params: Any, extra: Any, batch: Any, key: Any, hp: Any) -> Any:
        return {"loss": errors(params, batch)}


def errors(params: Any, batch: Any) -> Any:
    line = params["line"]
    return jnp.mean(jnp.square(batch["x"] @ line["w"] + line["b"] - batch["y"]), -1)
